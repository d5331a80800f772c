//! A machine for tests: it sends numbered requests, answers those that it gets, and tells its owner of both.

use std::collections::BTreeMap;

use twofold_proto::{
    ids::{Endpoint, Epoch, Incarnation, NodeId, WorkerId},
    link::{FrameHeader, HelloReply, Messages, Received},
    links::{LinkEffect, LinkId, LinkInput, Linked, Links},
    machine::Machine,
    time::{Duration, Time},
    wire::{Reader, Writer},
};
use twofold_runtime::Owner;

/// Message kinds.
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
/// Name of the toys' cluster.
pub const CLUSTER: &str = "toys";

pub enum Input<'a> {
    Link(LinkInput<'a>),
    /// Connect to this endpoint.
    Connect(Endpoint),
    /// Send the peer a request with this number and so many bytes behind it.
    Request {
        to: Endpoint,
        number: u64,
        padding: usize,
    },
    /// Be stepped with the timer at this time.
    Alarm(Duration),
    Timer,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    Link(LinkEffect),
    Requested(u64),
    Answered(u64),
    Refused(String),
    Connected,
    Rang,
}

pub struct Toy {
    links: Links,
    ids: BTreeMap<Endpoint, LinkId>,
    alarm: Option<Time>,
    now: Time,
    /// Requests are answered.
    pub answers: bool,
}

impl Toy {
    pub fn new(node: u16, worker: WorkerId, cluster: &str) -> Toy {
        let own = Endpoint::new(NodeId(node), worker);
        let incarnation = twofold_runtime::clock::incarnation();
        let links = Links::new(own, incarnation, cluster);
        Toy { links, ids: BTreeMap::new(), alarm: None, now: Time(0), answers: true }
    }

    pub fn kept_bytes(&self) -> usize {
        self.links.ids().filter_map(|id| self.links.get(id)).map(|link| link.kept_bytes()).sum()
    }

    fn link(&mut self, input: LinkInput<'_>, effects: &mut Vec<Effect>) {
        match input {
            LinkInput::Hello { connection, hello } => {
                let (link, reply) = match self.links.objection(&hello) {
                    Some(refusal) => (None, refusal),
                    None => {
                        let known = self.links.to(hello.from, hello.incarnation);
                        let link = known.unwrap_or_else(|| self.links.add(hello.from, hello.incarnation));
                        (Some(link), self.links.accept(link, &hello))
                    }
                };
                let link = link.filter(|_| matches!(reply, HelloReply::Accepted { .. }));
                effects.push(Effect::Link(LinkEffect::Answer { connection, link, reply }));
            }
            LinkInput::Connected { link, incarnation, received } => {
                match self.links.connected(link, incarnation, received) {
                    Ok(()) => effects.push(Effect::Connected),
                    Err(_) => effects.push(Effect::Link(LinkEffect::Disconnect { link })),
                }
            }
            LinkInput::Refused { reason, .. } => effects.push(Effect::Refused(reason)),
            LinkInput::Disconnected { link } => {
                if let Some(link) = self.links.get_mut(link) {
                    link.disconnected();
                }
            }
            LinkInput::Frame { link, header, payload } => self.frame(link, &header, payload, effects),
        }
    }

    fn frame(&mut self, id: LinkId, header: &FrameHeader, payload: &[u8], effects: &mut Vec<Effect>) {
        match self.links.receive(id, header) {
            Ok(Received::New) => {
                for message in Messages::new(payload) {
                    let message = message.expect("toys speak well");
                    let number = Reader::new(message.body, "toy").u64().expect("toys speak well");
                    if message.kind == REQUEST {
                        effects.push(Effect::Requested(number));
                        if self.answers
                            && let Some(link) = self.links.get_mut(id)
                        {
                            link.send(ANSWER, 0, |out| out.put_u64(number));
                        }
                    } else {
                        effects.push(Effect::Answered(number));
                    }
                }
            }
            Ok(Received::Nothing) => (),
            Err(_) => effects.push(Effect::Link(LinkEffect::Disconnect { link: id })),
        }
        if let Some(link) = self.links.get_mut(id) {
            link.processed(header);
        }
    }
}

impl Machine for Toy {
    type Input<'a> = Input<'a>;
    type Effect = Effect;

    fn step(&mut self, now: Time, input: Input<'_>, effects: &mut Vec<Effect>) {
        assert!(now >= self.now, "time runs back from {:?} to {now:?}", self.now);
        self.now = now;
        match input {
            Input::Link(input) => self.link(input, effects),
            Input::Connect(to) => {
                let link = self.links.add(to, Incarnation(0));
                self.ids.insert(to, link);
                effects.push(Effect::Link(LinkEffect::Connect { link, to }));
            }
            Input::Request { to, number, padding } => {
                let link = self.links.get_mut(self.ids[&to]).expect("toys keep their links");
                link.send(REQUEST, 0, |out| {
                    out.put_u64(number);
                    out.resize(out.len() + padding, 0);
                });
            }
            Input::Alarm(after) => self.alarm = Some(now + after),
            Input::Timer => {
                if self.alarm.is_some_and(|alarm| alarm <= now) {
                    self.alarm = None;
                    effects.push(Effect::Rang);
                }
            }
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        self.alarm
    }

    fn check(&self) {}
}

impl Linked for Toy {
    fn link_input(input: LinkInput<'_>) -> Input<'_> {
        Input::Link(input)
    }

    fn link_effect(effect: Effect) -> Result<LinkEffect, Effect> {
        match effect {
            Effect::Link(effect) => Ok(effect),
            other => Err(other),
        }
    }

    fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    fn end_turn(&mut self, _now: Time, _effects: &mut Vec<Effect>) {
        self.links.seal(Epoch(1), false);
    }
}

/// Hands each effect to a closure.
pub struct Tell<F>(pub F);

impl<F: FnMut(Effect)> Owner<Toy> for Tell<F> {
    type Message = Input<'static>;

    fn input(message: Input<'static>) -> Input<'static> {
        message
    }

    fn timer() -> Input<'static> {
        Input::Timer
    }

    fn effect(&mut self, effect: Effect) {
        (self.0)(effect);
    }
}
