//! `narthex healthcheck`: for container images that hold no shell and no curl.

use anyhow::Context;
use clap::Args;
use std::{process::ExitCode, time::Duration};

/// Flags of the command.
#[derive(Debug, Args)]
pub struct Healthcheck {
    /// What to ask
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:10902/-/ready")]
    url: String,

    /// Longest time to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    timeout: f64,
}

impl Healthcheck {
    /// Success when the answer is 2xx.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let wait = Duration::try_from_secs_f64(self.timeout).context("--timeout")?;
        let answer = client(wait)?
            .get(&self.url)
            .send()
            .await
            .with_context(|| format!("GET {}", self.url))?;
        let status = answer.status();
        println!("{status}: {}", answer.text().await.unwrap_or_default().trim());
        Ok(if status.is_success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// An HTTP client that gives up after `wait`.
pub(super) fn client(wait: Duration) -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(wait)
        .build()
        .context("build an HTTP client")
}
