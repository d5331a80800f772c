//! What the angel of a data node does when its child has ended: it tells all management nodes, each over a link of its
//! own, until they have it.

use std::collections::BTreeSet;

use twofold_proto::{
    ids::{Endpoint, Epoch, Incarnation, WorkerId},
    link::HelloReply,
    links::{LinkEffect, LinkId, LinkInput, Linked, Links},
    machine::Machine,
    message::{GoneOrd, Kind, Life},
    time::Time,
};

/// The machine.
#[derive(Debug)]
pub struct Angel {
    links: Links,
    gone: Life,
    management: Vec<Endpoint>,
    begun: bool,
    told: BTreeSet<LinkId>,
}

impl Angel {
    /// Tells `management` that `gone` has ended.
    pub fn new(cluster: &str, incarnation: Incarnation, gone: Life, management: Vec<Endpoint>) -> Angel {
        let own = Endpoint::new(gone.node, WorkerId::ASIDE);
        Angel {
            links: Links::new(own, incarnation, cluster),
            gone,
            management,
            begun: false,
            told: BTreeSet::new(),
        }
    }
}

impl Machine for Angel {
    type Input<'a> = Option<LinkInput<'a>>;
    type Effect = LinkEffect;

    fn step(&mut self, _: Time, input: Option<LinkInput<'_>>, effects: &mut Vec<LinkEffect>) {
        if !self.begun {
            self.begun = true;
            for &to in &self.management {
                let link = self.links.add(to, Incarnation(0));
                effects.push(LinkEffect::Connect { link, to });
            }
        }
        match input {
            Some(LinkInput::Connected { link, incarnation, received }) => {
                if self.links.connected(link, incarnation, received).is_err() {
                    return effects.push(LinkEffect::Disconnect { link });
                }
                let gone = GoneOrd { life: self.gone };
                if self.told.insert(link)
                    && let Some(link) = self.links.get_mut(link)
                {
                    link.send_control(Kind::GoneOrd, &gone);
                    link.want_acknowledgement();
                }
            }
            Some(LinkInput::Disconnected { link }) => {
                if let Some(link) = self.links.get_mut(link) {
                    link.disconnected();
                }
            }
            Some(LinkInput::Frame { link, header, .. }) => {
                // What management nodes tell is not for it; it only waits for the acknowledgement.
                if self.links.receive(link, &header).is_err() {
                    return effects.push(LinkEffect::Disconnect { link });
                }
                if let Some(end) = self.links.writing(link) {
                    end.processed(&header);
                    if end.position() > 0 && end.acknowledged() == end.position() {
                        self.links.remove(link);
                        effects.push(LinkEffect::Close { link });
                    }
                }
            }
            Some(LinkInput::Refused { link, .. }) => {
                // The management node was started anew: so is the link.
                let Some(end) = self.links.get(link).filter(|end| end.incarnation().0 != 0) else { return };
                let to = end.peer();
                self.links.remove(link);
                effects.push(LinkEffect::Close { link });
                let link = self.links.add(to, Incarnation(0));
                effects.push(LinkEffect::Connect { link, to });
            }
            Some(LinkInput::Hello { connection, .. }) => {
                let reply = HelloReply::Refused { temporary: false, reason: "an angel".into() };
                effects.push(LinkEffect::Answer { connection, link: None, reply });
            }
            None => {}
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        (!self.begun).then_some(Time(0))
    }

    fn check(&self) {}
}

impl Linked for Angel {
    fn link_input(input: LinkInput<'_>) -> Option<LinkInput<'_>> {
        Some(input)
    }

    fn link_effect(effect: LinkEffect) -> Result<LinkEffect, LinkEffect> {
        Ok(effect)
    }

    fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    fn end_turn(&mut self, _: Time, _: &mut Vec<LinkEffect>) {
        self.links.seal(Epoch(0), false);
    }
}
