//! A thread's cluster client, and what connects the frontends' handles with it.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, watch},
    task::spawn_local,
    time,
};
use twofold_apinode::{
    client::{Bounds, Client, Effect, Input, Setup},
    memcached::item,
    request::{Answer, Request},
};
use twofold_proto::{
    config::ClusterConfig,
    error::{Error, ErrorCode},
    ids::Endpoint,
};
use twofold_runtime::{Clock, Directory, Driver, Local, Mailbox, Owner, clock, metrics::DriverMetrics};

use crate::handle::{HandedOut, Handle, Reply, SharedTables, Submission, Tables};

/// Wait before a table is tried to be created again.
const CREATE_WAIT: Duration = Duration::from_millis(200);

type ThreadClient = Local<Client, ClientOwner>;
type Waiting = Rc<RefCell<HashMap<u64, Reply>>>;

/// What other threads tell a thread's client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// Answer what is there, and end.
    Stop,
}

/// Carries out what a client wants done.
#[derive(Debug)]
pub struct ClientOwner {
    waiting: Waiting,
    mailbox: Mailbox<Message>,
    directory: Directory,
    tables: SharedTables,
    serving: watch::Sender<bool>,
    partitions: u16,
}

impl Owner<Client> for ClientOwner {
    type Message = Message;

    fn input(message: Message) -> Input<'static> {
        match message {
            Message::Stop => Input::Stop,
        }
    }

    fn timer() -> Input<'static> {
        Input::Timer
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { token, answer } => {
                let waiting = self.waiting.borrow_mut().remove(&token);
                let waiting =
                    waiting.unwrap_or_else(|| panic!("request {token} is answered twice, or was not made"));
                waiting.send(answer);
            }
            Effect::Config(config) => {
                fill_directory(&self.directory, &config);
                self.tables.map_keys(&config.memcached);
            }
            Effect::Catalog(catalog) => match Tables::new(&catalog, self.partitions) {
                Ok(tables) => self.tables.publish(tables),
                Err(error) => tracing::error!("catalog {} cannot be used: {error}", catalog.version),
            },
            Effect::Serves(serves) => drop(self.serving.send_replace(serves)),
            Effect::Ended => self.mailbox.stop(),
            Effect::Replies(replies) => unreachable!("no single operations are submitted: {replies:?}"),
            Effect::Link(effect) => unreachable!("the driver carries out {effect:?}"),
        }
    }
}

/// Says where the config's nodes listen.
pub fn fill_directory(directory: &Directory, config: &ClusterConfig) {
    let management = config.management_nodes.iter().map(|node| (node.id, &node.address));
    for (id, address) in management.chain(config.data_nodes.iter().map(|node| (node.id, &node.address))) {
        directory.set(id, address.to_string());
    }
}

/// What a thread's client is made with.
#[derive(Clone, Debug)]
pub struct Connect {
    /// The thread.
    pub own: Endpoint,
    /// The config.
    pub config: Arc<ClusterConfig>,
    /// Where nodes listen.
    pub directory: Directory,
    /// What the process knows of the tables.
    pub tables: SharedTables,
    /// How other threads reach the client.
    pub mailbox: Mailbox<Message>,
}

/// Makes a client in this thread, and a handle on it. The driver is to be run.
pub fn connect(connect: Connect, metrics: DriverMetrics) -> (Driver<Client, ClientOwner>, Handle) {
    let Connect { own, config, directory, tables, mailbox } = connect;
    let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut client = Client::new(Setup {
        own,
        incarnation: clock::incarnation(),
        cluster: config.name.clone(),
        management: config.management_nodes.iter().map(|node| Endpoint::node(node.id)).collect(),
        wall_clock_offset: (wall_clock.as_micros() as u64).saturating_sub(Clock.now().0 / 1000),
        seed: clock::random_seed(),
        bounds: Bounds::default(),
    });
    let (waiting, handed_out) = (Waiting::default(), HandedOut::default());
    client.count_handed_out(Box::new(handed_out.clone()));
    let (handle, submissions) = Handle::new(tables.clone(), handed_out);
    let owner = ClientOwner {
        waiting: waiting.clone(),
        mailbox: mailbox.clone(),
        directory: directory.clone(),
        tables,
        serving: handle.serving().clone(),
        partitions: config.partitions,
    };
    let driver = Driver::new(client, owner, mailbox, directory, metrics);
    spawn_local(submit(driver.local(), submissions, waiting));
    (driver, handle)
}

/// Hands requests to the client.
async fn submit(client: ThreadClient, mut submissions: mpsc::Receiver<Submission>, waiting: Waiting) {
    let mut token = 0;
    while let Some(submission) = submissions.recv().await {
        match submission {
            Submission::Request(request, reply) => {
                token += 1;
                waiting.borrow_mut().insert(token, reply);
                client.step(Input::Submit { token, request });
            }
            Submission::Abandon(handle) => client.step(Input::Abandon { handle }),
        }
    }
}

/// Waits until the cluster serves, and makes the table of memcached's items if it is missing.
pub async fn prepare(handle: &Handle) {
    loop {
        let known = handle.tables().newest();
        if known.is_known() && known.table(item::TABLE).is_ok() {
            return;
        }
        if known.is_known() {
            match handle.submit(Request::CreateTable(item::table())).await {
                Answer::Catalog(version) => {
                    handle.tables().wait_for(version).await;
                    continue;
                }
                // Another API node was faster.
                Answer::Failed(failure) if failure.error.code == ErrorCode::TableExists => {}
                Answer::Failed(failure) => {
                    tracing::warn!("cannot make table `{}` yet: {}", item::TABLE, failure.error)
                }
                other => {
                    let error =
                        Error::new(ErrorCode::Internal, format!("CreateTable was answered with {other:?}"));
                    tracing::error!("{error}");
                }
            }
        }
        time::sleep(CREATE_WAIT).await;
    }
}
