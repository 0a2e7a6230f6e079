//! Holds the shape of the house: which crate may import which, in what order modules stand, who may know protobuf and files.
//!
//! The rules are read off manifests and `crate::` paths. Each rule is a function from text to a list of faults, so that it is also
//! tested on text that breaks it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Our crates: folder, name, and which of ours it may depend on. Doors open downwards only.
const HOUSE: &[(&str, &str, &[&str])] = &[
    ("proto/model", "model", &[]),
    ("proto", "proto", &["model"]),
    ("storage", "storage", &["model"]),
    ("ingest", "ingest", &["model", "storage"]),
    ("receiver/cluster", "cluster", &["model", "proto"]),
    ("receiver", "receiver", &["model", "proto", "cluster"]),
    ("querier/promql", "promql", &["model"]),
    ("querier", "querier", &["model", "proto", "storage", "promql"]),
    (
        "deploy/node",
        "node",
        &[
            "model", "proto", "storage", "ingest", "cluster", "receiver", "promql", "querier",
        ],
    ),
    ("loadtest", "loadtest", &["model", "proto"]),
    ("loadtest/sim", "sim", &["model", "node"]),
];

/// Libraries that only some crates may know, and why.
const RESERVED: &[(&str, &[&str], &str)] = &[
    ("prost", &["proto"], "only proto knows protobuf"),
    (
        "snap",
        &["proto", "loadtest"],
        "only proto (and the load generator) knows compression",
    ),
    ("zstd", &["proto"], "only proto knows compression"),
    ("flate2", &["proto"], "only proto knows compression"),
    (
        "object_store",
        &["storage", "node"],
        "only storage knows the object store; node opens it",
    ),
    ("memmap2", &["storage"], "only storage maps files"),
    ("clap", &["node", "loadtest"], "only binaries read the command line"),
];

/// Names that become a drawer for everything.
const DRAWERS: &[&str] = &["common", "util", "utils", "core", "base", "helpers", "misc", "shared"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Names below `[dependencies]` in a manifest; those of tests do not count.
fn dependencies(manifest: &str) -> Vec<&str> {
    let inside = manifest
        .split("\n[")
        .find_map(|section| section.strip_prefix("dependencies]\n"))
        .unwrap_or("");
    let names = inside.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}

fn edge_faults(name: &str, allowed: &[&str], manifest: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for dependency in dependencies(manifest) {
        let ours = HOUSE.iter().any(|(_, crate_name, _)| *crate_name == dependency);
        if ours && !allowed.contains(&dependency) {
            faults.push(format!("{name} must not depend on {dependency}"));
        }
        if let Some((_, who, why)) = RESERVED.iter().find(|(library, ..)| *library == dependency)
            && !who.contains(&name)
        {
            faults.push(format!("{name} must not depend on {dependency}: {why}"));
        }
    }
    faults
}

#[test]
fn crates_depend_downwards_only() {
    let mut faults = Vec::new();
    for (folder, name, allowed) in HOUSE {
        faults.extend(edge_faults(
            name,
            allowed,
            &read(&root().join(folder).join("Cargo.toml")),
        ));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_list_of_crates_is_complete() {
    let manifest = read(&root().join("Cargo.toml"));
    let members = manifest
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .unwrap()
        .0;
    let mut members: Vec<&str> = members.split(',').map(|item| item.trim().trim_matches('"')).collect();
    members.retain(|member| !member.is_empty());
    members.sort_unstable();
    let mut house: Vec<&str> = HOUSE.iter().map(|(folder, ..)| *folder).collect();
    house.sort_unstable();
    assert_eq!(members, house);
    for (folder, name, _) in HOUSE {
        assert!(
            !DRAWERS.contains(name),
            "{folder}: a crate called {name} becomes a drawer for everything"
        );
    }
}

/// Modules that `lib.rs` declares, in its order.
fn modules(lib: &str) -> Vec<&str> {
    let declared = lib.lines().filter_map(|line| {
        line.trim_start_matches("pub(crate) ")
            .trim_start_matches("pub ")
            .strip_prefix("mod ")
    });
    declared.filter_map(|rest| rest.strip_suffix(';')).collect()
}

/// Top-level modules that a file of `module` names by `crate::…` although they stand below it in `lib.rs`.
fn order_faults(order: &[&str], module: &str, text: &str) -> Vec<String> {
    let place = |name: &str| order.iter().position(|module| *module == name);
    let Some(own) = place(module) else { return Vec::new() };
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut faults = Vec::new();
    for (number, line) in code
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
    {
        for used in used_modules(line) {
            if place(used).is_some_and(|place| place > own) {
                faults.push(format!(
                    "{module}, line {}: uses crate::{used}, which lib.rs declares below it",
                    number + 1
                ));
            }
        }
    }
    faults
}

/// The words behind each `crate::` of a line, those of `crate::{a::…, b}` included.
fn used_modules(line: &str) -> Vec<&str> {
    let word = |text: &'_ str| text.len() - text.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    let mut used = Vec::new();
    for (start, _) in line.match_indices("crate::") {
        let rest = &line[start + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            used.push(&rest[..word(rest)]);
            continue;
        };
        let mut depth = 0;
        let mut fresh = true;
        for (index, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => fresh = true,
                _ if fresh && !character.is_whitespace() => {
                    used.push(&list[index..index + word(&list[index..])]);
                    fresh = false;
                }
                _ => {}
            }
        }
    }
    used
}

/// Rust files below `folder`, inner crates left out, with the top-level module that each belongs to.
fn files_by_module(folder: &Path, top: Option<&str>, found: &mut Vec<(String, PathBuf)>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let module = top.unwrap_or(&stem).to_owned();
        if path.is_dir() {
            files_by_module(&path, Some(&module), found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && stem != "lib" && stem != "tests" {
            found.push((module, path));
        }
    }
}

#[test]
fn modules_import_only_from_above() {
    let mut faults = Vec::new();
    let mut seen = BTreeMap::new();
    for (folder, name, _) in HOUSE {
        let src = root().join(folder).join("src");
        let lib = read(&src.join("lib.rs"));
        let order = modules(&lib);
        seen.insert(*name, order.len());
        let mut files = Vec::new();
        files_by_module(&src, None, &mut files);
        for (module, path) in files {
            // Multi-line `use crate::{…}` lists are joined, so that the check can go by lines.
            let text = joined_lists(&read(&path));
            faults.extend(
                order_faults(&order, &module, &text)
                    .into_iter()
                    .map(|fault| format!("{name}: {fault}")),
            );
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen["model"] >= 5, "the check saw no modules: {seen:?}");
}

/// Puts each `use crate::{` list on one line; the others keep their line breaks.
fn joined_lists(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    let mut depth: usize = 0;
    for line in text.lines() {
        if depth > 0 || line.contains("crate::{") {
            depth = (depth + line.matches('{').count()).saturating_sub(line.matches('}').count());
            joined.push_str(line);
            joined.push(if depth > 0 { ' ' } else { '\n' });
        } else {
            joined.push_str(line);
            joined.push('\n');
        }
    }
    joined
}

#[test]
fn every_crate_opens_with_its_purpose() {
    for (folder, name, _) in HOUSE {
        let lib = read(&root().join(folder).join("src/lib.rs"));
        assert!(
            lib.starts_with("//! "),
            "{name}: src/lib.rs does not open with a sentence of purpose"
        );
    }
}

#[test]
fn the_rules_notice_what_breaks_them() {
    let manifest = "[package]\nname = \"promql\"\n\n[dependencies]\nmodel.workspace = true\nstorage.workspace = true\nprost = \"1\"\n\n[dev-dependencies]\nnode.workspace = true\n";
    let faults = edge_faults("promql", &["model"], manifest);
    assert_eq!(faults.len(), 2, "{faults:?}");

    let order = modules("//! x\npub mod low;\nmod middle;\npub(crate) mod high;\n");
    assert_eq!(order, ["low", "middle", "high"]);
    assert_eq!(order_faults(&order, "low", "use crate::high::Thing;\n").len(), 1);
    assert_eq!(order_faults(&order, "high", "use crate::low::Thing;\n").len(), 0);
    let list = joined_lists("use crate::{\n    low::{A, B},\n    high::C,\n};\n");
    assert_eq!(order_faults(&order, "middle", &list).len(), 1);
    assert_eq!(
        order_faults(&order, "low", "// crate::high is fine in a comment\n").len(),
        0
    );
    assert_eq!(
        order_faults(&order, "low", "#[cfg(test)]\nmod tests { use crate::high::X; }\n").len(),
        0
    );
}
