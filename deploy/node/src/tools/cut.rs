//! `narthex tools cut`: asks a running process to cut and ship its head now.

use anyhow::{Context, bail};
use clap::Args;
use std::{process::ExitCode, time::Duration};

/// A cut writes and uploads everything that is in memory.
const CUT_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// Flags of the tool.
#[derive(Debug, Args)]
pub struct Cut {
    /// HTTP address of the process, which must run with --web.enable-admin-api
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:10902")]
    server: String,
}

impl Cut {
    /// Prints one line for each block.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let url = format!("{}/api/v1/admin/cut", self.server.trim_end_matches('/'));
        let client = super::healthcheck::client(CUT_TIME_MAX)?;
        let answer = client.post(&url).send().await.with_context(|| format!("POST {url}"))?;
        let status = answer.status();
        let body = answer
            .text()
            .await
            .with_context(|| format!("read the answer of {url}"))?;
        if !status.is_success() {
            bail!("{url} answered {status}: {}", body.trim());
        }
        let answer: serde_json::Value =
            serde_json::from_str(&body).with_context(|| format!("{url} answered no JSON"))?;
        let blocks = answer["data"]["blocks"].as_array().cloned().unwrap_or_default();
        for block in &blocks {
            let text = |key: &str| block[key].as_str().unwrap_or_default().to_owned();
            println!(
                "{}  tenant {}  {} series  {} samples",
                text("ulid"),
                text("tenant"),
                block["series"],
                block["samples"]
            );
        }
        println!("{} blocks cut and in the bucket", blocks.len());
        Ok(ExitCode::SUCCESS)
    }
}
