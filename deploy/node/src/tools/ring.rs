//! `narthex tools ring`: shows and changes the ring of a running process over its HTTP API.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use cluster::group::Group;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// A change waits for the members to agree.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// `narthex tools ring …`
#[derive(Debug, Args)]
pub struct Ring {
    #[command(subcommand)]
    verb: Verb,

    /// HTTP address of any member of the ring
    #[arg(long, global = true, value_name = "URL", default_value = "http://127.0.0.1:10902")]
    server: String,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the members
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a member its share of the series (again): one that is JOINING or LEAVING
    Join {
        /// Its id or address
        member: String,
    },
    /// Let a member take nothing new, ship all it has, and leave
    Drain {
        /// Its id or address
        member: String,
    },
    /// Strike a member off that is lost or has left
    Remove {
        /// Its id or address
        member: String,
        /// Also when fewer active members than copies remain
        #[arg(long)]
        force: bool,
    },
    /// Change a member's share; 100 is usual
    Weight {
        /// Its id or address
        member: String,
        /// From 1 to 1000
        weight: u32,
    },
    /// After more members were lost for ever than a majority can spare: let the one with this data directory go on alone. It must not run;
    /// start it afterwards, strike the lost members off (`remove --force`), and the others that live follow it. Do it with one member only
    Recover {
        /// Its --data.dir
        #[arg(long = "data.dir", value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Change the number of copies of each series
    ReplicationFactor {
        /// From 1 to 9
        copies: u32,
    },
}

impl Ring {
    /// Prints the ring as it is afterwards.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let base = format!("{}/api/v1/cluster/ring", self.server.trim_end_matches('/'));
        let client = super::healthcheck::client(ANSWER_TIME_MAX)?;
        let (change, wish) = match &self.verb {
            Verb::Show { json } => {
                let shown = answer(client.get(&base), &base).await?;
                if *json {
                    println!("{}", serde_json::to_string_pretty(&shown)?);
                } else {
                    print!("{}", crate::ring::http::text(&shown));
                }
                return Ok(ExitCode::SUCCESS);
            }
            Verb::Recover { data_dir } => return recover(data_dir).await,
            Verb::Join { member } => ("join", json!({"member": member})),
            Verb::Drain { member } => ("drain", json!({"member": member})),
            Verb::Remove { member, force } => ("remove", json!({"member": member, "force": force})),
            Verb::Weight { member, weight } => ("weight", json!({"member": member, "weight": weight})),
            Verb::ReplicationFactor { copies } => ("replication-factor", json!({"replication_factor": copies})),
        };
        let url = format!("{base}/{change}");
        let shown = answer(client.post(&url).json(&wish), &url).await?;
        print!("{}", crate::ring::http::text(&shown["data"]));
        Ok(ExitCode::SUCCESS)
    }
}

/// Works on the files of a member that does not run.
async fn recover(data_dir: &Path) -> anyhow::Result<ExitCode> {
    let env = crate::env::real(tokio::runtime::Handle::current());
    let dir = data_dir.join("ring");
    // What is not there must not be made: it would be a member of nothing.
    env.fs
        .list(&dir)
        .with_context(|| format!("{} holds no member of a ring", data_dir.display()))?;
    let lock = env.fs.lock(&data_dir.join("lock"));
    let _lock = lock.with_context(|| format!("lock {}; does its process still run?", data_dir.display()))?;
    let id = Group::recover(&dir, &*env.spawn).await;
    let id = id.with_context(|| format!("recover the ring in {}", dir.display()))?;
    println!(
        "member {id} will lead alone; start it, and strike the lost members off with `narthex tools ring remove --force`"
    );
    Ok(ExitCode::SUCCESS)
}

async fn answer(request: reqwest::RequestBuilder, url: &str) -> anyhow::Result<Value> {
    let answer = request.send().await.with_context(|| format!("ask {url}"))?;
    let status = answer.status();
    let body = answer
        .text()
        .await
        .with_context(|| format!("read the answer of {url}"))?;
    let json: Option<Value> = serde_json::from_str(&body).ok();
    match json {
        Some(json) if status.is_success() => Ok(json),
        Some(json) if json["error"].is_string() => bail!("{}", json["error"].as_str().unwrap_or_default()),
        _ => bail!("{url} answered {status}: {}", body.trim()),
    }
}
