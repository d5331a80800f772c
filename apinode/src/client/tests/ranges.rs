//! Scans by index: who is asked, what is certain, and what a view change does to it.

use twofold_proto::{
    ids::{IndexId, TableId},
    index::EntryRange,
    message::{RangeConf, RangeReq},
};

use super::*;
use crate::request::RangeStep;

fn range(from: &[u8], to: Option<&[u8]>) -> EntryRange {
    EntryRange { from: from.to_vec(), to: to.map(<[u8]>::to_vec) }
}

fn step(descending: bool, rows: u32) -> RangeStep {
    RangeStep {
        table: TableId(3),
        schema_version: 2,
        index: IndexId(5),
        partition: None,
        range: range(b"b", Some(b"y")),
        descending,
        rows,
        program: vec![4, 0xff, 0xff],
        deadline: None,
    }
}

impl Net {
    /// The only request that came to a node.
    fn asked(&mut self, node: u16) -> (u32, Option<ViewNumber>, EntryRange) {
        let body = self.one(node, Kind::RangeReq);
        let RangeReq { request, view, range, .. } = RangeReq::parse(&body).unwrap();
        (request, view, range)
    }

    /// Rows whose results are their entries.
    fn found(&mut self, node: u16, request: u32, rest: Option<EntryRange>, entries: &[&[u8]]) {
        self.tell(worker(node), Kind::RangeConf, |out| {
            RangeConf { request, rest, rows: entries.len() as u32 }.encode(out);
            for entry in entries {
                out.put_block(entry);
                out.put_block(entry);
            }
        });
    }

    fn rows(&mut self) -> (Option<EntryRange>, Vec<String>) {
        let Answer::Range { rest, rows } = self.answer() else { panic!() };
        (rest, rows.iter().map(|row| String::from_utf8(row.unwrap().to_vec()).unwrap()).collect())
    }
}

#[test]
fn each_primary_is_asked_once_and_what_is_certain_is_answered_in_order() {
    let mut net = Net::ready(1);
    net.submit(4, Request::RangeStep(step(false, 0)));
    let view = Some(net.view.number);
    let (first, second) = (net.asked(11), net.asked(12));
    assert_eq!((first.1, second.1), (view, view));
    assert_eq!((&first.2, &second.2), (&range(b"b", Some(b"y")), &range(b"b", Some(b"y"))));
    // One has told of all up to p, the other of all.
    net.found(12, second.0, Some(range(b"p", Some(b"y"))), &[b"c", b"f"]);
    net.found(11, first.0, None, &[b"d", b"e", b"q"]);
    let (rest, rows) = net.rows();
    assert_eq!((rest, rows.concat()), (Some(range(b"p", Some(b"y"))), "cdef".into()));
    assert!(net.client.is_idle());
    net.client.check();
    // From the end.
    net.submit(5, Request::RangeStep(step(true, 0)));
    let (first, second) = (net.asked(11), net.asked(12));
    net.found(11, first.0, Some(range(b"b", Some(b"k"))), &[b"q", b"m"]);
    net.found(12, second.0, Some(range(b"b", Some(b"f"))), &[b"r", b"k", b"h"]);
    let (rest, rows) = net.rows();
    assert_eq!((rest, rows.concat()), (Some(range(b"b", Some(b"k"))), "rqmk".into()));
    // The last ones.
    net.submit(6, Request::RangeStep(step(false, 0)));
    let (first, second) = (net.asked(11), net.asked(12));
    net.found(11, first.0, None, &[]);
    net.found(12, second.0, None, &[b"r"]);
    assert_eq!(net.rows(), (None, vec!["r".to_string()]));
}

#[test]
fn no_more_rows_come_than_were_asked_for() {
    let mut net = Net::ready(1);
    for (descending, expected, rest) in
        [(false, "cd", range(b"d\0", Some(b"y"))), (true, "hf", range(b"b", Some(b"f")))]
    {
        net.submit(4, Request::RangeStep(step(descending, 2)));
        let (first, second) = (net.asked(11), net.asked(12));
        let (one, two): ([&[u8]; 2], [&[u8]; 2]) = match descending {
            false => ([b"c", b"f"], [b"d", b"h"]),
            true => ([b"f", b"c"], [b"h", b"d"]),
        };
        net.found(11, first.0, None, &one);
        net.found(12, second.0, None, &two);
        let (left, rows) = net.rows();
        assert_eq!((left, rows.concat()), (Some(rest), expected.into()));
    }
}

#[test]
fn a_view_change_begins_a_step_anew() {
    let mut net = Net::ready(1);
    net.submit(4, Request::RangeStep(step(false, 0)));
    let (first, second) = (net.asked(11), net.asked(12));
    // What the one has answered is of other partitions than what it will answer for both.
    net.found(12, second.0, None, &[b"c"]);
    net.drop_node(11);
    let (again, view, _) = net.asked(12);
    assert_eq!(view, Some(net.view.number));
    assert_ne!(view, first.1);
    net.found(12, again, None, &[b"c", b"d"]);
    assert_eq!(net.rows().1.concat(), "cd");
    assert!(net.client.is_idle());
    net.client.check();
}

#[test]
fn who_is_ahead_of_the_view_is_asked_again_under_it() {
    let mut net = Net::ready(1);
    net.submit(4, Request::RangeStep(step(false, 0)));
    let (first, second) = (net.asked(11), net.asked(12));
    net.found(11, first.0, None, &[b"c"]);
    net.refuse(12, second.0, ErrorCode::PrimaryChanged);
    // It waits for the view that the worker has.
    net.drop_node(11);
    let (again, ..) = net.asked(12);
    net.found(12, again, None, &[b"d"]);
    assert_eq!(net.rows().1.concat(), "d");
}

#[test]
fn a_step_of_one_partition_follows_its_primary() {
    let mut net = Net::ready(1);
    let alone = RangeStep { partition: Some(PartitionId(2)), ..step(false, 0) };
    net.submit(4, Request::RangeStep(alone));
    let (_, view, _) = net.asked(11);
    assert_eq!(view, None);
    net.drop_node(11);
    let (again, view, _) = net.asked(12);
    assert_eq!(view, None);
    net.found(12, again, None, &[b"x"]);
    assert_eq!(net.rows().1.concat(), "x");
}

#[test]
fn a_step_that_fails_at_one_worker_fails_when_all_have_answered() {
    let mut net = Net::ready(1);
    net.submit(4, Request::RangeStep(step(false, 0)));
    let (first, second) = (net.asked(11), net.asked(12));
    net.refuse(12, second.0, ErrorCode::BadValue);
    assert!(net.effects.is_empty());
    net.found(11, first.0, None, &[b"c"]);
    assert_eq!(net.failure().error.code, ErrorCode::BadValue);
    let long = RangeStep { range: range(&[1; 20_000], None), ..step(false, 0) };
    net.submit(5, Request::RangeStep(long));
    assert_eq!(net.failure().error.code, ErrorCode::Malformed);
    assert!(net.client.is_idle());
}
