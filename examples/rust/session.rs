//! A transaction of several statements: reads two rows with locks, decides, writes, commits. Who loses against an older one
//! tries again with its age, and so wins in the end.

use bank::{ATTEMPTS, Api, Result, add, balance, connect, open_accounts, read, retrying, timed, transaction};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use twofold_grpc::v1 as pb;

const TABLE: &str = "example_session";

/// Why a statement has failed.
enum Failed {
    /// The transaction is to be run again, with this age.
    Aborted { age: u64 },
    /// That would not help.
    ForGood(String),
}

/// A stream of statements, of which this waits for one at a time.
struct Session {
    requests: mpsc::Sender<pb::SessionRequest>,
    answers: Streaming<pb::SessionResponse>,
}

impl Session {
    async fn open(api: &Api) -> Result<Session> {
        let (requests, receiver) = mpsc::channel(1);
        let answers = api.clone().session(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Session { requests, answers })
    }

    async fn run(&mut self, request: pb::SessionRequest) -> std::result::Result<pb::SessionResponse, Failed> {
        let ended = || Failed::ForGood("the session has ended".into());
        self.requests.send(request).await.map_err(|_| ended())?;
        let answer = self.answers.message().await.map_err(|status| Failed::ForGood(status.to_string()))?;
        let answer = answer.ok_or_else(ended)?;
        match &answer.error {
            None => Ok(answer),
            Some(error) if error.temporary && answer.state() == pb::State::Aborted => {
                Err(Failed::Aborted { age: answer.age })
            }
            Some(error) => Err(Failed::ForGood(error.message.clone())),
        }
    }
}

/// Gives two accounts the same balance, as far as that goes; returns what was moved.
async fn even_out(session: &mut Session, one: i64, other: i64, age: u64) -> std::result::Result<i64, Failed> {
    let operations = [one, other].map(|id| read(TABLE, id, pb::Lock::Exclusive)).to_vec();
    let answer =
        session.run(pb::SessionRequest { begin: true, age, operations, ..Default::default() }).await?;
    let amount = (balance(&answer.results[0]) - balance(&answer.results[1])) / 2;
    let operations = vec![add(TABLE, one, -amount, None), add(TABLE, other, amount, None)];
    session.run(pb::SessionRequest { operations, end: pb::End::Commit.into(), ..Default::default() }).await?;
    Ok(amount)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let api = connect().await?;
    open_accounts(&api, TABLE).await?;
    retrying(async || api.clone().execute(timed(transaction(vec![add(TABLE, 1, 500, None)]))).await).await?;
    let mut session = Session::open(&api).await?;
    let mut last_age = 0;
    for _ in 0..ATTEMPTS {
        match even_out(&mut session, 1, 2, last_age).await {
            Ok(moved) => {
                println!("{moved} moved");
                return Ok(());
            }
            Err(Failed::Aborted { age }) => last_age = age,
            Err(Failed::ForGood(text)) => return Err(text.into()),
        }
    }
    Err("the transaction has been aborted too often".into())
}
