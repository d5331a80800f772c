//! A thread's cluster client, and what connects the frontends' handles with it.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use tokio::{
    sync::{mpsc, watch},
    task::spawn_local,
};
use twofold_apinode::client::{Client, Effect, Input};
use twofold_proto::{config::ClusterConfig, ids::Endpoint};
use twofold_runtime::{Directory, Driver, Local, Mailbox, Owner, metrics::DriverMetrics};

use crate::{
    find::{publish, setup},
    handle::{HandedOut, Handle, Reply, SharedTables, Submission, Tables},
};

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
                publish(&config, &self.directory);
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
    let mut client = Client::new(setup(own, &config));
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
