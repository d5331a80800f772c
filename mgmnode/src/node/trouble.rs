//! What stands still until people do something: groups that wait for a node that does not run.

use twofold_proto::{
    ids::NodeId,
    time::{Duration, Time},
};

use super::{Effect, ManagementNode};
use crate::{
    choice::{self, StoppedGroup},
    notice::Notice,
    status::nodes,
};

/// Whoever comes back by himself is back by then.
const SHORT: Duration = Duration::from_secs(2);

/// Groups that do not serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StandStill {
    since: Time,
    /// What was said of it in the log.
    told: Option<String>,
}

impl ManagementNode {
    /// As leader: what people are told of groups that do not serve, if there are any.
    pub(super) fn stopped_groups(&self, now: Time) -> Option<String> {
        self.leading?;
        let config = self.register.config()?;
        let stopped = choice::stopped_groups(config, self.register.membership(), &self.facts(now));
        let texts: Vec<String> = stopped.iter().map(|group| self.in_words(group)).collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    }

    /// Says so in the log, if it lasts, and again when it is another thing that is to be done.
    pub(super) fn note_stand_still(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let Some(text) = self.stopped_groups(now) else {
            self.stand_still = None;
            return;
        };
        let still = self.stand_still.get_or_insert(StandStill { since: now, told: None });
        if now.since(still.since) >= SHORT && still.told.as_ref() != Some(&text) {
            still.told = Some(text.clone());
            effects.push(Effect::Notice(Notice::GroupStopped(text)));
        }
    }

    fn in_words(&self, stopped: &StoppedGroup) -> String {
        let StoppedGroup { group, restarts, up, silent, missing, waiting } = stopped;
        let names = |ids: &[NodeId]| {
            let named = nodes(self.config()).filter(|(id, ..)| ids.contains(id));
            named.map(|(id, _, name)| format!("{name} ({id})")).collect::<Vec<_>>().join(" and ")
        };
        let (was, has) = if up.len() == 1 { ("was", "has") } else { ("were", "have") };
        let start = match missing.is_empty() {
            true => "the cluster restarts from what its nodes have on disk".into(),
            false => format!("start {}, and the cluster goes on from what is on disk", names(missing)),
        };
        let what = if *restarts && missing.is_empty() {
            format!(
                "{}, which {was} up in it last, came back without what the cluster had: their logs say why. Bring their \
                 directories back and start them again; or give all rows up: `cluster stop`, `cluster start --initial`",
                names(up)
            )
        } else if silent.is_empty() {
            format!("{}, which {was} up in it last, {has} ended: {start}", names(up))
        } else {
            format!(
                "nothing is heard of {}, up in it last. What hangs or is cut off goes on when it can; if it has ended, {start}",
                names(silent)
            )
        };
        let waits = match waiting.is_empty() {
            true => String::new(),
            false => format!(". Until then {} can only wait", names(waiting)),
        };
        format!("group {group} does not serve: {what}{waits}")
    }
}
