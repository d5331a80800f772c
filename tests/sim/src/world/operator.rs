//! The person who has the register rebuilt once all management nodes have lost it, and asks again until it is done.

use std::time::Duration;

use twofold_mgmnode::node::{AdminCommand, AdminReply};
use twofold_proto::ids::{NodeId, ViewNumber};

use super::{
    Event, MachineId, World,
    machine::Message,
    process::{Kind, Process, State},
};

impl World {
    /// Whether the register was lost and is not rebuilt yet.
    pub fn register_is_lost(&self) -> bool {
        self.lost_view.is_some()
    }

    /// All management nodes die, and what they have written with them.
    pub fn lose_register(&mut self) {
        let registers = self.processes.iter().filter_map(|process| process.management_machine());
        let known = registers.map(|node| node.register().view().number).max().unwrap_or_default();
        self.lost_view = Some(known.max(self.lost_view.unwrap_or_default()));
        for place in self.places(Kind::Management) {
            self.lose_disk(place);
        }
        self.ask_in(500, 4000);
    }

    fn ask_in(&mut self, least: u64, most: u64) {
        let millis = self.random.between(least, most);
        self.schedule(self.now + Duration::from_millis(millis), Event::Operate);
    }

    pub(super) fn look_after(&mut self) {
        let Some(lost) = self.lost_view else { return };
        let leads = |place: &usize| {
            let process = &self.processes[*place];
            process.state == State::Running
                && process.management_machine().is_some_and(|node| node.is_leading())
        };
        if let Some(place) = self.places(Kind::Management).into_iter().find(leads) {
            let without = self.dispensable(lost);
            self.trace.say(self.now, || {
                format!("process {place} is told to rebuild the register without {without:?}")
            });
            let process = &self.processes[place];
            let id = MachineId { process: place, life: process.life, index: 0, node: process.node };
            self.post(id, Message::Administrate(AdminCommand::Rebuild { without }));
        }
        self.ask_in(300, 2000);
    }

    /// Data nodes that remember nothing; and those that do not run, where those who do know all that the register had: now
    /// and then nobody waits for the latter.
    fn dispensable(&mut self, lost: ViewNumber) -> Vec<NodeId> {
        let data: Vec<usize> = self.places(Kind::Data);
        let nodes = data.iter().filter_map(|&place| self.processes[place].node_machine());
        let known = nodes.map(|node| node.view().number).max().unwrap_or_default();
        let nobody_waits = known >= lost && self.random.one_in(3);
        let is_dispensable = |process: &&Process| match process.state {
            State::Down => nobody_waits,
            State::Running => process.node_machine().is_some_and(|node| !node.took_part()),
            State::Paused => false,
        };
        let processes = data.into_iter().map(|place| &self.processes[place]);
        processes.filter(is_dispensable).map(|process| process.node).collect()
    }

    pub(super) fn hear(&mut self, reply: &AdminReply) {
        self.trace.say(self.now, || format!("the operator hears {reply:?}"));
        match reply {
            AdminReply::Done => {
                self.mark("the register was rebuilt");
                self.lost_view = None;
            }
            // Nobody had a view yet.
            AdminReply::Refused(error) if error.text.contains("there is nothing to rebuild") => {
                self.lost_view = None;
            }
            _ => {}
        }
    }
}
