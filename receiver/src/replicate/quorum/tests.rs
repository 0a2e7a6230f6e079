//! Every combination of what replicas can say, for one to five copies, against what the words of the promise say.

use super::*;

/// What is known of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replica {
    Written,
    Duplicate,
    Refused,
    Silent,
    Pending,
}

const ALL: [Replica; 5] = [
    Replica::Written,
    Replica::Duplicate,
    Replica::Refused,
    Replica::Silent,
    Replica::Pending,
];

fn count(replicas: &[Replica], which: &[Replica]) -> usize {
    replicas.iter().filter(|replica| which.contains(replica)).count()
}

fn decide(copies: usize, replicas: &[Replica]) -> Decision {
    let mut votes = Votes::default();
    for replica in replicas {
        match replica {
            Replica::Written => votes.add(Verdict::Written),
            Replica::Duplicate => votes.add(Verdict::Duplicate),
            Replica::Refused => votes.add(Verdict::Rejected(Reason::TooOld)),
            Replica::Silent | Replica::Pending => {}
        }
    }
    votes.decide(Rule::new(copies), count(replicas, &[Replica::Pending]) as u8)
}

/// All ways in which the pending replicas may still vote.
fn futures(replicas: &[Replica]) -> Vec<Vec<Replica>> {
    let Some(place) = replicas.iter().position(|replica| *replica == Replica::Pending) else {
        return vec![replicas.to_vec()];
    };
    let settled = ALL.iter().filter(|replica| **replica != Replica::Pending);
    settled
        .flat_map(|replica| {
            let mut next = replicas.to_vec();
            next[place] = *replica;
            futures(&next)
        })
        .collect()
}

/// The promise in words, worked out another way: by looking at every possible end.
fn expected(copies: usize, replicas: &[Replica]) -> Decision {
    let disks = [1, 1, 2, 3, 3][copies - 1];
    let end = |replicas: &[Replica]| {
        let holders = count(replicas, &[Replica::Written, Replica::Duplicate]);
        let refusals = count(replicas, &[Replica::Refused]);
        if holders >= disks {
            'a'
        } else if copies - refusals < disks || refusals >= disks {
            'r'
        } else {
            'u'
        }
    };
    let mut ends: Vec<char> = futures(replicas).iter().map(|replicas| end(replicas)).collect();
    ends.sort_unstable();
    ends.dedup();
    match ends[..] {
        ['a'] => Decision::Accepted(match count(replicas, &[Replica::Written]) {
            0 => Verdict::Duplicate,
            _ => Verdict::Written,
        }),
        ['r'] => Decision::Rejected(Reason::TooOld),
        ['u'] => Decision::Unavailable,
        _ => Decision::Open,
    }
}

fn combinations(copies: usize) -> Vec<Vec<Replica>> {
    (0..copies).fold(vec![Vec::new()], |all, _| {
        all.iter()
            .flat_map(|before| {
                ALL.iter().map(move |replica| {
                    let mut next = before.clone();
                    next.push(*replica);
                    next
                })
            })
            .collect()
    })
}

#[test]
fn every_combination_of_verdicts_is_decided_as_promised() {
    let mut checked = 0;
    for copies in 1..=5 {
        for replicas in combinations(copies) {
            let decision = decide(copies, &replicas);
            assert_eq!(decision, expected(copies, &replicas), "{copies} copies, {replicas:?}");
            checked += 1;
        }
    }
    assert_eq!(checked, 5 + 25 + 125 + 625 + 3125);
    println!("{checked} combinations");
}

#[test]
fn a_decision_is_never_taken_back() {
    let kind = |decision| std::mem::discriminant(&decision);
    for copies in 1..=5 {
        for replicas in combinations(copies) {
            let now = decide(copies, &replicas);
            if now == Decision::Open {
                continue;
            }
            for later in futures(&replicas) {
                assert_eq!(kind(decide(copies, &later)), kind(now), "{replicas:?} became {later:?}");
            }
        }
    }
}

#[test]
fn when_all_have_judged_there_is_always_a_decision() {
    for copies in 1..=5 {
        for replicas in combinations(copies) {
            if count(&replicas, &[Replica::Silent, Replica::Pending]) == 0 {
                let decision = decide(copies, &replicas);
                assert!(
                    matches!(decision, Decision::Accepted(_) | Decision::Rejected(_)),
                    "{copies} copies, {replicas:?}: {decision:?}"
                );
            }
        }
    }
}

#[test]
fn nothing_is_acknowledged_without_its_disks() {
    for copies in 1..=5 {
        for replicas in combinations(copies) {
            if matches!(decide(copies, &replicas), Decision::Accepted(_)) {
                let holders = count(&replicas, &[Replica::Written, Replica::Duplicate]);
                assert!(holders >= [1, 1, 2, 3, 3][copies - 1], "{replicas:?}");
            }
        }
    }
}

/// In Thanos two failures of four leave a series without a cause: HTTP says 500, the gRPC handler even says that all is well.
#[test]
fn two_lost_replicas_of_four_are_neither_success_nor_nameless() {
    use Replica::*;
    assert_eq!(decide(4, &[Written, Written, Silent, Silent]), Decision::Unavailable);
    assert_eq!(
        decide(4, &[Written, Written, Refused, Refused]),
        Decision::Rejected(Reason::TooOld)
    );
}

/// In Thanos a request that was half stored and is sent again conflicts with itself, and with one node down is answered 503 until that
/// node is back.
#[test]
fn a_retry_that_half_the_replicas_have_is_a_success() {
    use Replica::*;
    assert_eq!(
        decide(3, &[Duplicate, Written, Silent]),
        Decision::Accepted(Verdict::Written)
    );
    assert_eq!(
        decide(3, &[Duplicate, Duplicate, Silent]),
        Decision::Accepted(Verdict::Duplicate)
    );
}

/// One accepts, one refuses, one is down: another node takes the place of the one that is down and decides.
#[test]
fn a_substitute_decides_between_success_and_refusal() {
    use Replica::*;
    assert_eq!(decide(3, &[Written, Refused, Silent]), Decision::Unavailable);
    assert_eq!(decide(3, &[Written, Refused, Silent, Pending]), Decision::Open);
    assert_eq!(
        decide(3, &[Written, Refused, Silent, Written]),
        Decision::Accepted(Verdict::Written)
    );
}

/// In Thanos plain failures are always waited for, up to the time-out.
#[test]
fn the_answer_does_not_wait_for_what_cannot_change_it() {
    use Replica::*;
    assert_eq!(
        decide(3, &[Written, Written, Pending]),
        Decision::Accepted(Verdict::Written)
    );
    assert_eq!(
        decide(3, &[Refused, Refused, Pending]),
        Decision::Rejected(Reason::TooOld)
    );
    assert_eq!(
        decide(5, &[Written, Silent, Silent, Silent, Refused]),
        Decision::Unavailable
    );
    assert_eq!(decide(3, &[Silent, Silent, Pending]), Decision::Unavailable);
}

#[test]
fn a_pair_with_one_down_takes_writes_and_refuses_what_can_never_be_stored() {
    use Replica::*;
    assert_eq!(decide(2, &[Written, Silent]), Decision::Accepted(Verdict::Written));
    assert_eq!(decide(2, &[Refused, Silent]), Decision::Rejected(Reason::TooOld));
    assert_eq!(decide(2, &[Refused, Pending]), Decision::Open);
    assert_eq!(decide(2, &[Refused, Written]), Decision::Accepted(Verdict::Written));
}
