//! Frames of a peer, one by one.

use MemberState::Up;
use twofold_proto::{
    link::{FRAME_HEADER, FrameHeader, Link},
    links::LinkEffect,
    message::{EpochOrd, GoneOrd, Kind},
    wire::Writer,
};

use super::{super::*, driver::*};

/// Node 12 in view 5 with 11, the president, and a hand on 11's end of their link.
struct Pair {
    node: Node,
    link: LinkId,
    far: Link,
}

impl Pair {
    fn new() -> Pair {
        let mut node = node(&config(&[11, 12, 13], 3), 12, 1);
        let members = [(11, Up), (12, Up), (13, Up)];
        let effects = turn(&mut node, ms(0), says(0, Word::View(Arc::new(view(5, &members)))));
        let connect = effects.iter().find_map(|effect| match effect {
            Effect::Link(LinkEffect::Connect { link, .. }) => Some(*link),
            _ => None,
        });
        let link = connect.expect("12 connects to 11");
        let connected = LinkInput::Connected { link, incarnation: life(11).incarnation, received: 0 };
        assert_eq!(turn(&mut node, ms(1), Input::Link(connected)), []);
        let mut far = Link::new(Endpoint::node(NodeId(12)), life(12).incarnation);
        far.connected(life(12).incarnation, 0).expect("a new link");
        Pair { node, link, far }
    }

    /// What comes of a frame with one message.
    fn give(&mut self, now: u64, say: impl FnOnce(&mut Link)) -> Vec<Effect> {
        say(&mut self.far);
        self.far.seal(Epoch(0), true);
        let bytes: Vec<u8> = self.far.unwritten().flatten().copied().collect();
        self.far.wrote(bytes.len());
        let header = FrameHeader::parse(&bytes).expect("a header").expect("all of it");
        let frame = LinkInput::Frame { link: self.link, header, payload: &bytes[FRAME_HEADER..] };
        turn(&mut self.node, ms(now), Input::Link(frame))
    }
}

fn refused(pair: &Pair, what: &'static str) -> [Effect; 2] {
    let peer = Endpoint::node(NodeId(11));
    [Effect::Event(Event::Malformed { peer, what }), Effect::Link(LinkEffect::Disconnect { link: pair.link })]
}

#[test]
fn an_epoch_counts_under_the_view_of_both() {
    let mut pair = Pair::new();
    let wanted = Epoch::default();
    let order = |view| EpochOrd {
        wanted,
        view: ViewNumber(view),
        epoch: Epoch::new(1, 9),
        complete: Epoch::new(1, 7),
        durable: Epoch::new(1, 5),
        congested: true,
        last: false,
        time: ClusterTime(70),
    };
    assert_eq!(pair.give(2, |link| link.send_control(Kind::EpochOrd, &order(4))), []);
    assert!(!pair.node.level);
    let effects = pair.give(3, |link| link.send_control(Kind::EpochOrd, &order(5)));
    let (epoch, complete) = (Epoch::new(1, 9), Epoch::new(1, 7));
    let (durable, congested, time) = (Epoch::new(1, 5), true, ClusterTime(70));
    assert_eq!(told(&effects, 1), [ToWorker::Epoch { epoch, complete, durable, wanted, congested, time }]);
    assert!(pair.node.level);
}

#[test]
fn a_heartbeat_is_answered_with_its_time() {
    let mut pair = Pair::new();
    assert_eq!(pair.give(2, |link| link.send(Kind::HeartbeatReq as u8, 0, |out| out.put_u64(77))), []);
    let link = pair.node.links.get(pair.link).expect("it stays");
    let bytes: Vec<u8> = link.unwritten().flatten().copied().collect();
    let conf: Vec<u8> =
        [&[8, 0, 0, 0, Kind::HeartbeatConf as u8, 0, 0, 0][..], &77u64.to_le_bytes()].concat();
    assert!(bytes.ends_with(&conf), "{bytes:?}");
}

#[test]
fn nonsense_closes_the_connection() {
    let mut pair = Pair::new();
    let effects = pair.give(2, |link| link.send(Kind::HeartbeatConf as u8, 0, |out| out.put_u64(ms(3).0)));
    assert_eq!(effects, refused(&pair, "HeartbeatConf: of a time to come"));
    let mut pair = Pair::new();
    let effects = pair.give(2, |link| link.send(Kind::HeartbeatReq as u8, 0, |out| out.put_u32(1)));
    assert_eq!(effects, refused(&pair, "heartbeat"));
    let mut pair = Pair::new();
    let effects = pair.give(2, |link| link.send(255, 0, |_| ()));
    assert_eq!(effects, refused(&pair, "message kind"));
}

/// A peer says goodbye for itself alone.
#[test]
fn a_goodbye_in_anothers_name_is_nonsense() {
    let mut pair = Pair::new();
    let effects = pair.give(2, |link| link.send_control(Kind::GoneOrd, &GoneOrd { life: life(13) }));
    assert_eq!(effects, refused(&pair, "message: of no kind that a data node's node sends to another"));
    assert!(pair.node.gone.is_empty());
    let mut pair = Pair::new();
    assert_eq!(pair.give(2, |link| link.send_control(Kind::GoneOrd, &GoneOrd { life: life(11) })), []);
    assert_eq!(pair.node.gone, BTreeSet::from([life(11)]));
}

/// What a frame says after a view that drops its sender is not read.
#[test]
fn nothing_is_read_after_the_view_that_drops_the_sender() {
    let mut pair = Pair::new();
    let effects = pair.give(2, |link| {
        link.send_control(Kind::ViewOrd, &view(6, &[(12, Up), (13, Up)]));
        link.send_control(Kind::GoneOrd, &GoneOrd { life: life(11) });
    });
    assert!(told(&effects, 1).contains(&ToWorker::Fenced(life(11))));
    assert!(pair.node.gone.is_empty());
    let link = pair.node.links.get(pair.link).expect("it carries the view to the former peer");
    assert_eq!(link.received(), 0, "nor is it acknowledged");
    let effects = turn(&mut pair.node, ms(50), Input::Timer);
    assert!(effects.contains(&Effect::Link(LinkEffect::Close { link: pair.link })));
}
