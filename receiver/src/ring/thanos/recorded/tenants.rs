//! Which ring a tenant gets, what its pattern matches, and how a file is read and judged.

use super::*;

#[test]
fn globs_agree() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("globs", 0);
    let lines = lines(&folder, "globs.jsonl");
    let tried = lines.iter().find(|line| line["tenants_tried"].is_array()).unwrap();
    for line in lines.iter().filter(|line| line["pattern"].is_string()) {
        let pattern = text(line, "pattern");
        let glob = Glob::new(pattern);
        tally.same(pattern, glob.is_err(), line["error_for"].is_array());
        let Ok(glob) = glob else { continue };
        for tenant in texts(&tried["tenants_tried"]) {
            let theirs = texts(&line["matches"]).contains(&tenant);
            tally.same(&format!("{pattern:?} on {tenant:?}"), glob.matches(tenant), theirs);
        }
    }
    tally.done(1400);
}

#[test]
fn choices_of_rings_agree() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("tenant choices", 0);
    for line in lines(&folder, "tenant_matching.jsonl") {
        let case = text(&line, "case");
        let mut rings = line["rings"].clone();
        for (index, ring) in rings.as_array_mut().into_iter().flatten().enumerate() {
            ring["endpoints"] = serde_json::json!([format!("ring-{index}:1")]);
        }
        let file = rings.to_string();
        let odd_type = |ring: &Value| !["", "exact", "glob"].contains(&text(ring, "tenant_matcher_type"));
        let bad_glob = |ring: &Value| {
            text(ring, "tenant_matcher_type") == "glob" && texts(&ring["tenants"]).iter().any(|p| Glob::new(p).is_err())
        };
        let built = match Rings::from_json(&file, Algorithm::Hashmod, 1) {
            Ok(built) => built,
            Err(RingsError::File(FileError::NoRings)) => {
                tally.same(case, list(&line["rings"]).len(), 0);
                continue;
            }
            Err(RingsError::Ring {
                fault: Fault::Matcher(_),
                ..
            }) => {
                tally.same(case, list(&line["rings"]).iter().any(odd_type), true);
                continue;
            }
            Err(RingsError::Ring {
                fault: Fault::Pattern(_),
                ..
            }) => {
                tally.same(case, list(&line["rings"]).iter().any(bad_glob), true);
                continue;
            }
            Err(error) => panic!("{case}: {error}"),
        };
        for (tenant, theirs) in line["chosen"].as_object().unwrap() {
            let ours = built.tenant(tenant).map(|view| view.owners(0)[0]);
            let ours = ours.map(|node| built.nodes()[node as usize].address.clone());
            tally.same(
                &format!("{case}: {tenant:?}"),
                ours,
                theirs.as_u64().map(|index| format!("ring-{index}:1")),
            );
        }
    }
    tally.done(400);
}

#[test]
fn external_labels_agree() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("external labels", 0);
    for line in lines(&folder, "external_labels.jsonl") {
        let mut rings = line["rings"].clone();
        for ring in rings.as_array_mut().unwrap() {
            ring["endpoints"] = serde_json::json!(["a:1"]);
        }
        let rings = Rings::from_json(&rings.to_string(), Algorithm::Hashmod, 1).unwrap();
        let object = |value: &Value| -> BTreeMap<String, String> {
            let entries = value.as_object().unwrap().iter();
            entries
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
                .collect()
        };
        let mut ours: BTreeMap<String, String> = rings
            .external_labels(text(&line, "tenant"))
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        ours.extend(object(&line["process_labels"]));
        tally.same(text(&line, "case"), ours, object(&line["result"]));
    }
    tally.done(7);
}

#[test]
fn split_tenants_agree() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("split tenants", 0);
    let endpoints: Vec<String> = (0..5).map(|node| format!("rcv-{node}:10901")).collect();
    let file = serde_json::json!([{"endpoints": endpoints, "algorithm": "ketama"}]).to_string();
    let rings = Rings::from_json(&file, Algorithm::Hashmod, 2).unwrap();
    for line in lines(&folder, "split_tenant_label.jsonl") {
        let what = line.to_string();
        let mut labels = pairs(&line["labels"]);
        let tenant = match split::split_tenant(text(&line, "split_label"), &mut labels) {
            Some(Err(_)) => {
                // Thanos lets names through that mean a folder.
                let theirs = line["error"].is_string() || [".", "..", "/"].contains(&text(&line, "tenant"));
                tally.same(&what, theirs, true);
                continue;
            }
            Some(Ok(tenant)) => tenant.to_string(),
            None => text(&line, "request_tenant").to_owned(),
        };
        tally.same(&what, tenant.as_str(), text(&line, "tenant"));
        tally.same(&what, labels.clone(), pairs(&line["forwarded_labels"]));
        let hash = SeriesHasher::new(&tenant).hash(labels);
        tally.same(&what, hash, hex(&line["hash"]));
        let owners = rings.tenant(&tenant).unwrap().owners(hash);
        let ours: Vec<&str> = owners
            .iter()
            .map(|&owner| rings.nodes()[owner as usize].address.as_str())
            .collect();
        tally.same(&what, ours, texts(&line["p"]));
    }
    tally.done(7 * 4 + 4);
}

#[test]
fn files_agree() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("files", 0);
    // Accepted by Thanos: text that no address can be, and keys that stand twice.
    let refused = [
        "endpoint-blank",
        "escapes",
        "duplicate-field",
        "duplicate-field-az-leak",
    ];
    for line in lines(&folder, "config.jsonl") {
        let case = text(&line, "case");
        let parsed = file::parse(text(&line, "input"));
        let accepted = text(&line, "file") == "ok" && !refused.contains(&case);
        tally.same(case, parsed.is_ok(), accepted);
        let ours = match &parsed {
            Ok(_) => "ok",
            Err(FileError::NoRings) => "no-hashrings-in-file",
            Err(FileError::Address { .. }) => "endpoint-without-address",
            Err(FileError::Kind { .. }) => "json-wrong-type",
            Err(FileError::Syntax(_)) => "json-syntax",
            Err(FileError::Repeated { .. }) => "repeated",
        };
        let theirs = text(&line, "file").replace("json-truncated", "json-syntax");
        if !refused.contains(&case) {
            tally.same(case, ours, theirs.as_str());
        }
        let Ok(parsed) = parsed else { continue };
        assert_eq!(parsed.len(), list(&line["rings"]).len(), "{case}");
        for (ours, theirs) in parsed.iter().zip(list(&line["rings"])) {
            tally.same(case, ours.clone(), ring_config(theirs));
        }
        for (how, theirs) in line["build"].as_object().unwrap() {
            let (algorithm, copies) = how.split_once(" rf=").unwrap();
            let ours = Rings::from_json(
                text(&line, "input"),
                algorithm.parse().unwrap(),
                copies.parse().unwrap(),
            );
            tally.same(
                &format!("{case}: {how}"),
                ours.is_ok(),
                is_sound(&line, theirs, copies.parse().unwrap()),
            );
            let probe = text(theirs, "first_replica_of_probe");
            if let Ok(rings) = ours {
                let hash = SeriesHasher::new("t").hash([("__name__", "up")]);
                let ours = rings
                    .tenant("t")
                    .map(|view| rings.nodes()[view.owners(hash)[0] as usize].address.clone());
                tally.same(&format!("{case}: {how}"), ours.as_deref(), probe.strip_prefix("ok "));
            }
        }
    }
    tally.done(300);
}

/// A recorded ring as ours.
fn ring_config(theirs: &Value) -> RingConfig {
    let owned = |value: &Value| texts(value).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let shuffle = &theirs["shuffle_sharding_config"];
    let labels = theirs["external_labels"].as_object().into_iter().flatten();
    RingConfig {
        hashring: text(theirs, "hashring").into(),
        tenants: owned(&theirs["tenants"]),
        tenant_matcher_type: text(theirs, "tenant_matcher_type").into(),
        endpoints: endpoints(&theirs["endpoints"])
            .into_iter()
            .map(|(_, endpoint)| endpoint)
            .collect(),
        algorithm: text(theirs, "algorithm").into(),
        external_labels: labels
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().into()))
            .collect(),
        shuffle_sharding: file::ShuffleConfig {
            shard_size: shuffle["shard_size"].as_i64().unwrap_or(0),
            cache_size: shuffle["cache_size"].as_i64().unwrap_or(0),
            zone_awareness_disabled: shuffle["zone_awareness_disabled"].as_bool().unwrap_or(false),
            overrides: list(&shuffle["overrides"])
                .iter()
                .map(|other| file::OverrideConfig {
                    shard_size: other["shard_size"].as_i64().unwrap_or(0),
                    tenants: owned(&other["tenants"]),
                    tenant_matcher_type: text(other, "tenant_matcher_type").into(),
                })
                .collect(),
        },
    }
}

/// Whether rings that Thanos builds do what they say: enough nodes for all copies, no node twice, and no word that is not understood.
fn is_sound(line: &Value, built: &Value, copies: usize) -> bool {
    let enough = |ring: &Value| {
        let mut addresses: Vec<&str> = list(&ring["endpoints"])
            .iter()
            .map(|endpoint| text(endpoint, "address"))
            .collect();
        let all = addresses.len();
        addresses.sort_unstable();
        addresses.dedup();
        all >= copies && addresses.len() == all
    };
    let words = |ring: &Value| {
        let size = ring["shuffle_sharding_config"]["shard_size"].as_i64().unwrap_or(0);
        let disabled = ring["shuffle_sharding_config"]["zone_awareness_disabled"]
            .as_bool()
            .unwrap_or(false);
        ["", "hashmod", "ketama"].contains(&text(ring, "algorithm"))
            && ["", "exact", "glob"].contains(&text(ring, "tenant_matcher_type"))
            && (size <= 0 || size >= copies as i64 || !disabled)
    };
    let rings = list(&line["rings"]);
    built.is_object() && rings.iter().all(|ring| enough(ring) && words(ring))
}
