//! Golden tests of the partition map: how even it is, and what moves when a node leaves or a group is added.

use std::collections::BTreeMap;

use twofold_proto::{
    config::{Address, ClusterConfig, DataNodeConfig},
    ids::{Endpoint, Incarnation, NodeId, PartitionId, ViewNumber},
    limits::PARTITIONS,
    placement::{KeyHash, PartitionMap, partitions_of_groups},
    view::{Member, MemberState, View},
};

fn config(nodes: u16, replicas: u8) -> ClusterConfig {
    let address = |id: u16| Address { host: "127.0.0.1".into(), port: 2202 + id };
    ClusterConfig {
        name: "test".into(),
        replicas,
        partitions: PARTITIONS,
        data_memory: 1 << 30,
        redo_bytes: 64 << 20,
        flush_ms: 100,
        heartbeat_ms: 50,
        lease_ms: 250,
        failure_ms: 500,
        epoch_ms: 20,
        lock_wait_timeout_ms: 5000,
        idle_transaction_ms: 60_000,
        management_nodes: vec![],
        data_nodes: (1..=nodes)
            .map(|id| DataNodeConfig { id: NodeId(id), address: address(id), workers: 0 })
            .collect(),
        memcached: vec![],
        api_nodes: vec![],
    }
}

fn view(nodes: impl IntoIterator<Item = u16>, workers: u16) -> View {
    let member = |id| Member {
        node: NodeId(id),
        incarnation: Incarnation(1),
        state: MemberState::Up,
        workers,
        restored: None,
    };
    View {
        number: ViewNumber(1),
        restart: 1,
        members: nodes.into_iter().map(member).collect(),
        ..View::default()
    }
}

/// The least and the most that any of the keys has.
fn spread<K: Ord>(keys: impl Iterator<Item = K>, expected: usize) -> (usize, usize) {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_insert(0) += 1;
    }
    let least = if counts.len() < expected { 0 } else { *counts.values().min().unwrap() };
    (least, *counts.values().max().unwrap())
}

fn all() -> impl Iterator<Item = PartitionId> {
    (0..PARTITIONS).map(PartitionId)
}

#[test]
fn primaries_and_replicas_are_even_over_nodes_and_workers() {
    for replicas in 1..=4u8 {
        for groups in [1, 2, 3, 4, 5, 7, 8, 12] {
            let nodes = groups * u16::from(replicas);
            if nodes > 48 {
                continue;
            }
            for workers in [1, 2, 3, 4, 7, 8, 16, 32, 64] {
                let config = config(nodes, replicas);
                let map = PartitionMap::new(&config, &view(1..=nodes, workers));
                let what = format!("{nodes} nodes, {replicas} replicas, {workers} workers");
                let primaries = || all().map(|partition| map.primary(partition).unwrap());
                let (least, most) = spread(primaries().map(|primary| primary.node), nodes.into());
                assert!(most - least <= 1, "primaries per node {least}..{most}: {what}");
                let endpoints = usize::from(nodes * workers);
                let (least, most) = spread(primaries(), endpoints);
                assert!(
                    most - least <= 1 + usize::from(most > 1),
                    "primaries per worker {least}..{most}: {what}"
                );
                let replicas_of = all().flat_map(|partition| map.replicas(partition).to_vec());
                let (least, most) = spread(replicas_of.map(|replica| replica.endpoint), endpoints);
                let slack = usize::from(replicas);
                assert!(most - least <= slack, "replicas per worker {least}..{most}: {what}");
            }
        }
    }
}

#[test]
fn the_map_of_four_nodes_is_this_one() {
    let map = PartitionMap::new(&config(4, 2), &view(1..=4, 2));
    let show = |partition| {
        let replicas: Vec<String> = map
            .replicas(PartitionId(partition))
            .iter()
            .map(|replica| format!("{:?}", replica.endpoint))
            .collect();
        format!("{partition}: {}", replicas.join(" "))
    };
    let shown: Vec<String> = [0, 1, 2, 3, 4, 1919, 1920, 1921, 3839].map(show).to_vec();
    let golden = [
        "0: n1w0 n2w0",
        "1: n2w0 n1w0",
        "2: n1w1 n2w1",
        "3: n2w1 n1w1",
        "4: n1w0 n2w0",
        "1919: n2w1 n1w1",
        "1920: n3w0 n4w0",
        "1921: n4w0 n3w0",
        "3839: n4w1 n3w1",
    ];
    assert_eq!(shown, golden);
}

#[test]
fn when_a_node_leaves_only_its_partitions_change_their_primary() {
    for replicas in 2..=4u8 {
        let nodes = 2 * u16::from(replicas);
        let config = config(nodes, replicas);
        let before = PartitionMap::new(&config, &view(1..=nodes, 2));
        for gone in 1..=nodes {
            let after = PartitionMap::new(&config, &view((1..=nodes).filter(|&id| id != gone), 2));
            let mut heirs = Vec::new();
            for partition in all() {
                let (old, new) = (before.primary(partition).unwrap(), after.primary(partition).unwrap());
                if old.node == NodeId(gone) {
                    heirs.push(new.node);
                } else {
                    assert_eq!(old, new, "partition {partition} moved though node {gone} did not serve it");
                }
            }
            let share = usize::from(PARTITIONS) / usize::from(nodes);
            assert!(heirs.len().abs_diff(share) <= 1, "node {gone} had {} primaries", heirs.len());
        }
    }
}

#[test]
fn a_node_that_is_not_up_is_no_primary() {
    let config = config(2, 2);
    let mut view = view(1..=2, 1);
    view.members[0].state = MemberState::Ready;
    let map = PartitionMap::new(&config, &view);
    assert!(all().all(|partition| map.primary(partition).unwrap().node == NodeId(2)));
    assert!(all().all(|partition| map.replicas(partition).len() == 2));
    view.members[1].state = MemberState::Syncing;
    let map = PartitionMap::new(&config, &view);
    assert!(all().all(|partition| map.primary(partition).is_none()));
}

#[test]
fn an_added_group_takes_its_share_from_all_and_nothing_else_moves() {
    for groups in 1..12 {
        let (before, after) =
            (partitions_of_groups(groups, PARTITIONS), partitions_of_groups(groups + 1, PARTITIONS));
        let share = usize::from(PARTITIONS) / (groups + 1);
        for (old, new) in before.iter().zip(&after) {
            assert!(old.starts_with(new), "what stays keeps its rank");
            assert!(new.len() - share <= 1);
        }
        let moved: usize = before.iter().zip(&after).map(|(old, new)| old.len() - new.len()).sum();
        assert_eq!(moved, after[groups].len());
        assert!(
            moved.abs_diff(share) <= 1,
            "{moved} partitions moved to group {groups}, {share} are a share"
        );
        let mut every: Vec<PartitionId> = after.concat();
        every.sort();
        assert!(every.into_iter().eq(all()));
    }
}

#[test]
fn keys_are_even_over_partitions() {
    let mut counts = vec![0u32; PARTITIONS.into()];
    for key in 0..384_000u64 {
        counts[usize::from(KeyHash::of(&key.to_be_bytes()).partition(PARTITIONS).0)] += 1;
    }
    // Poisson with mean 100: six standard deviations.
    assert!(counts.iter().all(|&count| (40..160).contains(&count)), "{:?}", counts.iter().max());
}

#[test]
fn the_hash_of_a_key_is_this_one() {
    // RFC 1321: MD5 ("abc") = 900150983cd24fb0d6963f7d28e17f72.
    let hash = KeyHash::of(b"abc");
    assert_eq!(hash.partition(PARTITIONS), PartitionId((0x9001_5098_3cd2_4fb0_u64 % 3840) as u16));
    assert_eq!(hash.index_seed(), 0xd696_3f7d_28e1_7f72);
}

#[test]
fn endpoints_without_partitions_have_none() {
    let map = PartitionMap::new(&config(2, 2), &view(1..=2, 2));
    let of = |node, worker| {
        map.partitions_at(Endpoint::new(NodeId(node), twofold_proto::ids::WorkerId(worker))).count()
    };
    assert_eq!((of(1, 0), of(1, 1), of(1, 2), of(3, 0)), (1920, 1920, 0, 0));
}
