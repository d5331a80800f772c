//! Dependencies between transactions as a directed graph, and its cycles.

use std::collections::VecDeque;

use crate::history::{Key, Value};

/// Why one transaction comes before another (Adya, *Weak Consistency*, 1999, §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dependency {
    /// The later one overwrote the version that the earlier one wrote.
    WriteWrite,
    /// The later one read it.
    WriteRead,
    /// The earlier one read the version that the later one overwrote.
    ReadWrite,
    /// The earlier one was answered before the later one began.
    RealTime,
}

/// A dependency on the node it leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub to: usize,
    pub kind: Dependency,
    /// The key, and the value that the edge is about, if it is one.
    pub about: Option<(Key, Option<Value>)>,
}

/// Nodes by number, with their outgoing edges.
pub(super) struct Graph {
    edges: Vec<Vec<Edge>>,
}

/// A path: each node with the edge by which it is left.
pub(super) type Path = Vec<(usize, Edge)>;

/// Which kinds of edges to follow.
pub(super) type Filter = fn(Dependency) -> bool;

/// Starts tried in a component to find a short cycle: shortness is for the reader's sake only.
const STARTS_MAX: usize = 16;

impl Graph {
    pub fn new(nodes: usize) -> Graph {
        Graph { edges: vec![Vec::new(); nodes] }
    }

    pub fn add_node(&mut self) -> usize {
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }

    /// Adds an edge, but none from a node to itself: a transaction does not depend on itself.
    pub fn add(&mut self, from: usize, edge: Edge) {
        if from != edge.to {
            self.edges[from].push(edge);
        }
    }

    fn follow(&self, node: usize, filter: Filter) -> impl Iterator<Item = &Edge> {
        self.edges[node].iter().filter(move |edge| filter(edge.kind))
    }

    /// The number of each node's strongly connected component (Tarjan, 1972). An edge leads to the same number or
    /// to a lower one.
    pub fn components(&self, filter: Filter) -> Vec<usize> {
        const UNSEEN: usize = usize::MAX;
        let nodes = self.edges.len();
        let (mut index, mut low, mut component) = (vec![UNSEEN; nodes], vec![0; nodes], vec![UNSEEN; nodes]);
        let (mut counter, mut components, mut stack) = (0, 0, Vec::new());
        for root in 0..nodes {
            if index[root] != UNSEEN {
                continue;
            }
            // The recursion's frames: a node, and the place in its edges.
            let mut frames = vec![(root, 0)];
            while let Some(&mut (node, ref mut place)) = frames.last_mut() {
                if *place == 0 {
                    (index[node], low[node]) = (counter, counter);
                    counter += 1;
                    stack.push(node);
                }
                let edge = self.edges[node].get(*place);
                *place += 1;
                match edge {
                    Some(edge) if !filter(edge.kind) => {}
                    Some(edge) if index[edge.to] == UNSEEN => frames.push((edge.to, 0)),
                    Some(edge) if component[edge.to] == UNSEEN => low[node] = low[node].min(index[edge.to]),
                    Some(_) => {}
                    None => {
                        frames.pop();
                        if let Some(&(parent, _)) = frames.last() {
                            low[parent] = low[parent].min(low[node]);
                        }
                        if low[node] == index[node] {
                            let first =
                                stack.iter().rposition(|&n| n == node).expect("a root is on the stack");
                            stack.drain(first..).for_each(|member| component[member] = components);
                            components += 1;
                        }
                    }
                }
            }
        }
        component
    }

    /// A short cycle of such edges, if there is any.
    pub fn cycle(&self, filter: Filter) -> Option<Path> {
        let component = self.components(filter);
        let mut sizes = vec![0; self.edges.len()];
        component.iter().for_each(|&c| sizes[c] += 1);
        let smallest = (0..sizes.len()).filter(|&c| sizes[c] > 1).min_by_key(|&c| sizes[c])?;
        let starts = (0..component.len()).filter(|&node| component[node] == smallest).take(STARTS_MAX);
        let within = |node: usize| component[node] == smallest;
        starts.filter_map(|start| self.path(start, start, filter, within)).min_by_key(Path::len)
    }

    /// A short cycle of one edge of the first kind and others of the second, which alone have no cycle.
    pub fn cycle_with_one(&self, one: Filter, others: Filter, all: Filter) -> Option<Path> {
        let component = self.components(all);
        let rank = self.components(others);
        let (mut best, mut found): (Option<Path>, usize) = (None, 0);
        for (from, edges) in self.edges.iter().enumerate() {
            for &edge in edges.iter().filter(|edge| one(edge.kind) && component[edge.to] == component[from]) {
                // All edges of a path lead to lower ranks, so nodes below its end need not be looked at.
                let within = |node: usize| rank[node] >= rank[from] && component[node] == component[from];
                let Some(back) = self.path(edge.to, from, others, within) else { continue };
                let cycle: Path = std::iter::once((from, edge)).chain(back).collect();
                if best.as_ref().is_none_or(|best| cycle.len() < best.len()) {
                    best = Some(cycle);
                }
                found += 1;
                if found == STARTS_MAX {
                    return best;
                }
            }
        }
        best
    }

    /// The shortest path of at least one edge, through nodes `within`.
    fn path(&self, from: usize, to: usize, filter: Filter, within: impl Fn(usize) -> bool) -> Option<Path> {
        if !within(from) {
            return None;
        }
        let mut came: Vec<Option<(usize, Edge)>> = vec![None; self.edges.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for &edge in self.follow(node, filter) {
                if came[edge.to].is_some() || !within(edge.to) {
                    continue;
                }
                came[edge.to] = Some((node, edge));
                if edge.to != to {
                    queue.push_back(edge.to);
                    continue;
                }
                let mut path = Vec::new();
                let mut end = to;
                while let Some(step) = came[end] {
                    path.push(step);
                    end = step.0;
                    if end == from {
                        break;
                    }
                }
                path.reverse();
                return Some(path);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graph(edges: &[(usize, usize, Dependency)]) -> Graph {
        let mut graph = Graph::new(8);
        for &(from, to, kind) in edges {
            graph.add(from, Edge { to, kind, about: None });
        }
        graph
    }

    fn nodes(path: Option<Path>) -> Vec<usize> {
        path.into_iter().flatten().map(|(node, _)| node).collect()
    }

    use Dependency::{ReadWrite, WriteRead, WriteWrite};

    #[test]
    fn the_smallest_cycle_of_the_kind_is_found() {
        let edges = [
            (0, 1, WriteWrite),
            (1, 2, WriteWrite),
            (2, 0, WriteWrite),
            (3, 4, WriteRead),
            (4, 3, WriteWrite),
        ];
        let graph = graph(&edges);
        assert_eq!(nodes(graph.cycle(|kind| kind == WriteWrite)), [0, 1, 2]);
        assert_eq!(nodes(graph.cycle(|_| true)), [3, 4]);
        assert!(graph.cycle(|kind| kind == WriteRead).is_none());
    }

    #[test]
    fn a_cycle_with_one_such_edge_is_not_one_with_two() {
        let rw: Filter = |kind| kind == ReadWrite;
        let others: Filter = |kind| kind != ReadWrite;
        let two = [(0, 1, ReadWrite), (1, 2, WriteRead), (2, 3, ReadWrite), (3, 0, WriteWrite)];
        assert!(graph(&two).cycle_with_one(rw, others, |_| true).is_none());
        let mut one = two.to_vec();
        one.push((1, 0, WriteWrite));
        assert_eq!(nodes(graph(&one).cycle_with_one(rw, others, |_| true)), [0, 1]);
    }

    proptest! {
        #[test]
        fn components_agree_with_reachability(edges in proptest::collection::vec((0usize..8, 0usize..8), 0..20)) {
            let edges: Vec<_> = edges.into_iter().map(|(a, b)| (a, b, WriteWrite)).collect();
            let graph = graph(&edges);
            let mut reach = [[false; 8]; 8];
            edges.iter().for_each(|&(a, b, _)| reach[a][b] = true);
            for k in 0..8 {
                for i in 0..8 {
                    for j in 0..8 {
                        reach[i][j] |= reach[i][k] && reach[k][j];
                    }
                }
            }
            let component = graph.components(|_| true);
            for i in 0..8 {
                for j in 0..8 {
                    let same = i == j || reach[i][j] && reach[j][i];
                    prop_assert_eq!(component[i] == component[j], same);
                    prop_assert!(!reach[i][j] || component[j] <= component[i]);
                }
            }
            let cyclic = (0..8).any(|i| (0..8).any(|j| i != j && reach[i][j] && reach[j][i]));
            prop_assert_eq!(graph.cycle(|_| true).is_some(), cyclic);
        }
    }
}
