//! Voters that have lost their directories.

use super::*;

/// The node dies, and starts again with an empty directory.
fn lose(driver: &mut Driver, config: &ClusterConfig, id: u16) {
    driver.kill(id);
    driver.stored.remove(&NodeId(id));
    driver.start(config, NodeId(id));
}

fn said(driver: &Driver, id: u16, condition: impl Fn(&Notice) -> bool) -> usize {
    driver.notices.iter().filter(|(node, notice)| *node == NodeId(id) && condition(notice)).count()
}

#[test]
fn a_voter_with_an_empty_directory_catches_up_and_votes_again() {
    for count in [3, 5] {
        for victim in 1..=count {
            let (mut driver, config, [a, b]) = running(count);
            driver.run(200);
            lose(&mut driver, &config, victim);
            assert!(!driver.node(victim).votes());
            driver.until("it votes again", |driver| driver.node(victim).votes());
            assert_eq!(said(&driver, victim, |notice| *notice == Notice::CatchesUp), 1);
            let other = victim % count + 1;
            driver.until("it knows all", |driver| {
                driver.node(victim).register() == driver.node(other).register()
            });
            // It is needed: of three, one more dies.
            for id in (1..=count).filter(|&id| id != victim).take(usize::from(count / 2)) {
                driver.kill(id);
            }
            driver.end(b);
            driver.until("a view without node 12", |driver| newest(driver, a) == "2 r1: 11a=up");
        }
    }
}

/// The leader and one more agree on a view; that one forgets it, and the leader dies: the third does not know it, and
/// the two may not form another.
#[test]
fn a_voter_that_has_forgotten_does_not_help_to_undo_what_was_agreed() {
    let (mut driver, config, [a, b]) = running(3);
    driver.run(200);
    assert_eq!(driver.leader(), Some(1));
    driver.kill(3);
    driver.end(b);
    driver.until("a view without node 12", |driver| newest(driver, a) == "2 r1: 11a=up");
    driver.run(200);
    driver.kill(1);
    lose(&mut driver, &config, 2);
    driver.start(&config, NodeId(3));
    driver.run(10_000);
    assert_eq!((driver.leader(), driver.node(2).votes()), (None, false));
    assert!(driver.node(3).register().view().number < ViewNumber(2));
    let waits_for_1 = |notice: &Notice| *notice == Notice::EmptyDirectory { awaited: vec![NodeId(1)] };
    assert_eq!(said(&driver, 2, waits_for_1), 1);
    driver.start(&config, NodeId(1));
    driver.until("all have it", |driver| {
        (1..=3).all(|id| driver.node(id).votes() && driver.node(id).register().view().number == ViewNumber(2))
    });
    assert_eq!(show_view(driver.node(3).register().view()), "2 r1: 11a=up");
}

#[test]
fn two_of_five_are_made_good_at_once_two_of_three_are_not() {
    let (mut driver, config, [a, b]) = running(5);
    driver.run(200);
    for id in [1, 4] {
        lose(&mut driver, &config, id);
    }
    driver.until("they vote", |driver| [1, 4].iter().all(|&id| driver.node(id).votes()));
    driver.kill(2);
    driver.kill(3);
    driver.end(b);
    driver.until("a view without node 12", |driver| newest(driver, a) == "2 r1: 11a=up");

    let (mut driver, config, [a, b]) = running(3);
    driver.run(200);
    for id in [1, 2] {
        lose(&mut driver, &config, id);
    }
    driver.end(b);
    driver.run(10_000);
    assert_eq!((driver.leader(), newest(&driver, a)), (None, "1 r1: 11a=up 12a=up".into()));
    // Whoever runs it copies the directory that is left.
    let left = driver.stored[&NodeId(3)].clone();
    for id in [1, 2, 3] {
        driver.kill(id);
        driver.stored.insert(NodeId(id), left.clone());
    }
    for id in [1, 2, 3] {
        driver.start(&config, NodeId(id));
    }
    driver.until("a view without node 12", |driver| newest(driver, a) == "2 r1: 11a=up");
}

#[test]
fn it_dies_at_any_moment_while_it_catches_up() {
    let (mut driver, config, [a, b]) = running(3);
    let client = driver.probe(life("0a"), WorkerId(0), "local", [1]);
    driver.run(200);
    for number in 0..20 {
        driver.change(client, number, CatalogChange::CreateTable(table(&format!("t{number}"))));
        driver.run(5);
    }
    driver.until("the tables", |driver| driver.node(1).register().catalog().version == 20);
    for step in 0..40 {
        lose(&mut driver, &config, 3);
        driver.run(5 * step);
        driver.kill(3);
        driver.start(&config, NodeId(3));
        driver.run(50);
    }
    driver.until("it votes", |driver| driver.node(3).votes());
    driver.kill(1);
    driver.end(b);
    driver.until("a view without node 12", |driver| newest(driver, a) == "2 r1: 11a=up");
    assert_eq!(driver.node(3).register().catalog().version, 20);
}

#[test]
fn the_first_start_needs_all_of_them_and_no_word_of_anybody() {
    for count in [3, 5] {
        let config = cluster(count);
        let mut driver = Driver::default();
        driver.now = Time::from_millis(1000);
        for id in 1..count {
            driver.start(&config, NodeId(id));
        }
        driver.run(4000);
        assert_eq!((driver.leader(), said(&driver, 1, |notice| notice.is_warning())), (None, 1));
        driver.start(&config, NodeId(count));
        driver.run(1000);
        assert!(driver.leader().is_some());
        driver.until("all votes", |driver| (1..=count).all(|id| driver.node(id).votes()));
    }
}

/// Whatever the order in which they start, end before they have begun, and hear each other.
#[test]
fn a_first_start_that_is_disturbed_ends_well() {
    for seed in 0..60u64 {
        let mut random = twofold_proto::random::Random::new(seed);
        let count = if seed % 2 == 0 { 3 } else { 5 };
        let config = cluster(count);
        let mut driver = Driver::new(&config);
        for _ in 0..random.below(12) {
            let id = random.between(1, count.into()) as u16;
            driver.run(5 * random.below(20));
            match random.below(3) {
                0 => {
                    driver.kill(id);
                    driver.start(&config, NodeId(id));
                }
                1 => {
                    let other = id % count + 1;
                    driver.cut.push((NodeId(id), NodeId(other)));
                }
                _ => driver.cut.clear(),
            }
        }
        driver.cut.clear();
        driver.until("all votes", |driver| (1..=count).all(|id| driver.node(id).votes()));
        driver.until("a leader", |driver| driver.leader().is_some());
    }
}
