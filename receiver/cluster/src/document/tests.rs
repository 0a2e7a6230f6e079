//! Stories of a ring: what each command does to the document, and that no sequence of commands breaks it.

use super::*;
use crate::member::WEIGHT_NORMAL;
use proptest::prelude::*;

fn id(number: u64) -> MemberId {
    MemberId::new(number).unwrap()
}

fn newcomer(number: u64) -> Newcomer {
    Newcomer {
        id: id(number),
        address: format!("n{number}:10901"),
        zone: format!("z{}", number % 3),
        weight: WEIGHT_NORMAL,
    }
}

fn join(number: u64) -> Command {
    Command::Join {
        member: newcomer(number),
    }
}

/// A ring of `size` active members, numbered from 1.
fn ring(size: u64, replication_factor: u32) -> Document {
    let mut document = Document::default();
    document = document
        .apply(&Command::Found {
            member: newcomer(1),
            replication_factor,
        })
        .unwrap();
    for number in 2..=size {
        document = document.apply(&join(number)).unwrap();
        document = document.apply(&Command::Activate { id: id(number) }).unwrap();
    }
    document
}

fn states(document: &Document) -> Vec<(u64, State)> {
    document
        .members
        .iter()
        .map(|member| (member.id.get(), member.state))
        .collect()
}

#[test]
fn a_member_comes_and_goes() {
    let mut document = ring(3, 2);
    assert_eq!(document.epoch, 5);
    document = document.apply(&join(4)).unwrap();
    assert_eq!(document.member(id(4)).unwrap().state, State::Joining);
    assert_eq!(document.active().count(), 3, "a member that joins owns nothing yet");
    document = document.apply(&Command::Activate { id: id(4) }).unwrap();
    document = document.apply(&Command::Drain { id: id(1) }).unwrap();
    assert_eq!(document.present().count(), 4, "a member that leaves is still read");
    document = document
        .apply(&Command::Remove {
            id: id(1),
            force: false,
            lost_ms: None,
        })
        .unwrap();
    use State::{Active, Gone};
    assert_eq!(states(&document), [(1, Gone), (2, Active), (3, Active), (4, Active)]);
    assert_eq!(document.epoch, 9);
    assert_eq!(document.member(id(1)).unwrap().since_epoch, 9);
}

#[test]
fn a_command_that_changes_nothing_keeps_the_epoch() {
    let document = ring(3, 2);
    for command in [
        join(2),
        Command::Activate { id: id(2) },
        Command::SetWeight {
            id: id(2),
            weight: WEIGHT_NORMAL,
        },
        Command::SetReplicationFactor {
            replication_factor: 2,
            at_ms: 0,
        },
        Command::SetLimits {
            limits: Limits::default(),
        },
        Command::SetTenant {
            tenant: "a".into(),
            limits: Limits::default(),
        },
    ] {
        assert_eq!(document.apply(&command).unwrap(), document, "{command:?}");
    }
}

#[test]
fn a_known_member_moves_without_losing_its_state() {
    let mut document = ring(3, 2)
        .apply(&Command::SetWeight { id: id(2), weight: 250 })
        .unwrap();
    let moved = Newcomer {
        address: "elsewhere:1".into(),
        zone: "z9".into(),
        ..newcomer(2)
    };
    document = document.apply(&Command::Join { member: moved }).unwrap();
    let member = document.member(id(2)).unwrap();
    assert_eq!((member.address.as_str(), member.zone.as_str()), ("elsewhere:1", "z9"));
    assert_eq!((member.state, member.weight), (State::Active, 250));
    assert_eq!(document.find("elsewhere:1").unwrap().id, id(2));
    assert_eq!(document.find("2").unwrap().id, id(2));
    assert_eq!(document.find("n2:10901"), None);
}

#[test]
fn a_member_that_was_gone_comes_back_as_a_new_one() {
    let mut document = ring(4, 2)
        .apply(&Command::Remove {
            id: id(4),
            force: false,
            lost_ms: None,
        })
        .unwrap();
    document = document.apply(&join(4)).unwrap();
    let member = document.member(id(4)).unwrap();
    assert_eq!((member.state, member.since_epoch), (State::Joining, document.epoch));
}

#[test]
fn a_lost_disk_is_a_new_member_after_the_old_one_was_removed() {
    let document = ring(4, 3);
    let replacement = Command::Join {
        member: Newcomer {
            id: id(77),
            ..newcomer(4)
        },
    };
    let error = document.apply(&replacement).unwrap_err();
    assert!(error.to_string().contains("tools ring remove 4"), "{error}");
    let document = document
        .apply(&Command::Remove {
            id: id(4),
            force: false,
            lost_ms: None,
        })
        .unwrap();
    assert_eq!(
        document.apply(&replacement).unwrap().member(id(77)).unwrap().state,
        State::Joining
    );
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let three = ring(3, 3);
    let gone = ring(4, 3)
        .apply(&Command::Remove {
            id: id(4),
            force: false,
            lost_ms: None,
        })
        .unwrap();
    let bad_zone = Newcomer {
        zone: "a\nb".into(),
        ..newcomer(9)
    };
    let bad_weight = Newcomer {
        weight: 0,
        ..newcomer(9)
    };
    let cases: Vec<(&Document, Command, &str)> = vec![
        (
            &three,
            Command::Found {
                member: newcomer(9),
                replication_factor: 1,
            },
            "founded already",
        ),
        (&three, Command::Activate { id: id(9) }, "no member 9"),
        (
            &three,
            Command::Drain { id: id(1) },
            "2 active members would remain for replication factor 3",
        ),
        (
            &three,
            Command::Remove {
                id: id(1),
                force: false,
                lost_ms: None,
            },
            "let another join first",
        ),
        (
            &three,
            Command::SetReplicationFactor {
                replication_factor: 4,
                at_ms: 0,
            },
            "there are 3",
        ),
        (
            &three,
            Command::SetReplicationFactor {
                replication_factor: 0,
                at_ms: 0,
            },
            "between 1 and 9",
        ),
        (
            &three,
            Command::SetReplicationFactor {
                replication_factor: 10,
                at_ms: 0,
            },
            "between 1 and 9",
        ),
        (&three, Command::SetWeight { id: id(1), weight: 0 }, "drain a member"),
        (
            &three,
            Command::SetWeight {
                id: id(1),
                weight: 1001,
            },
            "between 1 and 1000",
        ),
        (
            &three,
            Command::SetTenant {
                tenant: "a/b".into(),
                limits: Limits::default(),
            },
            "characters other than",
        ),
        (&three, Command::Join { member: bad_zone }, "zone name"),
        (&three, Command::Join { member: bad_weight }, "weight 0"),
        (&gone, Command::Activate { id: id(4) }, "is GONE"),
        (&gone, Command::Drain { id: id(4) }, "is GONE"),
        (&gone, Command::SetWeight { id: id(4), weight: 50 }, "is GONE"),
    ];
    for (document, command, reason) in cases {
        let error = document.apply(&command).unwrap_err().to_string();
        assert!(error.contains(reason), "{command:?} was refused with {error:?}");
    }
    assert_eq!(Document::default().apply(&join(1)), Err(DocumentError::NotFounded));
}

#[test]
fn a_dead_member_can_be_removed_by_force_but_not_the_last_one() {
    let mut document = ring(3, 3);
    document = document
        .apply(&Command::Remove {
            id: id(1),
            force: true,
            lost_ms: None,
        })
        .unwrap();
    document = document
        .apply(&Command::Remove {
            id: id(2),
            force: true,
            lost_ms: None,
        })
        .unwrap();
    assert_eq!(
        document.apply(&Command::Remove {
            id: id(3),
            force: true,
            lost_ms: None
        }),
        Err(DocumentError::LastActive(id(3)))
    );
}

#[test]
fn a_drain_can_be_called_off() {
    let document = ring(3, 2).apply(&Command::Drain { id: id(2) }).unwrap();
    assert_eq!(document.member(id(2)).unwrap().state, State::Leaving);
    let document = document.apply(&Command::Activate { id: id(2) }).unwrap();
    assert_eq!(document.member(id(2)).unwrap().state, State::Active);
}

#[test]
fn only_the_last_hundred_that_left_are_remembered() {
    let mut document = ring(2, 1);
    for number in 10..(10 + GONE_MAX as u64 + 5) {
        document = document.apply(&join(number)).unwrap();
        document = document
            .apply(&Command::Remove {
                id: id(number),
                force: false,
                lost_ms: None,
            })
            .unwrap();
    }
    assert_eq!(document.members.len(), 2 + GONE_MAX);
    assert_eq!(document.member(id(14)), None, "the first five are forgotten");
    assert!(document.member(id(15)).is_some());
}

#[test]
fn limits_of_a_tenant_stand_before_those_of_all() {
    let all = Limits {
        shard_size: Some(3),
        active_series_max: Some(100),
        ..Limits::default()
    };
    let own = Limits {
        active_series_max: Some(5),
        ..Limits::default()
    };
    let mut document = ring(1, 1).apply(&Command::SetLimits { limits: all }).unwrap();
    document = document
        .apply(&Command::SetTenant {
            tenant: "a".into(),
            limits: own,
        })
        .unwrap();
    let limits = |document: &Document, tenant| document.limits_of(&Tenant::new(tenant).unwrap());
    assert_eq!(
        limits(&document, "a"),
        Limits {
            shard_size: Some(3),
            ..own
        }
    );
    assert_eq!(limits(&document, "b"), all);
    document = document
        .apply(&Command::SetTenant {
            tenant: "a".into(),
            limits: Limits::default(),
        })
        .unwrap();
    assert!(document.tenants.is_empty());
}

#[test]
fn the_json_is_what_users_see() {
    let text = String::from_utf8(ring(1, 3).to_json()).unwrap();
    let member = r#"{"id":1,"address":"n1:10901","zone":"z1","weight":100,"state":"ACTIVE","since_epoch":1}"#;
    assert_eq!(
        text,
        format!(r#"{{"epoch":1,"replication_factor":3,"members":[{member}]}}"#)
    );
    let command = serde_json::to_string(&Command::Remove {
        id: id(7),
        force: true,
        lost_ms: None,
    })
    .unwrap();
    assert_eq!(command, r#"{"command":"remove","id":7,"force":true}"#);
}

#[test]
fn json_that_contradicts_itself_is_no_document() {
    let member = |number: u64, address: &str| {
        format!(r#"{{"id":{number},"address":"{address}","zone":"","weight":100,"state":"ACTIVE"}}"#)
    };
    let document = |members: &[String], factor: u32| {
        format!(
            r#"{{"epoch":1,"replication_factor":{factor},"members":[{}]}}"#,
            members.join(",")
        )
    };
    let good = document(&[member(1, "a:1"), member(2, "b:1")], 2);
    assert!(Document::from_json(good.as_bytes()).is_ok());
    for (text, reason) in [
        (document(&[member(2, "a:1"), member(1, "b:1")], 2), "stands behind"),
        (document(&[member(1, "a:1"), member(1, "b:1")], 2), "stands behind"),
        (
            document(&[member(1, "a:1"), member(2, "a:1")], 2),
            "two members at address",
        ),
        (document(&[member(0, "a:1")], 1), "no member id"),
        (document(&[member(1, "a")], 1), "no address"),
        (document(&[member(1, "a:1")], 0), "replication factor 0"),
        (good.replace("ACTIVE", "active"), "unknown variant"),
        ("[]".into(), "not a ring document"),
        ("".into(), "not a ring document"),
    ] {
        let error = Document::from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason), "{text} was refused with {error:?}");
    }
}

/// Any command about members 1 to 8, sensible or not.
pub(super) fn any_command() -> impl Strategy<Value = Command> {
    (0..9_u8, 1..9_u64, 0..12_u32, any::<bool>()).prop_map(|(kind, number, value, force)| match kind {
        0 => Command::Found {
            member: newcomer(number),
            replication_factor: value,
        },
        1 | 2 => Command::Join {
            member: Newcomer {
                weight: value * 100,
                ..newcomer(number)
            },
        },
        3 => Command::Activate { id: id(number) },
        4 => Command::Drain { id: id(number) },
        5 => Command::Remove {
            id: id(number),
            force,
            lost_ms: None,
        },
        6 => Command::SetWeight {
            id: id(number),
            weight: value * 150,
        },
        7 => Command::SetReplicationFactor {
            replication_factor: value,
            at_ms: 0,
        },
        _ => Command::SetTenant {
            tenant: format!("t{number}"),
            limits: Limits {
                shard_size: force.then_some(value),
                ..Limits::default()
            },
        },
    })
}

const HOUR_MS: i64 = 3_600_000;

#[test]
fn what_was_written_with_fewer_copies_can_spare_fewer_members() {
    let factor = |copies: u32, at_ms: i64| Command::SetReplicationFactor {
        replication_factor: copies,
        at_ms,
    };
    let mut document = ring(5, 1);
    assert_eq!((document.spare_since(0), document.thin), (0, None));
    document = document.apply(&factor(3, 7 * HOUR_MS)).unwrap();
    assert_eq!(
        document.spare_since(7 * HOUR_MS),
        0,
        "written just before, by a clock ahead of ours"
    );
    assert_eq!(document.spare_since(8 * HOUR_MS), 1);
    document = document.apply(&factor(5, 20 * HOUR_MS)).unwrap();
    assert_eq!([20, 21].map(|hour| document.spare_since(hour * HOUR_MS)), [0, 2]);
    // Fewer copies from now on take nothing from what there is.
    let fewer = ring(5, 5).apply(&factor(3, 7 * HOUR_MS)).unwrap();
    assert_eq!((fewer.thin, fewer.spare_since(0)), (None, 1));
    let text = document.to_json();
    assert_eq!(Document::from_json(&text).unwrap().thin, document.thin);
}

#[test]
fn a_lost_disk_takes_a_copy_away_and_a_shipped_one_does_not() {
    let remove = |number: u64, lost_ms: Option<i64>| Command::Remove {
        id: id(number),
        force: false,
        lost_ms,
    };
    let left = ring(6, 3).apply(&Command::Drain { id: id(1) }).unwrap();
    let left = left.apply(&remove(1, None)).unwrap();
    assert_eq!(left.thin, None, "all it had is in the bucket");
    let lost = left.apply(&remove(2, Some(5 * HOUR_MS))).unwrap();
    assert_eq!([5, 6].map(|hour| lost.spare_since(hour * HOUR_MS)), [0, 1]);
    let again = lost.apply(&remove(2, Some(50 * HOUR_MS))).unwrap();
    assert_eq!(again.thin, lost.thin, "it is lost once");
    let waiting = lost.apply(&join(9)).unwrap();
    let waiting = waiting.apply(&remove(9, Some(50 * HOUR_MS))).unwrap();
    assert_eq!(waiting.thin, lost.thin, "a member that never took part had nothing");
    let five = ring(6, 5).apply(&remove(1, Some(0))).unwrap();
    assert_eq!((five.spare_since(0), five.spare_since(HOUR_MS)), (1, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is proposed: the document stays whole, the epoch counts exactly the changes, once active there is always an active
    /// member, and it survives being written and read.
    #[test]
    fn no_sequence_of_commands_breaks_the_document(commands in prop::collection::vec(any_command(), 1..60)) {
        let mut document = Document::default();
        for command in &commands {
            let Ok(next) = document.apply(command) else { continue };
            prop_assert_eq!(next.check(), Ok(()));
            prop_assert_eq!(next.epoch, document.epoch + u64::from(next != document));
            prop_assert!(next.active().count() > 0);
            prop_assert_eq!(&Document::from_json(&next.to_json()).unwrap(), &next);
            document = next;
        }
    }
}
