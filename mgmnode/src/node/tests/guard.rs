//! Management nodes whose directories were lost, while data nodes live on.

use super::*;
use crate::{choice::FORMING_GRACE, log::Stored};

fn refusals(driver: &Driver, client: usize) -> Vec<ErrorCode> {
    let answers = driver.probe_ref(client).answers();
    answers.into_iter().map(|answer| answer.result.unwrap_err().code).collect()
}

fn losses(driver: &Driver) -> Vec<String> {
    let text = |notice: &Notice| match notice {
        Notice::RegisterLost(text) => Some(text.clone()),
        _ => None,
    };
    driver.notices.iter().filter_map(|(_, notice)| text(notice)).collect()
}

/// A cluster at view 1 with one table, whose only management node starts again with what `change` leaves of its disk.
fn started_again(change: impl Fn(&mut Stored)) -> (Driver, [usize; 2]) {
    let (mut driver, config, nodes) = running(1);
    driver.change(nodes[0], 1, CatalogChange::CreateTable(table("t")));
    driver.until("the table", |driver| driver.probe_ref(nodes[1]).catalog() == 1);
    driver.run(200);
    driver.kill(1);
    change(driver.stored.get_mut(&NodeId(1)).unwrap());
    driver.start(&config, NodeId(1));
    (driver, nodes)
}

#[test]
fn a_leader_that_has_forgotten_the_views_decides_nothing_and_says_so() {
    let (mut driver, [a, b]) = started_again(|stored| *stored = Stored::default());
    let client = driver.probe(life("0a"), WorkerId(0), "local", [1]);
    driver.run(100);
    // It may be one that leads no more: whoever asks asks again.
    driver.change(client, 1, CatalogChange::CreateTable(table("b")));
    driver.run(100);
    assert_eq!((refusals(&driver, client), losses(&driver)), (vec![ErrorCode::NoLeader], vec![]));
    driver.run(2000);
    driver.change(client, 2, CatalogChange::CreateTable(table("b")));
    driver.run(50);
    assert_eq!(refusals(&driver, client)[1], ErrorCode::RegisterLost);
    let said = losses(&driver);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with(
        "TF-5006: the management nodes have lost their register: node 12 knows view 1 and catalog 1, the register \
         ends with view 0 and catalog 0;"
    ));
    assert!(said[0].contains("start them with the directories that they had"), "{}", said[0]);
    assert!(matches!(driver.ask(1, AdminCommand::Status),
        AdminReply::Status(status) if status.trouble.as_ref() == Some(&said[0])));
    // Who is the last of its group is not known.
    let stop = |force| AdminCommand::Stop { node: NodeId(12), restart: false, force };
    assert!(matches!(driver.ask(1, stop(false)),
        AdminReply::Refused(error) if error.code == ErrorCode::RegisterLost));
    // A node that comes or goes changes nothing.
    driver.end(b);
    driver.data_node(life("12b"), [1]);
    driver.run(FORMING_GRACE.as_millis() as u64 + 2000);
    assert_eq!(newest(&driver, a), "1 r1: 11a=up 12a=up");
    assert_eq!(driver.node(1).register().view().number, ViewNumber(0));
    assert_eq!((driver.node(1).register().catalog().version, losses(&driver).len()), (0, 1));
    assert_eq!(driver.ask(1, stop(true)), AdminReply::Done);
}

#[test]
fn a_leader_with_an_old_copy_of_the_register_decides_nothing() {
    let (mut driver, _, [a, b]) = running(1);
    let old = driver.stored[&NodeId(1)].clone();
    driver.end(b);
    let client = driver.probe(life("0a"), WorkerId(0), "local", [1]);
    driver.until("a view without node 12", |driver| newest(driver, a) == "2 r1: 11a=up");
    driver.change(client, 1, CatalogChange::CreateTable(table("t")));
    driver.until("the table", |driver| driver.probe_ref(a).catalog() == 1);
    driver.run(100);
    driver.kill(1);
    driver.stored.insert(NodeId(1), old);
    driver.start(&cluster(1), NodeId(1));
    driver.change(client, 2, CatalogChange::CreateTable(table("b")));
    driver.run(4000);
    driver.data_node(life("12b"), [1]);
    driver.run(4000);
    assert_eq!(newest(&driver, a), "2 r1: 11a=up");
    assert_eq!(show_view(driver.node(1).register().view()), "1 r1: 11a=up 12a=up");
    assert_eq!(driver.node(1).register().catalog().version, 0);
    assert_eq!(losses(&driver).len(), 1);
}

#[test]
fn a_catalog_that_is_older_than_what_data_nodes_know_is_not_changed() {
    // The same view, but not the table.
    let (mut driver, _, [a, _]) = running(1);
    driver.run(200);
    let old = driver.stored[&NodeId(1)].clone();
    driver.change(a, 1, CatalogChange::CreateTable(table("t")));
    driver.until("the table", |driver| driver.probe_ref(a).catalog() == 1);
    driver.run(200);
    driver.kill(1);
    driver.stored.insert(NodeId(1), old);
    driver.start(&cluster(1), NodeId(1));
    driver.run(3000);
    driver.change(a, 2, CatalogChange::CreateTable(table("b")));
    driver.run(100);
    assert_eq!(
        driver.probe_ref(a).answers().last().unwrap().result.as_ref().unwrap_err().code,
        ErrorCode::RegisterLost
    );
    assert_eq!(driver.node(1).register().catalog().version, 0);
}

#[test]
fn with_its_directory_back_it_goes_on() {
    let (mut driver, config, [a, b]) = running(1);
    let stored = driver.stored[&NodeId(1)].clone();
    driver.kill(1);
    driver.stored.insert(NodeId(1), Stored::default());
    driver.start(&config, NodeId(1));
    driver.run(3000);
    assert_eq!(losses(&driver).len(), 1);
    driver.kill(1);
    driver.stored.insert(NodeId(1), stored);
    driver.start(&config, NodeId(1));
    driver.run(1000);
    driver.end(b);
    driver.until("a view without node 12", |driver| newest(driver, a) == "2 r1: 11a=up");
}

#[test]
fn a_cluster_of_which_nothing_is_left_begins_anew() {
    let (mut driver, [a, b]) = started_again(|stored| *stored = Stored::default());
    driver.run(3000);
    driver.end(a);
    driver.end(b);
    let (c, _) = (driver.data_node(life("11b"), [1]), driver.data_node(life("12b"), [1]));
    driver.run(1000);
    assert_eq!(driver.probe_ref(c).view().unwrap().number, ViewNumber(0));
    // Until the lives that knew more are forgotten.
    driver.run(65_000);
    assert_eq!(newest(&driver, c), "1 r1: 11b=up 12b=up");
}

#[test]
fn no_table_is_made_before_those_who_might_know_more_have_reported() {
    let mut driver = Driver::new(&cluster(1));
    let client = driver.probe(life("0a"), WorkerId(0), "local", [1]);
    driver.run(500);
    driver.change(client, 1, CatalogChange::CreateTable(table("t")));
    driver.run(100);
    assert_eq!(refusals(&driver, client), [ErrorCode::NoLeader]);

    let (mut driver, [..]) = started_again(|_| ());
    driver.cut.push((NodeId(1), NodeId(12)));
    let client = driver.probe(life("0a"), WorkerId(0), "local", [1]);
    driver.run(200);
    driver.change(client, 1, CatalogChange::CreateTable(table("b")));
    driver.run(100);
    assert_eq!(refusals(&driver, client), [ErrorCode::NoLeader]);
}
