//! Tasks of a driver's own thread: what they do in one pass of the scheduler is one turn.

use std::{cell::RefCell, collections::BTreeMap, future::Future, rc::Rc};

use tokio::{sync::oneshot, task::spawn_local};
use twofold_proto::ids::{Endpoint, NodeId, WorkerId};
use twofold_runtime::{
    Directory, Driver, Listener, Local, Mailbox, listener, metrics::DriverMetrics, thread,
};

use crate::toy::{CLUSTER, Effect, Input, Tell, Toy};

const TASKS: u64 = 100;
const ROUNDS: u64 = 20;
const WORKER: WorkerId = WorkerId(0);
const PEER: Endpoint = Endpoint::new(NodeId(2), WORKER);

type Teller = Tell<Box<dyn FnMut(Effect)>>;

/// A connected toy and its peer, both in this thread.
#[derive(Clone)]
struct Asker {
    toy: Local<Toy, Teller>,
    mailbox: Mailbox<Input<'static>>,
    metrics: DriverMetrics,
    peer_metrics: DriverMetrics,
    waiting: Rc<RefCell<BTreeMap<u64, oneshot::Sender<()>>>>,
}

impl Asker {
    async fn start() -> Asker {
        let port = listener::bind("127.0.0.1:0").await.unwrap();
        let directory = Directory::new();
        directory.set(PEER.node, port.local_addr().unwrap().to_string());
        let (mailbox, peer_metrics) = (Mailbox::new(), DriverMetrics::default());
        tokio::spawn(Listener::new([(WORKER, mailbox.door())]).serve(port));
        let peer = Toy::new(PEER.node.0, WORKER, CLUSTER);
        let peer = Driver::new(peer, Tell(drop), mailbox, Directory::new(), peer_metrics.clone());
        spawn_local(peer.run());

        let waiting: Rc<RefCell<BTreeMap<u64, oneshot::Sender<()>>>> = Rc::default();
        let (connected, up) = oneshot::channel();
        let (answers, mut connected) = (waiting.clone(), Some(connected));
        let tell: Box<dyn FnMut(Effect)> = Box::new(move |effect| match effect {
            Effect::Answered(number) => answers.borrow_mut().remove(&number).unwrap().send(()).unwrap(),
            Effect::Connected => connected.take().unwrap().send(()).unwrap(),
            other => panic!("{other:?}"),
        });
        let (mailbox, metrics) = (Mailbox::new(), DriverMetrics::default());
        let toy = Toy::new(1, WORKER, CLUSTER);
        let driver = Driver::new(toy, Tell(tell), mailbox.clone(), directory, metrics.clone());
        let toy = driver.local();
        spawn_local(driver.run());
        toy.step(Input::Connect(PEER));
        up.await.unwrap();
        Asker { toy, mailbox, metrics, peer_metrics, waiting }
    }

    fn answer_to(&self, number: u64) -> impl Future<Output = ()> + use<> {
        let (sender, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, sender);
        async { answer.await.unwrap() }
    }

    async fn ask(&self, number: u64) {
        let answer = self.answer_to(number);
        self.toy.step(Input::Request { to: PEER, number, padding: 100 });
        answer.await;
    }
}

#[test]
fn what_all_tasks_ask_in_one_pass_leaves_in_one_write() {
    thread::runtime().unwrap().block_on(async {
        let asker = Asker::start().await;
        let tasks: Vec<_> = (0..TASKS)
            .map(|name| {
                let asker = asker.clone();
                spawn_local(async move {
                    for round in 0..ROUNDS {
                        asker.ask(name * ROUNDS + round).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(asker.toy.machine().kept_bytes(), 0, "each answer acknowledges its request");
        assert_eq!(asker.metrics.writes.get(), ROUNDS);
        assert_eq!(asker.metrics.frames_in.get(), ROUNDS);
        assert_eq!(asker.peer_metrics.frames_in.get(), ROUNDS);
    });
}

#[test]
fn a_turn_waits_for_the_tasks_that_come_after_the_driver_in_the_pass() {
    thread::runtime().unwrap().block_on(async {
        let asker = Asker::start().await;
        let answer = asker.answer_to(1);
        // This wakes the driver, so it stands before the task in the queue.
        assert!(asker.mailbox.send(Input::Request { to: PEER, number: 1, padding: 0 }).is_ok());
        let behind = asker.clone();
        let task = spawn_local(async move { behind.ask(2).await });
        answer.await;
        task.await.unwrap();
        assert_eq!((asker.metrics.writes.get(), asker.peer_metrics.frames_in.get()), (1, 1));
    });
}
