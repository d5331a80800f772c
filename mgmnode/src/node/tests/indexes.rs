//! When the build of an index is over.

use twofold_proto::{
    ids::WorkerId,
    message::CatalogChange,
    schema::{Index, IndexState},
};

use super::{driver::Driver, life, running};
use crate::testing::table;

/// A cluster with a table that is given an index, which data nodes do not build yet.
fn building() -> (Driver, usize, [usize; 2]) {
    let (mut driver, _, nodes) = running(3);
    let leader = driver.leader().unwrap();
    let client = driver.probe(life("0a"), WorkerId(0), "local", [leader]);
    driver.run(50);
    driver.change(client, 1, CatalogChange::CreateTable(table("t")));
    nodes.iter().for_each(|&node| driver.probe_mut(node).builds = false);
    let index = Index::new("x", vec![1]);
    driver.change(client, 2, CatalogChange::CreateIndex { table: "t".into(), index });
    driver.run(500);
    assert_eq!(driver.probe_ref(client).answers().last().unwrap().result, Ok(2), "it is known, not built");
    (driver, leader.into(), nodes)
}

fn states(driver: &Driver, leader: usize) -> Vec<IndexState> {
    let catalog = driver.node(leader as u16).register().catalog();
    catalog.tables[0].indexes.iter().map(|index| index.state).collect()
}

#[test]
fn an_index_is_public_once_all_nodes_have_built_it() {
    let (mut driver, leader, [a, b]) = building();
    assert_eq!(states(&driver, leader), [IndexState::Building { since: 2 }]);
    driver.probe_mut(a).builds = true;
    driver.run(500);
    assert_eq!(states(&driver, leader), [IndexState::Building { since: 2 }]);
    driver.probe_mut(b).builds = true;
    driver.run(200);
    assert_eq!(states(&driver, leader), [IndexState::Public]);
    assert_eq!(driver.probe_ref(a).catalog(), 3);
}

#[test]
fn an_index_for_which_a_node_has_no_memory_is_dropped() {
    let (mut driver, leader, [_, b]) = building();
    driver.probe_mut(b).report.as_mut().unwrap().index_full = true;
    driver.run(200);
    assert_eq!(states(&driver, leader), []);
    assert_eq!(driver.probe_ref(b).catalog(), 3);
}

#[test]
fn of_several_indexes_that_do_not_fit_the_newest_is_dropped_first() {
    let (mut driver, leader, [_, b]) = building();
    let client = driver.probe(life("0b"), WorkerId(0), "local", [leader as u16]);
    driver.run(50);
    let index = Index::new("y", vec![1, 0]);
    driver.change(client, 1, CatalogChange::CreateIndex { table: "t".into(), index });
    driver.run(500);
    let (first, second) = (IndexState::Building { since: 2 }, IndexState::Building { since: 3 });
    assert_eq!(states(&driver, leader), [first, second]);
    driver.probe_mut(b).report.as_mut().unwrap().index_full = true;
    driver.until("one is dropped", |driver| states(driver, leader) != [first, second]);
    // That there is room now it says once it has dropped that one.
    driver.until("it knows", |driver| driver.probe_ref(b).catalog() == 4);
    driver.probe_mut(b).report.as_mut().unwrap().index_full = false;
    driver.run(500);
    assert_eq!(states(&driver, leader), [first]);
}

#[test]
fn another_leader_ends_the_build() {
    let (mut driver, leader, nodes) = building();
    driver.kill(leader as u16);
    nodes.iter().for_each(|&node| driver.probe_mut(node).builds = true);
    driver.until("the index is public", |driver| {
        driver.leader().is_some_and(|leader| states(driver, leader.into()) == [IndexState::Public])
    });
}

#[test]
fn clients_cannot_end_it() {
    let (mut driver, leader, _) = building();
    let client = driver.probe(life("0b"), WorkerId(0), "local", [leader as u16]);
    driver.run(50);
    let index = driver.node(leader as u16).register().catalog().tables[0].indexes[0].id;
    driver.change(client, 1, CatalogChange::EndBuild { index, built: true });
    driver.run(100);
    let error = driver.probe_ref(client).answers()[0].result.clone().unwrap_err();
    assert_eq!(error.text, "the management leader alone ends the build of an index");
    assert_eq!(states(&driver, leader), [IndexState::Building { since: 2 }]);
}
