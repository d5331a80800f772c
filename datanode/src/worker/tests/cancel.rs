//! Clients that give up what they have asked for.

use twofold_proto::message::TransactionRef;

use super::*;

impl Cluster {
    fn cancel(&mut self, node: usize, number: u64) {
        self.send(node, Kind::CancelOrd, &number.to_le_bytes());
    }
}

fn refusal(heard: &[Heard]) -> TransactionRef {
    let [(Kind::TransactionRef, body)] = heard else { panic!("{heard:?}") };
    control(body).unwrap()
}

#[test]
fn a_transaction_given_up_in_a_statement_frees_its_locks_everywhere() {
    let mut cluster = Cluster::new(2);
    let keys = keys_at(&cluster, &[0, 1]);
    cluster.write(50, &write(keys[1], 7));
    cluster.settle();
    cluster.hear(1);
    // An older one holds what it waits for, so the write in the first row stays pending.
    cluster.transaction(1, request(1, BEGIN), &[write(keys[1], 1)]);
    cluster.transaction(0, request(2, BEGIN | COMMIT), &[write(keys[0], 2), write(keys[1], 2)]);
    cluster.settle();
    assert_eq!(cluster.hear(0), []);
    cluster.cancel(0, 2);
    assert_eq!((refusal(&cluster.hear(0)).request, cluster.nodes[0].worker.counters.cancelled), (2, 1));
    cluster.settle();
    cluster.write(51, &write(keys[0], 5));
    cluster.settle();
    assert_eq!(cluster.hear(0)[0].0, Kind::WriteConf, "the row is free");
    // At node 1, nobody waits behind the older one any more.
    cluster.transaction(1, TransactionReq { statement: 2, ..request(1, COMMIT) }, &[]);
    cluster.settle();
    cluster.hear(1);
    assert_eq!((cluster.balance(keys[0]), cluster.balance(keys[1])), (Some(5), Some(1)));
}

#[test]
fn a_write_that_waits_is_given_up_and_one_that_is_prepared_is_not() {
    let mut cluster = Cluster::new(2);
    let id = keys_at(&cluster, &[0])[0];
    cluster.transaction(0, request(1, BEGIN), &[write(id, 1)]);
    cluster.hear(0);
    cluster.write(2, &write(id, 2));
    assert_eq!(cluster.hear(0), []);
    cluster.cancel(0, 2);
    let heard = cluster.hear(0);
    assert_eq!(heard.len(), 1);
    let (number, error) = operation_ref(&heard[0].1).unwrap();
    assert_eq!((number, error.code), (2, ErrorCode::Timeout));
    cluster.cancel(0, 2);
    // Between statements it is for the client to roll back.
    cluster.cancel(0, 1);
    assert_eq!(cluster.hear(0), []);
    cluster.transaction(0, TransactionReq { statement: 2, ..request(1, COMMIT) }, &[]);
    cluster.cancel(0, 1);
    cluster.settle();
    assert_eq!(cluster.hear(0)[0].0, Kind::TransactionConf, "only a participant's refusal aborts now");
    cluster.write(3, &write(id, 3));
    cluster.cancel(0, 3);
    cluster.settle();
    assert_eq!(cluster.hear(0)[0].0, Kind::WriteConf);
    assert_eq!((cluster.balance(id), cluster.nodes[0].worker.counters.cancelled), (Some(3), 1));
}
