//! Config, views, links, and changes of the catalog.

use twofold_proto::message::{CatalogChange, CatalogConf, CatalogReq};

use super::*;

const FIRST: Endpoint = Endpoint::node(NodeId(1));
const SECOND: Endpoint = Endpoint::node(NodeId(2));

#[test]
fn it_asks_the_management_nodes_and_then_meets_every_worker() {
    let mut net = Net::new(setup());
    assert_eq!(net.client.next_timeout(), Some(Time(0)));
    net.step(Input::Timer);
    assert_eq!(net.far.values().map(|far| far.to).collect::<Vec<_>>(), [FIRST, SECOND]);
    let known = config(2, &[11, 12]);
    net.tell(FIRST, Kind::ConfigOrd, |out| put_control(out, &known));
    net.tell(SECOND, Kind::ConfigOrd, |out| put_control(out, &known));
    assert_eq!(net.effects, [Effect::Config(Arc::new(known))]);
    assert!(!net.client.is_ready());
    let mut syncing = member(12, life(12, 1), 2);
    syncing.state = MemberState::Syncing;
    net.see_view(vec![member(11, life(11, 1), 2), syncing]);
    let workers =
        |net: &Net| net.far.values().map(|far| far.to).filter(|to| to.node.0 > 2).collect::<Vec<_>>();
    let both = |node| [0, 1].map(|worker| Endpoint::new(NodeId(node), WorkerId(worker)));
    assert_eq!(workers(&net), [both(11), both(12)].concat());
    assert!((0..PARTITIONS).all(|p| net.client.map.primary(PartitionId(p)).unwrap().node == NodeId(11)));
    assert_eq!(net.catalogs, [] as [u64; 0]);
    net.tell(SECOND, Kind::CatalogOrd, |out| put_control(out, &Catalog::default()));
    assert!(net.client.is_ready());
    // Each once, whoever tells it.
    net.tell(FIRST, Kind::CatalogOrd, |out| put_control(out, &Catalog::default()));
    net.tell(FIRST, Kind::CatalogOrd, |out| put_control(out, &Catalog { version: 3, ..Catalog::default() }));
    assert_eq!(net.catalogs, [0, 3]);
}

#[test]
fn the_cluster_can_be_served_while_every_partition_has_a_primary_with_a_connection() {
    let mut net = Net::new(setup());
    net.lives.remove(&NodeId(12));
    net.make_ready(1);
    assert_eq!(net.serves, []);
    let (first, second) = (net.to(worker(11)), net.to(worker(12)));
    net.lives.insert(NodeId(12), life(12, 1));
    net.connect(second);
    assert_eq!(std::mem::take(&mut net.serves), [true]);
    net.disconnect(first);
    net.disconnect(second);
    // The buddy that has a connection takes over.
    net.connect(second);
    assert_eq!(std::mem::take(&mut net.serves), [false]);
    net.drop_node(11);
    assert_eq!(std::mem::take(&mut net.serves), [true]);
    net.see_view(Vec::new());
    assert_eq!(net.serves, [true, false][1..]);
}

#[test]
fn the_view_goes_before_the_first_message_under_it() {
    let mut net = Net::ready(1);
    let first = net.view.clone();
    net.operate(1, read(0));
    net.turn();
    let id = net.to(worker(11));
    let kinds = |net: &Net| net.far[&id].inbox.iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
    assert_eq!(kinds(&net), [Kind::ViewOrd, Kind::ReadReq]);
    assert_eq!(control::<View>(&net.far[&id].inbox[0].1).unwrap(), first);
    net.operate(2, read(0));
    net.drop_node(12);
    net.operate(3, read(1));
    net.turn();
    assert_eq!(kinds(&net)[2..], [Kind::ReadReq, Kind::ViewOrd, Kind::ReadReq]);
}

#[test]
fn a_worker_may_know_the_newer_view() {
    let mut net = Net::ready(1);
    let newer = View {
        number: ViewNumber(9),
        restart: 1,
        members: vec![member(12, life(12, 1), 1)],
        ..View::default()
    };
    net.tell(worker(12), Kind::ViewOrd, |out| put_control(out, &newer));
    assert_eq!(**net.client.view(), newer);
    let older = net.view.clone();
    net.tell(FIRST, Kind::ViewOrd, |out| put_control(out, &older));
    assert_eq!(**net.client.view(), newer);
}

#[test]
fn a_view_without_its_sender_is_the_last_that_is_heard_of_it() {
    let mut net = Net::ready(1);
    net.operate(1, read(0));
    let request = net.one_read(11);
    let newer = View {
        number: ViewNumber(9),
        restart: 1,
        members: vec![member(12, life(12, 1), 1)],
        ..View::default()
    };
    let id = net.to(worker(11));
    let far = net.far.get_mut(&id).unwrap();
    far.link.send(Kind::ViewOrd as u8, 0, |out| put_control(out, &newer));
    far.link.send(Kind::OperationConf as u8, 0, |out| out.put_u32(request));
    far.link.seal(Epoch(1), false);
    let bytes: Vec<u8> = far.link.unwritten().flatten().copied().collect();
    net.carry(id, &bytes);
    assert!(net.effects.is_empty() && !net.far.contains_key(&id));
    net.one_read(12);
}

#[test]
fn epochs_are_taken_over_and_passed_on() {
    let mut net = Net::ready(1);
    assert_eq!(net.client.epoch(), Epoch::new(1, 5));
    net.epoch = Epoch::new(1, 8);
    net.tell(worker(12), Kind::ViewOrd, |out| put_control(out, &View::default()));
    net.epoch = Epoch::new(1, 6);
    net.tell(worker(11), Kind::ViewOrd, |out| put_control(out, &View::default()));
    assert_eq!(net.client.epoch(), Epoch::new(1, 8));
    net.operate(1, read(0));
    net.client.end_turn(net.now, &mut Vec::new());
    let link = net.client.links.to(worker(11), life(11, 1)).unwrap();
    let bytes: Vec<u8> = net.client.links.get(link).unwrap().unwritten().flatten().copied().collect();
    assert_eq!(FrameHeader::parse(&bytes).unwrap().unwrap().epoch, Epoch::new(1, 8));
}

#[test]
fn a_frame_of_nonsense_costs_its_connection() {
    let mut net = Net::ready(1);
    let nonsense: [(Kind, &[u8]); 4] = [
        (Kind::OperationConf, &[9, 0, 0, 0]),
        (Kind::OperationConf, &[9]),
        (Kind::ScanConf, &[0; 17]),
        (Kind::PrepareReq, &[]),
    ];
    for (kind, body) in nonsense {
        let mut frames = Link::new(OWN, SESSION);
        frames.connected(SESSION, 0).unwrap();
        frames.send(kind as u8, 0, |out| out.put(body));
        frames.seal(Epoch(1), false);
        let bytes: Vec<u8> = frames.unwritten().flatten().copied().collect();
        let header = FrameHeader::parse(&bytes).unwrap().unwrap();
        let link = net.to(worker(11));
        let mut effects = Vec::new();
        let frame = LinkInput::Frame { link, header, payload: &bytes[FRAME_HEADER..] };
        net.client.step(net.now, Input::Link(frame), &mut effects);
        assert_eq!(effects, [Effect::Link(LinkEffect::Disconnect { link })], "{kind:?}");
    }
}

#[test]
fn a_management_node_that_was_started_anew_is_met_anew() {
    let mut net = Net::ready(1);
    let old = net.to(FIRST);
    net.lives.insert(NodeId(1), life(1, 2));
    net.disconnect(old);
    net.step(Input::Link(LinkInput::Refused { link: old, temporary: true, reason: "started anew".into() }));
    let new = net.to(FIRST);
    assert_ne!(new, old);
    assert_eq!(net.client.links.get(new).unwrap().incarnation(), life(1, 2));
}

fn change(net: &mut Net, from: Endpoint) -> Option<CatalogReq> {
    net.turn();
    let id = net.to(from);
    let inbox = std::mem::take(&mut net.far.get_mut(&id).unwrap().inbox);
    let mut found = inbox.into_iter().filter(|(kind, _)| *kind == Kind::CatalogReq);
    found.next().map(|(_, body)| control(&body).unwrap())
}

fn answer_change(net: &mut Net, from: Endpoint, request: u32, result: Result<u64, Error>) {
    net.tell(from, Kind::CatalogConf, |out| put_control(out, &CatalogConf { request, result }));
}

#[test]
fn a_change_of_the_catalog_goes_to_whoever_leads_and_is_answered_when_it_is_known_here() {
    let mut net = Net::ready(1);
    net.submit(7, Request::Change(CatalogChange::CreateTable(table("t"))));
    let request = change(&mut net, FIRST).unwrap();
    assert_eq!(request, CatalogReq { request: 0, change: CatalogChange::CreateTable(table("t")) });
    let no_leader = || Err(Error::new(ErrorCode::NoLeader, "node 2 leads"));
    answer_change(&mut net, FIRST, 0, no_leader());
    assert_eq!(change(&mut net, SECOND), Some(request.clone()));
    answer_change(&mut net, SECOND, 0, no_leader());
    net.pass(99);
    assert_eq!(change(&mut net, FIRST), None);
    net.pass(1);
    assert_eq!(change(&mut net, FIRST), Some(request));
    answer_change(&mut net, FIRST, 0, Ok(4));
    assert!(net.effects.is_empty());
    let catalog = Catalog { version: 4, tables: vec![table("t")], next_table: 2 };
    net.tell(SECOND, Kind::CatalogOrd, |out| put_control(out, &catalog));
    assert_eq!(net.answers(), [(7, Answer::Catalog(4))]);
    net.submit(8, Request::Change(CatalogChange::DropTable("t".into())));
    assert!(change(&mut net, FIRST).is_some());
    answer_change(&mut net, FIRST, 1, Err(Error::new(ErrorCode::NotSupported, "so")));
    assert_eq!(net.failure().error.code, ErrorCode::NotSupported);
    assert!(net.client.is_idle());
}

#[test]
fn a_change_that_was_lost_and_had_been_done_is_done() {
    for already in [true, false] {
        let mut net = Net::ready(1);
        net.submit(7, Request::Change(CatalogChange::CreateTable(table("t"))));
        assert!(change(&mut net, FIRST).is_some());
        let old = net.to(FIRST);
        net.lives.insert(NodeId(1), life(1, 2));
        net.step(Input::Link(LinkInput::Refused {
            link: old,
            temporary: true,
            reason: "started anew".into(),
        }));
        let found = if already { table("t") } else { Table { primary_key: vec![1], ..table("t") } };
        let catalog = Catalog { version: 4, tables: vec![Table { id: TableId(9), ..found }], next_table: 10 };
        net.tell(SECOND, Kind::CatalogOrd, |out| put_control(out, &catalog));
        net.pass(1);
        assert!(change(&mut net, SECOND).or(change(&mut net, FIRST)).is_some());
        let stage = net.client.changes[&0].due();
        assert!(stage > net.now);
        for from in [FIRST, SECOND] {
            answer_change(&mut net, from, 0, Err(Error::new(ErrorCode::TableExists, "table t is there")));
        }
        match net.answer() {
            Answer::Catalog(4) => assert!(already),
            Answer::Failed(failure) => {
                assert_eq!((failure.error.code, already), (ErrorCode::TableExists, false))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_change_that_nobody_takes_fails_in_the_end() {
    let mut net = Net::ready(1);
    for from in [FIRST, SECOND] {
        let link = net.to(from);
        net.disconnect(link);
    }
    net.submit(7, Request::Change(CatalogChange::DropTable("t".into())));
    net.pass(30_000);
    assert_eq!(net.failure().error.code, ErrorCode::NoLeader);
    let link = net.to(FIRST);
    net.connect(link);
    net.submit(8, Request::Change(CatalogChange::DropTable("t".into())));
    assert!(change(&mut net, FIRST).is_some());
    net.pass(30_000);
    assert_eq!(net.failure().error.code, ErrorCode::OutcomePending);
    answer_change(&mut net, FIRST, 1, Ok(9));
    assert!(net.effects.is_empty() && net.client.is_idle());
}
