//! What the status pages of the API say about this process.

use crate::settings::Settings;
use model::{env::Env, time::Timestamp};
use querier::status::StatusProvider;

/// Settings and start time of this process.
pub struct Status {
    flags: Vec<(String, String)>,
    started: Timestamp,
}

impl Status {
    /// For a process that starts now.
    pub fn new(settings: &Settings, env: &Env) -> Self {
        Self {
            flags: settings.shown(),
            started: env.clock.now(),
        }
    }
}

impl StatusProvider for Status {
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn revision(&self) -> String {
        String::new()
    }

    fn flags(&self) -> Vec<(String, String)> {
        self.flags.clone()
    }

    fn config(&self) -> String {
        // Flow strings of JSON are YAML, whatever a value holds.
        self.flags
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", serde_json::json!(value)))
            .collect()
    }

    fn started(&self) -> Timestamp {
        self.started
    }
}
