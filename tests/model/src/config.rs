//! What is modelled: where the partitions are, what may fail, and which rule is broken on purpose.

/// A data node: an index into [`View`].
pub type Node = u8;
/// A party: an index into [`Config::workers`]; the index after the last is the client.
pub type Party = u8;
/// A participant: 0 is partition p, 1 is partition q.
pub type Partition = u8;

/// Nodes in a view at most.
pub const NODES: usize = 5;
/// Replicas of a partition at most.
pub const REPLICAS: usize = 3;

/// What a view says of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Member {
    /// Not in it.
    Out,
    /// Gets every write, counts for nothing.
    Syncing,
    /// Counted, serves nothing.
    Ready,
    /// Does all.
    Up,
}

/// The members of a view, by node; its number is its place in the register.
pub type View = [Member; NODES];

/// A worker: one partition's replica on one node, or the TC alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Worker {
    /// Its node. Two workers of a node fail together, but adopt views one by one.
    pub node: Node,
    /// The partition of which it holds a replica.
    pub partition: Option<Partition>,
}

/// A rule of the protocol that is left out or broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// An outcome is forgotten before the session has confirmed the answer.
    ForgetBeforeMark,
    /// An outcome is forgotten before its epoch is complete.
    ForgetBeforeComplete,
    /// A participant that knows nothing answers «aborted» without planting a refusal.
    NotFoundIsAborted,
    /// A replica goes on acknowledging frames of a node that its view has dropped.
    AcknowledgeDropped,
    /// An acknowledgement overtakes the view under which its frame was processed.
    AcknowledgeWithoutView,
    /// Write sets and decisions are taken from a live node that the receiver's view has deposed.
    AcceptFromDeposed,
    /// A new primary serves without the state of the other replicas.
    ServeBeforeReplicaStates,
    /// A worker adopts the newest view without those between.
    SkipViews,
    /// A new primary does not tell the others to drop what it lacks.
    OmitDrop,
    /// A new primary refuses before the others have acknowledged the drop.
    RefuseBeforeDropAcknowledged,
    /// A new primary refuses a Prepare while it reconciles, in place of making it wait.
    RefuseWhileReconciling,
    /// A write set counts as confirmed without the buddies.
    ConfirmWithoutBuddy,
    /// A primary in doubt decides before its own write set is confirmed.
    DecideUnconfirmed,
    /// A node becomes `up` without its buddies' word that they count it.
    UpWithoutCounts,
    /// A view that drops an `up` node leaves its `ready` buddies `ready`.
    KeepReadyAtDrop,
    /// A view that hands primaries over leaves other `ready` buddies `ready`.
    KeepReadyAtHandOver,
    /// A copy holds rows and open write sets, but no outcomes.
    CopyWithoutOutcomes,
    /// A primary that does not serve yet lets a replica copy.
    CopyBeforeServing,
    /// The TC gives up by itself after it has sent Prepare.
    AbortAfterPrepare,
    /// The TC commits at the first confirmation.
    CommitOnFirstConfirmation,
    /// A primary in doubt commits without asking.
    DecideAlone,
    /// A new primary does not wait until those who left are fenced.
    SkipFence,
    /// A TC that has told another session that it has nothing of the transaction takes it when it comes.
    AcceptDisowned,
    /// A TC counts a confirmation from before the change of the primary. Not a fault: see docs/model.md.
    CountDeposedConfirmation,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 24] = [
        Mutation::ForgetBeforeMark,
        Mutation::ForgetBeforeComplete,
        Mutation::NotFoundIsAborted,
        Mutation::AcknowledgeDropped,
        Mutation::AcknowledgeWithoutView,
        Mutation::AcceptFromDeposed,
        Mutation::ServeBeforeReplicaStates,
        Mutation::SkipViews,
        Mutation::OmitDrop,
        Mutation::RefuseBeforeDropAcknowledged,
        Mutation::RefuseWhileReconciling,
        Mutation::ConfirmWithoutBuddy,
        Mutation::DecideUnconfirmed,
        Mutation::UpWithoutCounts,
        Mutation::KeepReadyAtDrop,
        Mutation::KeepReadyAtHandOver,
        Mutation::CopyWithoutOutcomes,
        Mutation::CopyBeforeServing,
        Mutation::AbortAfterPrepare,
        Mutation::CommitOnFirstConfirmation,
        Mutation::DecideAlone,
        Mutation::SkipFence,
        Mutation::AcceptDisowned,
        Mutation::CountDeposedConfirmation,
    ];
}

/// One configuration of the model.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name.
    pub name: &'static str,
    /// All workers; those of a partition in its order of preference.
    pub workers: Vec<Worker>,
    /// The worker that is the TC.
    pub coordinator: Party,
    /// The first view.
    pub first: View,
    /// How many views there may be, the first included.
    pub views: usize,
    /// How many nodes views may drop.
    pub drops: usize,
    /// If not empty: the changes that the next views make, in this order and each when its conditions hold.
    pub script: Vec<(Node, Member)>,
    /// Whether the client may ask participants although the TC is in its view.
    pub impatient: bool,
    /// Whether the transaction has yet to come to the TC, and another session asks what became of it.
    pub questioned: bool,
    /// The rule that is broken.
    pub mutation: Option<Mutation>,
}

use Member::{Out, Ready, Syncing, Up};

fn view(members: &[Member]) -> View {
    let mut view = [Out; NODES];
    view[..members.len()].copy_from_slice(members);
    view
}

impl Config {
    fn new(
        name: &'static str,
        p: &[Node],
        q: &[Node],
        tc: Node,
        first: &[Member],
        views: usize,
        drops: usize,
    ) -> Config {
        let replica = |partition| move |&node| Worker { node, partition: Some(partition) };
        let mut workers: Vec<Worker> = p.iter().map(replica(0)).chain(q.iter().map(replica(1))).collect();
        // The TC is a worker that holds a partition, if its node has one.
        let coordinator = workers.iter().position(|worker| worker.node == tc).unwrap_or_else(|| {
            workers.push(Worker { node: tc, partition: None });
            workers.len() - 1
        }) as Party;
        Config {
            name,
            workers,
            coordinator,
            first: view(first),
            views,
            drops,
            script: Vec::new(),
            impatient: false,
            questioned: false,
            mutation: None,
        }
    }

    /// Two groups of two nodes; the TC is the primary of p. One node of each may be dropped.
    pub fn two_groups() -> Config {
        Config::new("two-groups", &[0, 1], &[2, 3], 0, &[Up; 4], 3, 2)
    }

    /// One group of two nodes, each the primary of one participant; one may be dropped.
    pub fn one_group() -> Config {
        Config::new("one-group", &[0, 1], &[1, 0], 0, &[Up; 2], 2, 1)
    }

    /// The same, but the TC is a node of a third group, which may be dropped too.
    pub fn apart() -> Config {
        Config::new("tc-apart", &[0, 1], &[1, 0], 2, &[Up; 3], 3, 2)
    }

    /// p is handed over from node 1 to node 0, the TC; then one of them may be dropped. q is elsewhere.
    pub fn hand_over() -> Config {
        Config::new("hand-over", &[0, 1], &[2], 0, &[Ready, Up, Up], 3, 1)
    }

    /// The same with the TC at q.
    pub fn hand_over_there() -> Config {
        Config::new("hand-over-there", &[0, 1], &[2], 2, &[Ready, Up, Up], 3, 1)
    }

    /// The same with the TC on a node of its own, which may be dropped too.
    pub fn hand_over_apart() -> Config {
        Config::new("hand-over-tc-apart", &[0, 1], &[2], 3, &[Ready, Up, Up, Up], 3, 2)
    }

    /// Node 1 copies p from node 0, becomes `ready`, then `up`; then node 0 may be dropped. The TC is q's node.
    pub fn rejoin() -> Config {
        Config::new("rejoin", &[0, 1], &[2], 2, &[Up, Syncing, Up], 4, 1)
    }

    /// The same with the TC on a node of its own, which may be dropped too.
    pub fn rejoin_apart() -> Config {
        Config::new("rejoin-tc-apart", &[0, 1], &[2], 3, &[Up, Syncing, Up, Up], 5, 2)
    }

    /// Three replicas of p, one of q, with the TC at the second of p: two may be dropped.
    pub fn three() -> Config {
        Config::new("three", &[0, 1, 2], &[3], 1, &[Up; 4], 3, 2)
    }

    /// One group of three, both participants in it; two nodes may be dropped.
    pub fn three_shared() -> Config {
        Config::new("three-shared", &[0, 1, 2], &[1, 2, 0], 1, &[Up; 3], 3, 2)
    }

    /// Three replicas of p: node 2 is copying, node 0 may be dropped.
    pub fn three_rejoin() -> Config {
        Config::new("three-rejoin", &[0, 1, 2], &[3], 3, &[Up, Up, Syncing, Up], 4, 1)
    }

    /// The TC is dropped, node 1 comes back, node 0 is dropped.
    pub fn rejoin_asked_late() -> Config {
        let first = [Up, Syncing, Up, Up];
        let then = [(3, Out), (1, Ready), (1, Up), (0, Out)];
        Config::new("rejoin-asked-late", &[0, 1], &[2], 3, &first, 0, 0).scripted(&then)
    }

    /// Node 0 is dropped while node 2 copies; that goes on with node 1, and p is its as soon as it can be.
    pub fn three_copy_at_drop() -> Config {
        let first = [Up, Up, Syncing, Up];
        let then = [(0, Out), (2, Ready), (2, Up)];
        Config::new("three-copy-at-drop", &[0, 2, 1], &[3], 3, &first, 0, 0).scripted(&then)
    }

    /// Three replicas of p: it is handed over to node 0, which is the TC too; then nodes 1 and 0 are dropped.
    pub fn three_hand_over() -> Config {
        let then = [(0, Up), (1, Out), (0, Out)];
        Config::new("three-hand-over", &[0, 1, 2], &[3], 0, &[Ready, Up, Up, Up], 0, 0).scripted(&then)
    }

    /// Three replicas of p: it is handed over to node 0 and back to node 1; then both are dropped.
    pub fn three_back() -> Config {
        let then = [(0, Up), (0, Out), (1, Out)];
        Config::new("three-back", &[0, 1, 2], &[3], 3, &[Ready, Up, Up, Up], 0, 0).scripted(&then)
    }

    /// Three replicas of p: it is handed over to node 0 while node 2 is `ready`, which becomes `up` after that.
    pub fn three_hand_over_ready() -> Config {
        let first = [Ready, Up, Syncing, Up];
        let then = [(2, Ready), (0, Up), (2, Ready), (2, Up)];
        Config::new("three-hand-over-ready", &[0, 1, 2], &[3], 3, &first, 0, 0).scripted(&then)
    }

    /// These changes in this order, and no others.
    fn scripted(self, script: &[(Node, Member)]) -> Config {
        Config { script: script.to_vec(), ..self }
    }

    /// All of them.
    pub fn all() -> Vec<Config> {
        vec![
            Config::one_group(),
            Config::two_groups(),
            Config::apart(),
            Config::hand_over(),
            Config::hand_over_there(),
            Config::hand_over_apart(),
            Config::rejoin(),
            Config::rejoin_apart(),
            Config::three(),
            Config::three_shared(),
            Config::three_rejoin(),
            Config::rejoin_asked_late(),
            Config::three_copy_at_drop(),
            Config::three_hand_over(),
            Config::three_back(),
            Config::three_hand_over_ready(),
        ]
    }

    /// With an impatient client.
    pub fn impatient(self) -> Config {
        Config { impatient: true, ..self }
    }

    /// With another session that asks, from before the transaction comes to the TC.
    pub fn questioned(self) -> Config {
        Config { questioned: true, ..self }
    }

    /// With a broken rule.
    pub fn mutated(self, mutation: Mutation) -> Config {
        Config { mutation: Some(mutation), ..self }
    }

    /// Whether this rule is broken.
    pub fn breaks(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// The client's index.
    pub fn client(&self) -> Party {
        self.workers.len() as Party
    }

    /// The node of a worker; the client has none.
    pub fn node(&self, party: Party) -> Option<Node> {
        self.workers.get(usize::from(party)).map(|worker| worker.node)
    }

    /// The partition of a worker.
    pub fn partition(&self, party: Party) -> Option<Partition> {
        self.workers.get(usize::from(party))?.partition
    }

    /// What a view says of a party; the client is always there.
    pub fn member(&self, view: &View, party: Party) -> Member {
        self.node(party).map_or(Up, |node| view[usize::from(node)])
    }

    /// A partition's replicas, in its order.
    pub fn replicas(&self, partition: Partition) -> impl Iterator<Item = Party> + '_ {
        (0..self.client()).filter(move |&party| self.partition(party) == Some(partition))
    }

    /// A replica's rank in its partition.
    pub fn rank(&self, party: Party) -> usize {
        let first = self
            .replicas(self.partition(party).expect("a replica"))
            .next()
            .expect("a partition has replicas");
        usize::from(party - first)
    }

    /// The primary: the first that is `up`.
    pub fn primary(&self, view: &View, partition: Partition) -> Party {
        let up = self.replicas(partition).find(|&party| self.member(view, party) == Up);
        up.expect("the register keeps an `up` member in every group")
    }

    /// Whether the TC is in a view.
    pub fn has_coordinator(&self, view: &View) -> bool {
        self.member(view, self.coordinator) != Out
    }
}
