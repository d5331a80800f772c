use proptest::prelude::*;
use twofold_proto::{
    ids::{Incarnation, ViewNumber},
    message::Restorable,
};

use super::*;
use crate::testing::{config, life, show_view, view};

/// One case of the golden file.
#[derive(Default)]
struct Case {
    name: String,
    nodes: Vec<u16>,
    replicas: u8,
    view: View,
    settled: Vec<(u16, u64)>,
    dropped: Vec<Life>,
    before: Vec<Member>,
    facts: Facts,
    next: String,
}

fn lives(text: &str) -> Vec<Life> {
    text.split_whitespace().filter(|text| *text != "-").map(life).collect()
}

/// Members that were `up`: `11b` or, if they began with the rows of a former life, `11b<a`.
fn before(text: &str) -> Vec<Member> {
    let member = |text: &str| {
        let (name, restored) = text.split_once('<').unwrap_or((text, ""));
        let life = life(name);
        let restored =
            restored.bytes().next().map(|letter| Incarnation((letter.to_ascii_uppercase() - b'@').into()));
        Member {
            node: life.node,
            incarnation: life.incarnation,
            state: MemberState::Up,
            workers: 1,
            restored,
        }
    };
    text.split_whitespace().map(member).collect()
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(text.trim().parse().expect(text))
}

impl Case {
    fn parse(text: &str) -> Case {
        let mut case = Case {
            facts: Facts { listening: Duration::from_secs(60), ..Facts::default() },
            ..Case::default()
        };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "case" => case.name = rest.into(),
                "nodes" => {
                    let (nodes, replicas) = rest.split_once(" replicas ").expect(line);
                    case.nodes = nodes.split(' ').map(|node| node.parse().expect(line)).collect();
                    case.replicas = replicas.parse().expect(line);
                }
                "view" => case.view = view(rest),
                "settled" => {
                    let (group, number) = rest.split_once(' ').expect(line);
                    case.settled.push((group[1..].parse().expect(line), number.parse().expect(line)));
                }
                "dropped" => case.dropped = lives(rest),
                "before" => case.before = before(rest),
                "listening" => case.facts.listening = millis(rest),
                "forming" => case.facts.forming = millis(rest),
                "gone" => case.facts.gone = lives(rest).into_iter().collect(),
                "next" => case.next = rest.into(),
                _ => case.heard(line),
            }
        }
        case
    }

    fn heard(&mut self, line: &str) {
        let mut parts = line.split(';').map(str::trim);
        let first = parts.next().expect(line);
        let (name, hears) = first.split_once(" hears ").unwrap_or((first, ""));
        let own = life(name);
        let others = || self.view.members.iter().map(super::life).filter(|&other| other != own).collect();
        let report = ReportOrd {
            life: own,
            workers: 1,
            view: self.view.number,
            catalog: 0,
            indexed: 0,
            index_full: false,
            hears: if hears.is_empty() { others() } else { lives(hears) },
            copied: None,
            counts: Vec::new(),
            leaving: false,
            durable: true,
            restorable: None,
            initial: false,
        };
        let mut heard = Heard {
            age: Duration::from_millis(10),
            steady: Duration::from_secs(1),
            known: Duration::from_secs(1),
            leaving: Duration::from_secs(1),
            report,
        };
        for part in parts {
            let (word, rest) = part.split_once(' ').unwrap_or((part, ""));
            match word {
                "age" => heard.age = millis(rest),
                "steady" => heard.steady = millis(rest),
                "known" => heard.known = millis(rest),
                "view" => heard.report.view = ViewNumber(rest.parse().expect(line)),
                "copied" => heard.report.copied = Some(ViewNumber(rest.parse().expect(line))),
                "counts" => heard.report.counts = lives(rest),
                "leaving" => {
                    heard.report.leaving = true;
                    if !rest.is_empty() {
                        heard.leaving = millis(rest);
                    }
                }
                "behind" => heard.report.durable = false,
                "initial" => heard.report.initial = true,
                // The disk of this life, up to this epoch.
                "disk" => {
                    let (name, epoch) = rest.split_once(' ').expect(line);
                    let (restart, counter) = epoch.split_once('.').expect(line);
                    let epoch = Epoch::new(restart.parse().expect(line), counter.parse().expect(line));
                    let life = Incarnation((name.as_bytes()[0] - b'a' + 1).into());
                    heard.report.restorable =
                        Some(Restorable { life, complete: epoch, ..Restorable::default() });
                }
                _ => panic!("{line}"),
            }
        }
        self.facts.heard.insert(own, heard);
    }

    /// The register that has the case's view, and the past that it names.
    fn membership(&self, config: &ClusterConfig) -> Membership {
        let membership = Membership::of(
            self.view.clone(),
            self.settled.iter().map(|&(group, number)| (GroupId(group), ViewNumber(number))),
            &self.dropped,
            config,
        );
        if self.before.is_empty() { membership } else { membership.with_up_before(&self.before) }
    }
}

#[test]
fn golden_cases() {
    let text = include_str!("../testdata/next_view.txt");
    let cases: Vec<Case> = text.split("\n\n").map(Case::parse).filter(|case| !case.name.is_empty()).collect();
    assert_eq!(cases.len(), text.matches("\ncase ").count());
    let mut wrong = String::new();
    for case in &cases {
        let config = config(case.replicas, &case.nodes);
        let next = next_view(&config, &case.membership(&config), &case.facts);
        let next = next.map_or("none".into(), |view| show_view(&view));
        if next != case.next {
            wrong += &format!("{}: expected {}, not {next}\n", case.name, case.next);
        }
    }
    assert_eq!(wrong, "");
}

/// A cluster in any state: members, and what each node's life reports.
fn situation() -> impl Strategy<Value = (ClusterConfig, View, Facts)> {
    let node = (0u8..8, 0u8..8, any::<[bool; 8]>(), any::<u8>());
    (1u8..=4, 1usize..=3, proptest::collection::vec(node, 12), 0u64..1000).prop_map(
        |(replicas, groups, nodes, listening)| {
            let count =
                (usize::from(replicas) * groups).min(8) / usize::from(replicas) * usize::from(replicas);
            let ids: Vec<u16> = (0..count as u16).map(|index| 11 + index).collect();
            let config = config(replicas, &ids);
            let mut view = View { number: ViewNumber(5), restart: 1, members: Vec::new(), ..View::default() };
            for (index, &id) in ids.iter().enumerate() {
                let state = match nodes[index].0 {
                    _ if index % usize::from(replicas) == 0 => MemberState::Up,
                    0 => continue,
                    1 => MemberState::Syncing,
                    2 => MemberState::Ready,
                    _ => MemberState::Up,
                };
                view.members.push(Member {
                    node: NodeId(id),
                    incarnation: Incarnation(1),
                    state,
                    workers: 1,
                    restored: None,
                });
            }
            let mut facts = Facts { listening: Duration::from_millis(listening), ..Facts::default() };
            for (index, &id) in ids.iter().enumerate() {
                let (_, report, hears, bits) = nodes[index];
                let old = Life { node: NodeId(id), incarnation: Incarnation(1) };
                let new = Life { incarnation: Incarnation(2), ..old };
                if bits & 1 == 1 && bits & 2 == 2 {
                    facts.gone.insert(old);
                }
                let hears: Vec<Life> = view
                    .members
                    .iter()
                    .map(super::life)
                    .zip(hears)
                    .filter(|(_, heard)| *heard || bits & 4 == 0)
                    .map(|(life, _)| life)
                    .collect();
                let heard = |life: Life| Heard {
                    age: Duration::from_millis(if report == 0 { 600 } else { 10 }),
                    steady: Duration::from_millis(if bits & 8 == 8 { 100 } else { 900 }),
                    known: Duration::from_millis(if bits & 8 == 8 { 100 } else { 900 }),
                    leaving: Duration::from_secs(1),
                    report: ReportOrd {
                        life,
                        workers: 1,
                        view: ViewNumber(if bits & 48 == 48 { 4 } else { 5 }),
                        catalog: 0,
                        indexed: 0,
                        index_full: false,
                        hears: hears.clone(),
                        copied: (bits & 64 == 64).then_some(ViewNumber(5)),
                        counts: view.members.iter().map(super::life).collect(),
                        leaving: report == 7 && bits & 128 == 128,
                        durable: true,
                        restorable: None,
                        initial: false,
                    },
                };
                facts.heard.insert(old, heard(old));
                if report % 3 == 1 {
                    facts.heard.insert(new, heard(new));
                }
            }
            (config, view, facts)
        },
    )
}

fn ups(config: &ClusterConfig, view: &View, group: GroupId) -> usize {
    config.group_nodes(group).filter(|&node| view.is_up(node)).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens((config, view, facts) in situation()) {
        let membership = Membership::of(view.clone(), [], &[], &config);
        let next = next_view(&config, &membership, &facts);
        prop_assert_eq!(&next, &next_view(&config, &membership, &facts));
        let Some(next) = next else { return Ok(()) };
        prop_assert_eq!(next.number, ViewNumber(6));
        prop_assert!(next.members.windows(2).all(|pair| pair[0].node < pair[1].node));
        let groups = || (0..config.groups()).map(|group| GroupId(group as u16));
        if next.members.is_empty() {
            // Somewhere all that was `up` is dead and another life there.
            let replaced = |node| facts.heard.contains_key(&Life { node, incarnation: Incarnation(2) });
            let has_ended = |group| config.group_nodes(group).filter(|&node| view.is_up(node)).all(replaced);
            let ended = groups().any(has_ended);
            prop_assert!(ended);
            return Ok(());
        }
        for group in groups() {
            prop_assert!(ups(&config, &next, group) > 0, "{:?} has no up member in {:?}", group, next);
        }
        for member in &next.members {
            let before = view.state(member.node, member.incarnation);
            match member.state {
                MemberState::Up => prop_assert!(matches!(before, Some(MemberState::Up | MemberState::Ready))),
                MemberState::Ready => prop_assert!(matches!(before, Some(MemberState::Ready | MemberState::Syncing))),
                MemberState::Syncing => prop_assert!(before != Some(MemberState::Up)),
            }
            prop_assert!(!facts.gone.contains(&super::life(member)));
        }
        // Of the `up` ones only the dead, the separated and the leaving are dropped, and not more than needed.
        let choice = Choice { config: &config, membership: &membership, view: &view, facts: &facts };
        let alive: Vec<Member> = view.members.iter().filter(|member| member.state == MemberState::Up && !choice.is_dead(super::life(member))).copied().collect();
        let kept = alive.iter().filter(|member| next.contains(member.node, member.incarnation)).count();
        let leaving = alive.iter().filter(|member| facts.heard[&super::life(member)].report.leaving).count();
        let most = most(&config, &choice, &alive);
        prop_assert!(kept + leaving >= most.unwrap_or(alive.len()), "{:?}", next);
        if most.is_some() {
            let stayed = || next.members.iter().filter(|member| view.contains(member.node, member.incarnation));
            let apart = |a: &Member| stayed().any(|b| a.node != b.node && choice.are_separated(a, b));
            prop_assert!(!stayed().any(apart), "{:?}", next);
        }
    }
}

/// How many of the members can stay at most, by trying all sets; none if no set is legal.
fn most(config: &ClusterConfig, choice: &Choice<'_>, alive: &[Member]) -> Option<usize> {
    let legal = |kept: &Vec<&Member>| {
        let apart = |a: &Member, b: &Member| a.node < b.node && choice.are_separated(a, b);
        let in_group = |group: usize| {
            kept.iter().any(|member| config.group_of(member.node) == Some(GroupId(group as u16)))
        };
        !kept.iter().any(|a| kept.iter().any(|b| apart(a, b))) && (0..config.groups()).all(in_group)
    };
    (0u32..1 << alive.len())
        .map(|set| {
            (0..alive.len()).filter(|index| set >> index & 1 == 1).map(|index| &alive[index]).collect()
        })
        .filter(legal)
        .map(|kept| kept.len())
        .max()
}

#[test]
fn groups_that_do_not_serve_are_named_with_who_is_missing() {
    let told = |text: &str| {
        let case = Case::parse(text);
        let config = config(case.replicas, &case.nodes);
        let settled = case.settled.iter().map(|&(group, number)| (GroupId(group), ViewNumber(number)));
        let membership = Membership::of(case.view, settled, &case.dropped, &config);
        stopped_groups(&config, &membership, &case.facts)
    };
    let nodes = |ids: &[u16]| ids.iter().map(|&id| NodeId(id)).collect::<Vec<_>>();
    let cluster = "nodes 11 12 13 14 replicas 2\nview 5 r1: 11a=up 12a=up 13a=up 14a=up\n";
    assert_eq!(told(&format!("{cluster}11a\n12a\n13a")), vec![], "14 alone is missing");
    // 13 has ended and runs anew, 14 is silent.
    let stopped = told(&format!("{cluster}11a\n12a\n13b\ngone 13a"));
    let group = StoppedGroup {
        group: GroupId(1),
        restarts: false,
        up: nodes(&[13, 14]),
        silent: nodes(&[14]),
        missing: nodes(&[14]),
        waiting: nodes(&[13]),
    };
    assert_eq!(stopped, std::slice::from_ref(&group));
    let stopped = told(&format!("{cluster}11a\n12a\n13b\n14b\ngone 13a 14a"));
    let group = StoppedGroup { silent: vec![], missing: vec![], waiting: nodes(&[13, 14]), ..group };
    assert_eq!(stopped, [group]);
    // Before the leader has listened for long enough nobody is silent.
    assert_eq!(told(&format!("{cluster}listening 100")), vec![]);
}
