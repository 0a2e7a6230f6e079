//! Who of the members decides: up to five of them vote, the rest learn.

use crate::{
    document::Document,
    member::{Member, MemberId, State},
};
use std::collections::{BTreeMap, BTreeSet};

/// Most voters. More would make each decision slower and outlive no more likely loss.
pub(crate) const VOTERS_MAX: usize = 5;

/// What the leader has to change in the group so that it fits the document; one thing at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A member is to learn.
    Add(MemberId, String),
    /// These are to decide from now on; who decided before and is not among them still learns.
    Vote(BTreeSet<MemberId>),
    /// Members that are gone are to be forgotten.
    Forget(BTreeSet<MemberId>),
}

/// The group as the leader sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) leader: MemberId,
    pub(crate) voters: BTreeSet<MemberId>,
    /// Whether a change of the voters was begun and not finished, so that the old and the new ones must both agree.
    pub(crate) between: bool,
    /// Members of the group that do not vote.
    pub(crate) learners: BTreeSet<MemberId>,
    /// Those of all that are close to the end of the log.
    pub(crate) caught_up: BTreeSet<MemberId>,
}

/// The next step, if the group does not fit the document.
pub(crate) fn next_step(document: &Document, group: &Group) -> Option<Step> {
    if group.between {
        return Some(Step::Vote(choose_voters(document, group))).filter(|step| *step != Step::Vote(BTreeSet::new()));
    }
    let in_group = |id: &MemberId| group.voters.contains(id) || group.learners.contains(id);
    if let Some(member) = document.present().find(|member| !in_group(&member.id)) {
        return Some(Step::Add(member.id, member.address.clone()));
    }
    let voters = choose_voters(document, group);
    if !voters.is_empty() && voters != group.voters {
        return Some(Step::Vote(voters));
    }
    let present = |id: &MemberId| document.member(*id).is_some_and(|member| member.state != State::Gone);
    let gone: BTreeSet<MemberId> = group.learners.iter().copied().filter(|id| !present(id)).collect();
    (!gone.is_empty()).then_some(Step::Forget(gone))
}

/// An odd number of voters: an even one survives no more losses than one fewer. Who votes goes on voting; newcomers are taken from zones
/// that have the fewest votes. A member that leaves votes only as long as no other can.
fn choose_voters(document: &Document, group: &Group) -> BTreeSet<MemberId> {
    let able = |member: &&Member| {
        let votes = group.voters.contains(&member.id);
        let knows = group.caught_up.contains(&member.id);
        matches!(member.state, State::Active | State::Leaving) && (votes || (knows && member.state == State::Active))
    };
    let mut candidates: Vec<&Member> = document.present().filter(able).collect();
    let seats = match candidates.len().min(VOTERS_MAX) {
        even if even % 2 == 0 => even.saturating_sub(1),
        odd => odd,
    };
    let mut voters = BTreeSet::new();
    let mut votes_of: BTreeMap<&str, usize> = BTreeMap::new();
    while voters.len() < seats {
        let rank = |member: &&Member| {
            let leaves = member.state == State::Leaving;
            let votes = group.voters.contains(&member.id);
            let zone_votes = votes_of.get(member.zone.as_str()).copied().unwrap_or(0);
            (leaves, member.id != group.leader, !votes, zone_votes, member.id)
        };
        let Some(best) = (0..candidates.len()).min_by_key(|&index| rank(&candidates[index])) else {
            break;
        };
        let member = candidates.swap_remove(best);
        *votes_of.entry(member.zone.as_str()).or_default() += 1;
        voters.insert(member.id);
    }
    voters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Command, Newcomer};

    fn id(number: u64) -> MemberId {
        MemberId::new(number).unwrap()
    }

    fn ids(numbers: &[u64]) -> BTreeSet<MemberId> {
        numbers.iter().map(|&number| id(number)).collect()
    }

    /// Active members with the given zones, numbered from 1.
    fn document(zones: &[&str]) -> Document {
        let mut document = Document::default();
        for (index, zone) in zones.iter().enumerate() {
            let id = id(index as u64 + 1);
            let member = Newcomer {
                id,
                address: format!("n{id}:1"),
                zone: (*zone).into(),
                weight: 100,
            };
            let command = match index {
                0 => Command::Found {
                    member,
                    replication_factor: 1,
                },
                _ => Command::Join { member },
            };
            document = document
                .apply(&command)
                .unwrap()
                .apply(&Command::Activate { id })
                .unwrap();
        }
        document
    }

    /// A group led by `voters[0]` in which everyone has caught up.
    fn group(voters: &[u64], learners: &[u64]) -> Group {
        let (voters, learners, leader) = (ids(voters), ids(learners), id(voters[0]));
        Group {
            leader,
            caught_up: &voters | &learners,
            between: false,
            voters,
            learners,
        }
    }

    #[test]
    fn the_number_of_voters_is_odd_and_at_most_five() {
        for (size, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)] {
            let document = document(&vec![""; size]);
            let everyone: Vec<u64> = (2..=size as u64).collect();
            let chosen = match next_step(&document, &group(&[1], &everyone)) {
                Some(Step::Vote(chosen)) => chosen,
                None => ids(&[1]),
                other => panic!("{other:?}"),
            };
            assert_eq!(chosen.len(), voters, "of {size} members");
            assert!(chosen.contains(&id(1)), "the leader goes on voting");
        }
    }

    #[test]
    fn a_newcomer_learns_first_and_votes_when_it_knows_enough() {
        let document = document(&["", "", ""]);
        assert_eq!(
            next_step(&document, &group(&[1], &[2])),
            Some(Step::Add(id(3), "n3:1".into()))
        );
        let mut behind = group(&[1], &[2, 3]);
        behind.caught_up.remove(&id(3));
        assert_eq!(next_step(&document, &behind), None);
        assert_eq!(
            next_step(&document, &group(&[1], &[2, 3])),
            Some(Step::Vote(ids(&[1, 2, 3])))
        );
        assert_eq!(next_step(&document, &group(&[1, 2, 3], &[])), None);
    }

    #[test]
    fn a_change_that_a_lost_leader_began_is_finished() {
        let document = document(&["", "", "", ""]);
        let group = Group {
            between: true,
            ..group(&[2, 1, 3], &[])
        };
        assert_eq!(
            next_step(&document, &group),
            Some(Step::Vote(ids(&[1, 2, 3]))),
            "before member 4 is added"
        );
    }

    #[test]
    fn new_voters_come_from_other_zones() {
        let document = document(&["a", "a", "a", "b", "c"]);
        let mut group = group(&[1], &[2, 3, 4, 5]);
        group.caught_up.remove(&id(3));
        group.caught_up.remove(&id(2));
        assert_eq!(next_step(&document, &group), Some(Step::Vote(ids(&[1, 4, 5]))));
        group.caught_up = ids(&[1, 2, 4, 5]);
        assert_eq!(next_step(&document, &group), Some(Step::Vote(ids(&[1, 4, 5]))));
    }

    #[test]
    fn a_member_that_leaves_is_replaced_and_then_forgotten() {
        let mut document = document(&["", "", "", ""]);
        document = document.apply(&Command::Drain { id: id(2) }).unwrap();
        assert_eq!(
            next_step(&document, &group(&[1, 2, 3], &[4])),
            Some(Step::Vote(ids(&[1, 3, 4])))
        );
        assert_eq!(next_step(&document, &group(&[1, 3, 4], &[2])), None, "it still learns");
        document = document
            .apply(&Command::Remove {
                id: id(2),
                force: false,
                lost_ms: None,
            })
            .unwrap();
        assert_eq!(
            next_step(&document, &group(&[1, 3, 4], &[2])),
            Some(Step::Forget(ids(&[2])))
        );
    }

    #[test]
    fn a_member_that_leaves_votes_while_nobody_else_can() {
        let document = document(&["", "", ""]).apply(&Command::Drain { id: id(1) }).unwrap();
        assert_eq!(next_step(&document, &group(&[1, 2, 3], &[])), None);
        let document = document
            .apply(&Command::Remove {
                id: id(1),
                force: false,
                lost_ms: None,
            })
            .unwrap();
        assert_eq!(
            next_step(&document, &group(&[2, 1, 3], &[])),
            Some(Step::Vote(ids(&[2])))
        );
    }

    #[test]
    fn a_leader_that_is_gone_hands_over() {
        let document = document(&["", "", "", ""])
            .apply(&Command::Remove {
                id: id(1),
                force: false,
                lost_ms: None,
            })
            .unwrap();
        assert_eq!(
            next_step(&document, &group(&[1, 2, 3], &[4])),
            Some(Step::Vote(ids(&[2, 3, 4])))
        );
    }
}
