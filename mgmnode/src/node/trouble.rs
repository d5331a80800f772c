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
        let StoppedGroup { group, up, silent, missing, waiting } = stopped;
        let names = |ids: &[NodeId]| {
            let named = nodes(self.config()).filter(|(id, ..)| ids.contains(id));
            named.map(|(id, _, name)| format!("{name} ({id})")).collect::<Vec<_>>().join(" and ")
        };
        let anew = "the cluster begins anew, with its tables, without rows";
        let rest = match missing.is_empty() {
            true => anew.into(),
            false => format!("start {}, and {anew}", names(missing)),
        };
        let what = if silent.is_empty() {
            let (was, has) = if up.len() == 1 { ("was", "has") } else { ("were", "have") };
            format!(
                "{}, which {was} up in it last, {has} ended, and with that its rows, which were in memory alone, are lost: \
                 {rest}",
                names(up)
            )
        } else {
            format!(
                "nothing is heard of {}, up in it last. What hangs or is cut off has the rows still: let it go on. If it has \
                 ended they are lost: {rest}",
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
