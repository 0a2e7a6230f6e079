//! The time of day, and names made of it.

use anyhow::Context;
use std::{
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// The date in UTC, as `date` tells it.
pub fn today() -> anyhow::Result<String> {
    let output = Command::new("date")
        .args(["-u", "+%Y-%m-%d"])
        .output()
        .context("run date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A name that no other run has.
pub fn run_name() -> String {
    format!("{}-{}", now_ms(), std::process::id())
}
