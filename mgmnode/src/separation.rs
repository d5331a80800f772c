//! Which of the nodes that cannot all hear each other stay.

/// Steps of the search at most; far more than clusters with a few faults need. Past them the best so far is taken,
/// if there is one.
const STEPS_MAX: u32 = 200_000;

/// The largest set of nodes `0..groups.len()` of which no two are separated and which has a node of each of
/// `group_count` groups; of sets as large, the one that keeps the lower nodes. `groups` names each node's group.
///
/// This is minimum vertex cover with a condition: a search by branch and bound, which decides node by node and tries
/// «stays» first, so that the first of the best sets found is the one with the lower nodes. A maximal matching of the
/// undecided nodes bounds from below how many more must go.
pub fn keep(
    groups: &[usize],
    group_count: usize,
    separated: impl Fn(usize, usize) -> bool,
) -> Option<Vec<usize>> {
    let count = groups.len();
    let neighbours: Vec<Vec<usize>> = (0..count)
        .map(|a| (0..count).filter(|&b| a != b && separated(a.min(b), a.max(b))).collect())
        .collect();
    let mut members = vec![0; group_count];
    for &group in groups {
        members[group] += 1;
    }
    if members.contains(&0) {
        return None;
    }
    let mut search = Search {
        groups,
        neighbours,
        state: vec![State::Open; count],
        members,
        removed: 0,
        best: None,
        steps: 0,
    };
    search.decide(0);
    search.best.map(|(_, kept)| kept)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Kept,
    Removed,
}

struct Search<'a> {
    groups: &'a [usize],
    neighbours: Vec<Vec<usize>>,
    state: Vec<State>,
    /// Nodes of each group that are not removed.
    members: Vec<usize>,
    removed: usize,
    /// How many go, and who stays.
    best: Option<(usize, Vec<usize>)>,
    steps: u32,
}

impl Search<'_> {
    fn decide(&mut self, mut node: usize) {
        self.steps += 1;
        let bound = self.best.as_ref().map_or(usize::MAX, |(removed, _)| *removed);
        if self.steps > STEPS_MAX || self.removed + self.matching(bound) >= bound {
            return;
        }
        // Whoever is separated from nobody that may stay, stays.
        while node < self.state.len() && (self.state[node] == State::Removed || self.is_free(node)) {
            node += 1;
        }
        if node == self.state.len() {
            let kept = (0..node).filter(|&node| self.state[node] != State::Removed).collect();
            self.best = Some((self.removed, kept));
            return;
        }
        let rivals: Vec<usize> =
            self.neighbours[node].iter().copied().filter(|&other| self.state[other] == State::Open).collect();
        self.state[node] = State::Kept;
        if self.remove(&rivals) {
            self.decide(node + 1);
        }
        self.restore(&rivals);
        self.state[node] = State::Open;
        if self.remove(&[node]) {
            self.decide(node + 1);
        }
        self.restore(&[node]);
    }

    fn is_free(&self, node: usize) -> bool {
        self.neighbours[node].iter().all(|&other| self.state[other] == State::Removed)
    }

    /// Removes the nodes; returns whether every group still has one.
    fn remove(&mut self, nodes: &[usize]) -> bool {
        for &node in nodes {
            self.state[node] = State::Removed;
            self.members[self.groups[node]] -= 1;
        }
        self.removed += nodes.len();
        nodes.iter().all(|&node| self.members[self.groups[node]] > 0)
    }

    fn restore(&mut self, nodes: &[usize]) {
        for &node in nodes {
            self.state[node] = State::Open;
            self.members[self.groups[node]] += 1;
        }
        self.removed -= nodes.len();
    }

    /// The size of a maximal matching of open nodes: each of its pairs costs a node. Not computed without a bound.
    fn matching(&self, bound: usize) -> usize {
        if bound == usize::MAX {
            return 0;
        }
        let mut matched = vec![false; self.state.len()];
        let mut pairs = 0;
        for node in 0..self.state.len() {
            let free = |other: usize, matched: &[bool]| self.state[other] == State::Open && !matched[other];
            if !free(node, &matched) {
                continue;
            }
            let partner = self.neighbours[node].iter().copied().find(|&other| free(other, &matched));
            if let Some(other) = partner {
                matched[node] = true;
                matched[other] = true;
                pairs += 1;
            }
        }
        pairs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by trying all sets.
    fn brute_force(groups: &[usize], group_count: usize, edges: &[(usize, usize)]) -> Option<Vec<usize>> {
        let count = groups.len();
        let sets =
            (0u32..1 << count).map(|set| (0..count).filter(|node| set >> node & 1 == 1).collect::<Vec<_>>());
        sets.filter(|kept| !edges.iter().any(|(a, b)| kept.contains(a) && kept.contains(b)))
            .filter(|kept| (0..group_count).all(|group| kept.iter().any(|&node| groups[node] == group)))
            .min_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)))
    }

    proptest! {
        #[test]
        fn it_is_the_best_set(
            replicas in 1usize..=4,
            group_count in 1usize..=4,
            edges in proptest::collection::vec((0usize..12, 0usize..12), 0..30),
        ) {
            let count = (replicas * group_count).min(12) / group_count * group_count;
            let groups: Vec<usize> = (0..count).map(|node| node / (count / group_count)).collect();
            let edges: Vec<(usize, usize)> =
                edges.into_iter().filter(|&(a, b)| a < b && b < count).collect();
            let found = keep(&groups, group_count, |a, b| edges.contains(&(a, b)));
            prop_assert_eq!(found, brute_force(&groups, group_count, &edges));
        }
    }

    #[test]
    fn a_large_cluster_that_splits_in_the_middle_is_decided_at_once() {
        let groups: Vec<usize> = (0..144).map(|node| node / 2).collect();
        let kept = keep(&groups, 72, |a, b| a % 2 != b % 2).unwrap();
        assert_eq!(kept, (0..144).step_by(2).collect::<Vec<_>>());
        let kept = keep(&groups, 72, |a, b| a / 2 == b / 2).unwrap();
        assert_eq!(kept, (0..144).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn a_hopeless_search_ends() {
        // Groups of four, and pairs lost all over: the exact answer may be out of reach, a legal one is not.
        let groups: Vec<usize> = (0..144).map(|node| node / 4).collect();
        let lost = |a: usize, b: usize| a / 4 == b / 4 && (a * 7 + b * 13) % 5 < 2 || (a * b) % 29 == 1;
        if let Some(kept) = keep(&groups, 36, lost) {
            assert!(kept.iter().all(|&a| kept.iter().all(|&b| a >= b || !lost(a, b))));
        }
    }
}
