//! Transactions over lists are serializable, or at READ COMMITTED at least never see or overwrite what is not
//! committed.
//!
//! From the order of each key's versions follows which transaction overwrote, read, or missed what which other wrote;
//! a history is serializable just when these dependencies have no cycle (Adya, *Weak Consistency*, 1999). The kind of
//! a cycle says what was broken:
//!
//! | anomaly | the cycle is of | what it tells |
//! |---|---|---|
//! | G0 | ww | writes of two transactions interleaved: write locks, or the order at a replica |
//! | G1a | – | a read of what aborted |
//! | G1b | – | a read of what its writer had not finished |
//! | G1c | ww, wr | two transactions that each saw the other's effects |
//! | G-single | ww, wr, one rw | read skew, lost update: a read lock lost, a stale read |
//! | G2 | ww, wr, rw | write skew |
//!
//! With [`Options::strict`], who was answered before another began also comes before it, and a cycle that needs this
//! has `-realtime` after its name: a stale read, or an acknowledged write that was lost.
//!
//! The order of two appends that nobody read is not known, so a cycle through both is not found: let a workload end
//! with a read of every list.

use std::collections::BTreeMap;

use twofold_proto::time::Time;

use super::{
    Verdict, Violation,
    graph::{Dependency, Edge, Filter, Graph, Path},
    lists::{self, Lists},
};
use crate::history::{History, Isolation, Key, Value};

/// What is expected of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// At READ COMMITTED only G0 and G1a–c are looked for.
    pub isolation: Isolation,
    /// Whether the order must also be that of real time.
    pub strict: bool,
}

/// Checks the lists of the history; the worst anomaly is reported.
pub fn check(history: &History, options: Options) -> Verdict {
    let lists = lists::infer(history)?;
    let mut graph = Builder::new(&lists);
    graph.add_versions();
    graph.add_reads();
    if options.strict {
        graph.add_real_time();
    }
    graph.find(options)
}

/// Nodes are the history's transactions by their place, and after them nodes that stand for a point that all before
/// it must have passed: they save edges.
struct Builder<'a> {
    lists: &'a Lists<'a>,
    graph: Graph,
    /// The point after each key's last version that was read.
    ends: BTreeMap<Key, usize>,
}

impl<'a> Builder<'a> {
    fn new(lists: &'a Lists<'a>) -> Builder<'a> {
        Builder { lists, graph: Graph::new(lists.transactions.len()), ends: BTreeMap::new() }
    }

    fn writer(&self, key: Key, value: Value) -> usize {
        self.lists.origins[&(key, value)].by
    }

    fn add_versions(&mut self) {
        let kind = Dependency::WriteWrite;
        for (&key, unread) in &self.lists.unread {
            let end = self.graph.add_node();
            self.ends.insert(key, end);
            for &to in unread {
                self.graph.add(end, Edge { to, kind, about: Some((key, None)) });
            }
        }
        for (&key, order) in &self.lists.orders {
            for pair in order.windows(2) {
                let edge = Edge { to: self.writer(key, pair[1]), kind, about: Some((key, Some(pair[1]))) };
                self.graph.add(self.writer(key, pair[0]), edge);
            }
            if let Some(&last) = order.last() {
                self.add_before_unread(self.writer(key, last), key, kind);
            }
        }
    }

    /// Whoever wrote or read the last version comes before all that is unread.
    fn add_before_unread(&mut self, from: usize, key: Key, kind: Dependency) {
        let Some(unread) = self.lists.unread.get(&key) else { return };
        let about = Some((key, None));
        if unread.contains(&from) {
            // Through the common point it would depend on itself.
            unread.iter().for_each(|&to| self.graph.add(from, Edge { to, kind, about }));
        } else {
            self.graph.add(from, Edge { to: self.ends[&key], kind, about });
        }
    }

    fn add_reads(&mut self) {
        for read in &self.lists.reads {
            let (by, key) = (read.by, read.key);
            let order = self.lists.orders.get(&key).map_or(&[][..], Vec::as_slice);
            if let Some(&seen) = order[..read.length].last() {
                let edge = Edge { to: by, kind: Dependency::WriteRead, about: Some((key, Some(seen))) };
                self.graph.add(self.writer(key, seen), edge);
            }
            match order.get(read.length) {
                Some(&next) => {
                    let kind = Dependency::ReadWrite;
                    let edge = Edge { to: self.writer(key, next), kind, about: Some((key, Some(next))) };
                    self.graph.add(by, edge);
                }
                None => self.add_before_unread(by, key, Dependency::ReadWrite),
            }
        }
    }

    /// A chain of points, one after each answer; from the last before a transaction began it is reached.
    fn add_real_time(&mut self) {
        let edge = |to| Edge { to, kind: Dependency::RealTime, about: None };
        let all = || (0..self.lists.transactions.len()).filter(|&n| self.lists.committed[n]);
        let mut answers: Vec<(Time, usize)> =
            all().map(|n| (self.lists.transactions[n].completed(), n)).collect();
        answers.retain(|&(at, _)| at < Time(u64::MAX));
        answers.sort_unstable();
        let mut points: Vec<(Time, usize)> = Vec::new();
        for &(at, transaction) in &answers {
            let point = self.graph.add_node();
            self.graph.add(transaction, edge(point));
            if let Some(&(_, before)) = points.last() {
                self.graph.add(before, edge(point));
            }
            points.push((at, point));
        }
        for n in all() {
            let before = points.partition_point(|&(at, _)| at < self.lists.transactions[n].invoked);
            if before > 0 {
                self.graph.add(points[before - 1].1, edge(n));
            }
        }
    }

    fn find(&self, options: Options) -> Verdict {
        use Dependency::{ReadWrite, RealTime, WriteRead, WriteWrite};
        type Search = fn(&Graph) -> Option<Path>;
        let plain: [(&'static str, Search); 4] = [
            ("G0", |graph| graph.cycle(|kind| kind == WriteWrite)),
            ("G1c", |graph| graph.cycle(|kind| matches!(kind, WriteWrite | WriteRead))),
            ("G-single", |graph| {
                let others: Filter = |kind| matches!(kind, WriteWrite | WriteRead);
                graph.cycle_with_one(|kind| kind == ReadWrite, others, |kind| kind != RealTime)
            }),
            ("G2", |graph| graph.cycle(|kind| kind != RealTime)),
        ];
        let real_time: [(&'static str, Search); 4] = [
            ("G0-realtime", |graph| graph.cycle(|kind| matches!(kind, WriteWrite | RealTime))),
            ("G1c-realtime", |graph| graph.cycle(|kind| kind != ReadWrite)),
            ("G-single-realtime", |graph| {
                graph.cycle_with_one(|kind| kind == ReadWrite, |kind| kind != ReadWrite, |_| true)
            }),
            ("G2-realtime", |graph| graph.cycle(|_| true)),
        ];
        let classes = if options.isolation == Isolation::ReadCommitted { 2 } else { 4 };
        let strict = if options.strict { classes } else { 0 };
        for (anomaly, search) in plain[..classes].iter().chain(&real_time[..strict]) {
            if let Some(cycle) = search(&self.graph) {
                return Err(Violation::new(anomaly, self.explain(&cycle)));
            }
        }
        Ok(())
    }

    /// The cycle in words: a line for each dependency.
    fn explain(&self, cycle: &Path) -> String {
        let transactions = self.lists.transactions;
        let first =
            cycle.iter().position(|&(node, _)| node < transactions.len()).expect("points have no cycle");
        let real: Vec<(usize, Edge)> = (0..cycle.len())
            .map(|n| cycle[(first + n) % cycle.len()])
            .filter(|&(node, _)| node < transactions.len())
            .collect();
        let mut text = String::new();
        for (n, (node, edge)) in real.iter().enumerate() {
            let (a, b) = (transactions[*node].id, transactions[real[(n + 1) % real.len()].0].id);
            let line = match (edge.kind, edge.about) {
                (Dependency::RealTime, _) | (_, None) => {
                    format!("{a:?} was answered before {b:?} began (real time)")
                }
                (Dependency::WriteRead, Some((key, value))) => {
                    let value = value.expect("what was read has a value");
                    format!("{a:?} appended {value} to {key:?}, which {b:?} read (wr)")
                }
                (Dependency::WriteWrite, Some((key, Some(value)))) => {
                    format!("{a:?} appended to {key:?} before {b:?} appended {value} (ww)")
                }
                (Dependency::WriteWrite, Some((key, None))) => {
                    format!("{a:?} appended to {key:?} before {b:?} did (ww)")
                }
                (Dependency::ReadWrite, Some((key, Some(value)))) => {
                    format!("{a:?} read {key:?} without {value}, which {b:?} appended (rw)")
                }
                (Dependency::ReadWrite, Some((key, None))) => {
                    format!("{a:?} read {key:?} without what {b:?} appended (rw)")
                }
            };
            text += if n == 0 { "" } else { "; " };
            text += &line;
        }
        text
    }
}

#[cfg(test)]
mod tests;
