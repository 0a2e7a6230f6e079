//! The time of day, and names made of it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// A name that no other run has.
pub fn run_name() -> String {
    format!("{}-{}", now_ms(), std::process::id())
}
