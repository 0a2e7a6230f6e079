//! The settings file: its keys become flags that stand before those of the command line.

use crate::role::Role;
use anyhow::{Context, bail};
use clap::Command;
use serde_json::Value;
use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

/// Whether a word of the command line names a role, which takes the same settings as a process of all roles.
pub fn is_role(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| Role::named(word).is_some())
}

/// Turns the settings file that `arguments` or the environment name into flags that stand before `arguments`, so that one parser
/// checks both. Keys whose variable is set are left out, since variables win over the file.
pub fn with_config_file(command: &Command, arguments: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Some(path) = config_file_of(&arguments) else {
        return Ok(arguments);
    };
    let shown = path.display();
    #[expect(clippy::disallowed_methods, reason = "settings are read before there is an Env")]
    let bytes = std::fs::read(&path).with_context(|| format!("read the settings file {shown}"))?;
    let text = String::from_utf8(bytes).with_context(|| format!("the settings file {shown} is not UTF-8"))?;
    let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("parse the settings file {shown}"))?;
    let mut pairs = Vec::new();
    flatten("", &value, &mut pairs).with_context(|| format!("the settings file {shown}"))?;
    // A role stands before its flags.
    let begin = 1 + usize::from(arguments.get(1).is_some_and(|first| is_role(first)));
    let mut merged: Vec<OsString> = arguments.iter().take(begin).cloned().collect();
    for (key, value) in pairs {
        let known = command.get_arguments().find(|arg| arg.get_long() == Some(&key));
        let Some(arg) = known.filter(|_| key != "config.file") else {
            bail!("{shown}: unknown key {key:?}{}", suggestion(command, &key));
        };
        if arg
            .get_env()
            .is_some_and(|variable| std::env::var_os(variable).is_some())
        {
            continue;
        }
        merged.push(format!("--{key}={value}").into());
    }
    merged.extend(arguments.into_iter().skip(begin));
    Ok(merged)
}

/// The path that `--config.file` or its variable names.
fn config_file_of(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--config.file" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config.file=")) {
            return Some(path.into());
        }
    }
    std::env::var_os("NARTHEX_CONFIG_FILE").map(PathBuf::from)
}

/// Writes nested keys with dots between them; a list gives its key once for each item.
fn flatten(prefix: &str, value: &Value, pairs: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    match value {
        Value::Null if prefix.is_empty() => {}
        Value::Null => bail!("key {prefix:?} has no value"),
        Value::Object(map) => {
            for (key, value) in map {
                let path = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&path, value, pairs)?;
            }
        }
        _ if prefix.is_empty() => bail!("holds no keys at its top level"),
        Value::Array(items) => items.iter().try_for_each(|item| flatten(prefix, item, pairs))?,
        Value::String(text) => pairs.push((prefix.to_owned(), text.clone())),
        Value::Bool(_) | Value::Number(_) => pairs.push((prefix.to_owned(), value.to_string())),
    }
    Ok(())
}

/// `; did you mean …?` when a known key is near.
fn suggestion(command: &Command, key: &str) -> String {
    let near = command.get_arguments().filter_map(|arg| arg.get_long());
    let best = near
        .map(|long| (strsim::jaro_winkler(long, key), long))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, long)) if likeness > 0.8 => format!("; did you mean {long:?}?"),
        _ => "; `narthex --help` lists the keys".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_keys_become_dotted_ones() {
        let value: Value =
            serde_saphyr::from_str("data: {dir: /x}\nlabel: [a=b, c=d]\nquery.concurrency: 3\n").unwrap();
        let mut pairs = Vec::new();
        flatten("", &value, &mut pairs).unwrap();
        pairs.sort();
        let expected = [
            ("data.dir", "/x"),
            ("label", "a=b"),
            ("label", "c=d"),
            ("query.concurrency", "3"),
        ];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
}
