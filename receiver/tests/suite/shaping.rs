//! Series that relabelling changes, drops or hands to another tenant, and limits of tenants on whole requests.

use crate::common::{NOW, Stand, V1, float, request, v1_floats};
use cluster::limits::Limits;
use model::{push::memory::MemoryTaker, sample::FloatSample, tenant::Tenant};
use proto::{
    compression::snappy,
    remote_write::encode::{Points, V2Encoder},
};
use receiver::{
    ReceiverSettings,
    limits::LimitSource,
    relabel::{Relabel, RelabelRule},
    shape::Shaping,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

fn relabel(json: &str) -> Relabel {
    let rules: Vec<RelabelRule> = serde_json::from_str(json).unwrap();
    Relabel::new(rules).unwrap()
}

fn series(team: &str, at: i64) -> Vec<u8> {
    v1_floats(&[
        (&[("__name__", "a"), ("pod", "x")], &[(at, 1.0)]),
        (&[("__name__", "b"), ("team", team)], &[(at, 2.0)]),
    ])
}

#[test]
fn new_rules_hold_for_series_that_were_known_before() {
    let stand = Stand::default();
    assert_eq!(stand.v1(&series("one", NOW)).status, 204);
    stand.receiver.shape_by(Shaping {
        relabel: relabel(
            r#"[{"regex":"pod","action":"labeldrop"},{"source_labels":["__name__"],"regex":"b","action":"drop"}]"#,
        ),
        tenant_label: None,
    });
    for at in [NOW + 1, NOW + 2] {
        assert_eq!(stand.v1(&series("one", at)).status, 204);
    }
    assert_eq!(stand.floats(&[("__name__", "a"), ("pod", "x")]), [(NOW, 1.0)]);
    assert_eq!(stand.floats(&[("__name__", "a")]), [(NOW + 1, 1.0), (NOW + 2, 1.0)]);
    assert_eq!(stand.floats(&[("__name__", "b"), ("team", "one")]), [(NOW, 2.0)]);
    assert_eq!(stand.metric("narthex_receiver_samples_dropped_total"), 2.0);
    // The rules are taken away again.
    stand.receiver.shape_by(Shaping::default());
    assert_eq!(stand.v1(&series("one", NOW + 3)).status, 204);
    assert_eq!(stand.floats(&[("__name__", "b"), ("team", "one")]).len(), 2);
}

#[test]
fn a_label_sends_a_series_to_its_tenant() {
    let stand = Stand::default();
    stand.receiver.shape_by(Shaping {
        tenant_label: Some("team".to_owned()),
        ..Shaping::default()
    });
    for round in 0..3 {
        assert_eq!(stand.v1(&series("one", NOW + round)).status, 204);
        assert_eq!(stand.v1(&series("two", NOW + round)).status, 204);
    }
    for tenant in ["one", "two"] {
        assert_eq!(stand.floats_of(tenant, &[("__name__", "b")]).len(), 3, "{tenant}");
        assert!(stand.floats_of(tenant, &[("__name__", "a"), ("pod", "x")]).is_empty());
    }
    assert_eq!(stand.floats(&[("__name__", "a"), ("pod", "x")]).len(), 3);
    assert!(stand.floats(&[("__name__", "b")]).is_empty());
}

#[test]
fn a_label_that_names_no_tenant_costs_only_its_series() {
    let stand = Stand::default();
    stand.receiver.shape_by(Shaping {
        tenant_label: Some("team".to_owned()),
        ..Shaping::default()
    });
    let long = "x".repeat(300);
    for id in ["..", "a/b", "a\\b", "a\0b", "tеam", &long, "."] {
        let answer = stand.v1(&series(id, NOW));
        assert_eq!(answer.status, 400, "{id:?}");
        assert!(answer.body.contains("1 invalid_label"), "{}", answer.body);
    }
    assert_eq!(stand.floats(&[("__name__", "a"), ("pod", "x")]), [(NOW, 1.0)]);
    // Credentials bind: a label cannot leave their tenant.
    let mut bound = request(V1, "snappy", snappy(&series("two", NOW)));
    bound.headers.insert("thanos-tenant", "one".parse().unwrap());
    bound.bound = true;
    let answer = stand.write(bound);
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("credentials"), "{}", answer.body);
    assert!(stand.floats_of("two", &[("__name__", "b")]).is_empty());
    assert_eq!(stand.floats_of("one", &[("__name__", "a"), ("pod", "x")]).len(), 1);
}

#[test]
fn version_two_is_shaped_as_well() {
    let stand = Stand::default();
    stand.receiver.shape_by(Shaping {
        relabel: relabel(r#"[{"source_labels":["__name__"],"regex":"(.*)_old","target_label":"__name__"}]"#),
        tenant_label: Some("team".to_owned()),
    });
    let floats: [FloatSample; 1] = [float(NOW, 7.0)];
    let mut encoder = V2Encoder::default();
    let points = Points {
        floats: &floats,
        ..Points::default()
    };
    encoder.series([("__name__", "x_old"), ("team", "one")], points, None);
    let answer = stand.v2(&encoder.finish());
    assert_eq!(answer.status, 204);
    assert_eq!(crate::common::written(&answer), [Some(1), Some(0), Some(0)]);
    assert_eq!(stand.floats_of("one", &[("__name__", "x")]), [(NOW, 7.0)]);
}

/// Limits that a test changes: samples per second of everybody but the tenant `free`.
struct Adjustable(AtomicU64);

impl LimitSource for Adjustable {
    fn limits(&self, tenant: &Tenant) -> Limits {
        let limited = tenant.as_str() != "free";
        Limits {
            samples_per_second_max: limited.then(|| self.0.load(Ordering::Relaxed)),
            request_series_max: Some(2),
            ..Limits::default()
        }
    }

    fn nodes(&self) -> usize {
        1
    }
}

#[test]
fn a_request_has_a_bound_of_series() {
    let stand = Stand::default();
    stand.receiver.limit_by(Arc::new(Adjustable(AtomicU64::new(0))));
    assert_eq!(stand.v1(&series("one", NOW)).status, 204);
    let three = v1_floats(&[
        (&[("__name__", "a")], &[(NOW, 1.0)]),
        (&[("__name__", "b")], &[(NOW, 1.0)]),
        (&[("__name__", "c")], &[(NOW, 1.0)]),
    ]);
    let answer = stand.v1(&three);
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("limit is 2 series"), "{}", answer.body);
}

#[test]
fn a_tenant_over_its_rate_costs_the_others_of_the_request_nothing() {
    let stand = Stand::new(ReceiverSettings::default(), MemoryTaker::new());
    stand.receiver.shape_by(Shaping {
        tenant_label: Some("team".to_owned()),
        ..Shaping::default()
    });
    stand.receiver.limit_by(Arc::new(Adjustable(AtomicU64::new(1))));
    // Ten seconds' worth are there; the time of this test stands still.
    let mut answers = Vec::new();
    for round in 0..12 {
        let body = v1_floats(&[
            (&[("__name__", "a"), ("team", "limited")], &[(NOW + round, 1.0)]),
            (&[("__name__", "a"), ("team", "free")], &[(NOW + round, 1.0)]),
        ]);
        let mut sent = request(V1, "snappy", snappy(&body));
        sent.headers.insert("thanos-tenant", "free".parse().unwrap());
        answers.push(stand.write(sent).status.as_u16());
    }
    assert_eq!(answers, [[204; 10].as_slice(), [503; 2].as_slice()].concat());
    assert_eq!(stand.floats_of("limited", &[("__name__", "a")]).len(), 10);
    assert_eq!(stand.floats_of("free", &[("__name__", "a")]).len(), 12);
    assert_eq!(
        stand.metric("narthex_receiver_tenant_requests_limited_total{tenant=\"limited\"}"),
        2.0
    );
}
