//! Tasks of a driver's own thread: what they do in one pass of the scheduler is one turn.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use tokio::{sync::oneshot, task::spawn_local};
use twofold_proto::ids::{Endpoint, NodeId, WorkerId};
use twofold_runtime::{
    Directory, Driver, Listener, Local, Mailbox, listener, metrics::DriverMetrics, thread,
};

use crate::toy::{CLUSTER, Effect, Input, Tell, Toy};

const TASKS: u64 = 100;
const ROUNDS: u64 = 20;
const WORKER: WorkerId = WorkerId(0);

type Waiting = Rc<RefCell<BTreeMap<u64, oneshot::Sender<()>>>>;

/// Asks, and waits for the answer, some times.
async fn client<F: FnMut(Effect)>(toy: Local<Toy, Tell<F>>, waiting: Waiting, to: Endpoint, name: u64) {
    for round in 0..ROUNDS {
        let number = name * ROUNDS + round;
        let (sender, answer) = oneshot::channel();
        waiting.borrow_mut().insert(number, sender);
        toy.step(Input::Request { to, number, padding: 100 });
        answer.await.unwrap();
    }
}

#[test]
fn what_all_tasks_ask_in_one_pass_leaves_in_one_write() {
    let runtime = thread::runtime().unwrap();
    let (asker, answerer) = (DriverMetrics::default(), DriverMetrics::default());
    let metrics = (asker.clone(), answerer.clone());
    runtime.block_on(async move {
        let port = listener::bind("127.0.0.1:0").await.unwrap();
        let directory = Directory::new();
        directory.set(NodeId(2), port.local_addr().unwrap().to_string());

        let mailbox = Mailbox::new();
        tokio::spawn(Listener::new([(WORKER, mailbox.door())]).serve(port));
        let toy = Toy::new(2, WORKER, CLUSTER);
        spawn_local(Driver::new(toy, Tell(drop), mailbox, Directory::new(), metrics.1).run());

        let waiting = Waiting::default();
        let answers = waiting.clone();
        let (connected, up) = oneshot::channel();
        let mut connected = Some(connected);
        let owner = Tell(move |effect| match effect {
            Effect::Answered(number) => answers.borrow_mut().remove(&number).unwrap().send(()).unwrap(),
            Effect::Connected => connected.take().unwrap().send(()).unwrap(),
            other => panic!("{other:?}"),
        });
        let driver = Driver::new(Toy::new(1, WORKER, CLUSTER), owner, Mailbox::new(), directory, metrics.0);
        let (local, to) = (driver.local(), Endpoint::new(NodeId(2), WORKER));
        spawn_local(driver.run());
        local.step(Input::Connect(to));
        up.await.unwrap();
        let tasks: Vec<_> =
            (0..TASKS).map(|name| spawn_local(client(local.clone(), waiting.clone(), to, name))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(local.machine().kept_bytes(), 0, "each answer acknowledges its request");
    });
    assert_eq!(answerer.frames_in.get(), ROUNDS);
    assert_eq!(asker.frames_in.get(), ROUNDS);
    assert_eq!(asker.writes.get(), ROUNDS);
}
