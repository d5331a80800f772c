//! Between the machine and the rest of the process: its disk thread, its log, and those who wait for answers.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use tokio::sync::oneshot;
use twofold_mgmnode::{
    log::LogWrite,
    node::{AdminCommand, AdminReply, Effect, Input, ManagementNode},
};
use twofold_runtime::{Mailbox, Owner};

use crate::store::Store;

/// What other threads tell the machine.
#[derive(Debug)]
pub enum Message {
    /// Writes up to this one are on disk.
    Persisted(u64),
    /// Somebody asks.
    Admin(u64, AdminCommand),
    /// Milliseconds since 1970.
    WallClock(u64),
}

/// Asks the machine on behalf of people.
#[derive(Clone, Debug)]
pub struct Administration {
    mailbox: Mailbox<Message>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<AdminReply>>>>;

impl Administration {
    /// Asks by this mailbox.
    pub fn new(mailbox: Mailbox<Message>) -> Administration {
        Administration { mailbox, waiting: Waiting::default(), next: Arc::default() }
    }

    /// The machine's answer; none if it has ended.
    pub async fn ask(&self, command: AdminCommand) -> Option<AdminReply> {
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(request, sender);
        if self.mailbox.send(Message::Admin(request, command)).is_err() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&request);
            return None;
        }
        receiver.await.ok()
    }
}

/// Carries out what the machine wants that is not about links.
pub struct Process {
    disk: mpsc::Sender<(u64, LogWrite)>,
    waiting: Waiting,
}

impl Process {
    /// With a thread of its own for the disk, which ends the process if the disk fails: a voter that forgets is worse
    /// than one that is gone.
    ///
    /// # Errors
    /// If the system cannot start the thread.
    pub fn new(
        store: Store,
        mailbox: Mailbox<Message>,
        administration: &Administration,
    ) -> io::Result<Process> {
        let (disk, writes) = mpsc::channel();
        thread::Builder::new().name("disk".into()).spawn(move || serve_disk(store, &writes, &mailbox))?;
        Ok(Process { disk, waiting: administration.waiting.clone() })
    }
}

/// Writes what comes, all that is there at once with one sync.
fn serve_disk(mut store: Store, writes: &mpsc::Receiver<(u64, LogWrite)>, mailbox: &Mailbox<Message>) {
    while let Ok(first) = writes.recv() {
        let (ids, batch): (Vec<u64>, Vec<LogWrite>) = std::iter::once(first).chain(writes.try_iter()).unzip();
        if let Err(error) = store.write(&batch) {
            tracing::error!("cannot write the register, ending: {error}");
            std::process::exit(1);
        }
        if let Some(&last) = ids.last() {
            // A machine that has ended needs it no more.
            let _ = mailbox.send(Message::Persisted(last));
        }
    }
}

impl Owner<ManagementNode> for Process {
    type Message = Message;

    fn input(message: Message) -> Input<'static> {
        match message {
            Message::Persisted(id) => Input::Persisted { id },
            Message::WallClock(millis) => Input::WallClock(millis),
            Message::Admin(request, command) => Input::Admin { request, command },
        }
    }

    fn timer() -> Input<'static> {
        Input::Timer
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Persist { id, write } => {
                self.disk.send((id, write)).expect("the disk thread lives as long as the process");
            }
            Effect::Admin { request, reply } => {
                let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&request);
                if let Some(sender) = waiting {
                    // Whoever asked may have gone.
                    let _ = sender.send(reply);
                }
            }
            Effect::Notice(notice) if notice.is_warning() => tracing::warn!("{notice}"),
            Effect::Notice(notice) => tracing::info!("{notice}"),
            Effect::Link(effect) => unreachable!("the driver carries out {effect:?}"),
        }
    }
}
