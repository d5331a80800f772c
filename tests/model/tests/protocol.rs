//! The protocol holds in the small configurations, and no rule of it can be left out.

use twofold_model::{
    check::check,
    config::{Config, Mutation},
};

/// All states are fine, and these are reached, so that it does not hold for want of anything happening.
fn holds(config: Config, reached: &[&str]) {
    let name = config.name;
    let report = check(config, None);
    assert!(report.failures.is_empty(), "{name}: {:#?}", report.failures);
    for property in reached {
        assert!(report.reached.contains(property), "{name}: never «{property}» in {} states", report.states);
    }
}

const BOTH: [&str; 2] = ["a commit is told", "an abort is told"];
const TAKEN_OVER: [&str; 4] = [
    "a commit is told",
    "an abort is told",
    "a takeover commits",
    "a client learns the outcome from a participant",
];

#[test]
fn one_group_loses_a_node() {
    holds(Config::one_group(), &TAKEN_OVER);
}

#[test]
fn two_groups_lose_a_node_each() {
    holds(Config::two_groups(), &TAKEN_OVER);
}

#[test]
fn a_client_may_ask_early() {
    holds(Config::one_group().impatient(), &TAKEN_OVER);
}

const QUESTIONED: [&str; 4] = [
    "a commit is told",
    "an abort is told",
    "a stranger is told of an abort that nobody decided",
    "a stranger is told of a commit that the TC has forgotten",
];

#[test]
fn another_session_asks_and_a_node_is_lost() {
    holds(Config::one_group().questioned(), &QUESTIONED);
}

#[test]
fn another_session_asks_and_a_primary_hands_over() {
    holds(Config::hand_over().questioned(), &QUESTIONED);
}

#[test]
fn another_session_asks_and_a_node_comes_back() {
    holds(Config::rejoin().questioned(), &QUESTIONED);
}

#[test]
fn a_primary_hands_over() {
    holds(Config::hand_over(), &TAKEN_OVER);
}

#[test]
fn a_primary_that_is_not_the_coordinator_hands_over() {
    holds(Config::hand_over_there(), &BOTH);
}

#[test]
fn three_replicas_lose_two() {
    holds(Config::three(), &TAKEN_OVER);
}

#[test]
fn a_node_comes_back() {
    holds(Config::rejoin(), &BOTH);
}

#[test]
fn the_coordinator_is_apart() {
    holds(Config::apart(), &TAKEN_OVER);
}

#[test]
fn a_copy_goes_on_with_the_next_primary() {
    holds(Config::three_copy_at_drop(), &BOTH);
}

#[test]
fn a_client_asks_one_who_came_later() {
    holds(Config::rejoin_asked_late(), &TAKEN_OVER);
}

/// The rule that only the newest primary's confirmations count is not needed: whatever was confirmed is on all that
/// can become the primary.
#[test]
fn a_confirmation_outlives_its_primary() {
    for config in [Config::two_groups(), Config::hand_over(), Config::rejoin()] {
        holds(config.mutated(Mutation::CountDeposedConfirmation), &BOTH);
    }
}

/// Nor is planting, as long as all who ask do so under a view without the TC: nobody can be prepared after that.
#[test]
fn a_late_question_needs_no_planting() {
    for config in [Config::two_groups(), Config::hand_over()] {
        holds(config.mutated(Mutation::NotFoundIsAborted), &TAKEN_OVER);
    }
}

macro_rules! mutations {
    ($($test:ident: $mutation:ident in $config:expr => $property:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let report = check($config.mutated(Mutation::$mutation), Some($property));
                let failed: Vec<&str> = report.failures.iter().map(|(property, _)| *property).collect();
                assert!(failed.contains(&$property), "only {failed:?} in {} states", report.states);
            }
        )*

        #[test]
        fn every_mutation_is_tested() {
            let tested = [$(Mutation::$mutation,)* Mutation::CountDeposedConfirmation];
            for mutation in Mutation::ALL {
                assert!(tested.contains(&mutation), "{mutation:?}");
            }
        }
    };
}

mutations! {
    forgets_before_the_mark: ForgetBeforeMark in Config::one_group() => "one outcome";
    forgets_before_the_epoch_is_complete: ForgetBeforeComplete in Config::one_group() => "no end with the outcome open";
    not_found_is_aborted: NotFoundIsAborted in Config::one_group().impatient() => "one outcome";
    acknowledges_a_dropped_node: AcknowledgeDropped in Config::one_group() => "one outcome";
    acknowledgement_overtakes_the_view: AcknowledgeWithoutView in Config::hand_over_there() => "a commit is on every replica that is up";
    accepts_from_a_deposed_primary: AcceptFromDeposed in Config::three_hand_over() => "a refusal is binding";
    serves_before_replica_states: ServeBeforeReplicaStates in Config::hand_over() => "one outcome";
    skips_views: SkipViews in Config::three_back() => "no end with the outcome open";
    omits_the_drop: OmitDrop in Config::hand_over() => "one outcome";
    refuses_before_the_drop_is_acknowledged: RefuseBeforeDropAcknowledged in Config::hand_over() => "one outcome";
    refuses_while_it_reconciles: RefuseWhileReconciling in Config::one_group() => "a refusal is binding";
    confirms_without_the_buddy: ConfirmWithoutBuddy in Config::one_group() => "one outcome";
    decides_unconfirmed: DecideUnconfirmed in Config::apart() => "a commit is on every replica that is up";
    up_without_counts: UpWithoutCounts in Config::rejoin() => "a commit is on every replica that is up";
    keeps_ready_at_a_drop: KeepReadyAtDrop in Config::three_rejoin() => "prepared is binding";
    keeps_ready_at_a_hand_over: KeepReadyAtHandOver in Config::three_hand_over_ready() => "prepared is binding";
    copies_without_outcomes: CopyWithoutOutcomes in Config::rejoin_asked_late() => "one outcome";
    lets_copy_before_it_serves: CopyBeforeServing in Config::three_copy_at_drop() => "no end with the outcome open";
    aborts_after_prepare: AbortAfterPrepare in Config::one_group() => "one outcome";
    commits_on_the_first_confirmation: CommitOnFirstConfirmation in Config::one_group() => "one outcome";
    decides_alone: DecideAlone in Config::one_group() => "one outcome";
    skips_the_fence: SkipFence in Config::one_group() => "one primary serves";
    accepts_what_it_disowned: AcceptDisowned in Config::one_group().questioned() => "one outcome";
}
