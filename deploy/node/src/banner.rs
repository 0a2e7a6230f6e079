//! The first thing that a person sees: where to send, where to ask, where data lies, how to stop. And the log behind it.

use crate::{role::Role, settings::Settings};
use anyhow::Context;
use std::{io::IsTerminal, net::SocketAddr};
use tracing_subscriber::EnvFilter;

/// Libraries that tell at "info" what only their authors read. A directive of the settings for one of them wins.
const QUIET: &str = "openraft=warn,sled=warn";

/// Sends log lines to standard error, as the settings say.
pub fn start_logging(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", settings.log_level))
        .with_context(|| format!("{:?} is no log filter (--log.level)", settings.log_level))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if settings.log_format == "json" {
        lines.json().init()
    } else {
        lines.with_target(false).init()
    }
    Ok(())
}

/// The block that a Prometheus user pastes.
pub fn remote_write_block(address: SocketAddr) -> String {
    let place = place(address);
    format!("remote_write:\n  - name: narthex\n    url: http://{place}/api/v1/write\n")
}

/// Where others find a process that listens on `address`. One that listens on all addresses does not know which of them others can use.
fn place(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("HOST:{}", address.port()),
        false => address.to_string(),
    }
}

/// What is printed at the start.
pub fn welcome(role: Role, settings: &Settings, address: SocketAddr, bucket: &str) -> String {
    let block = remote_write_block(address)
        .lines()
        .map(|line| format!("      {line}\n"))
        .collect::<String>();
    let reach = if settings.tenancy.web_config_file.is_some() {
        "as the web configuration file says"
    } else if address.ip().is_loopback() {
        "loopback only, no authentication; --http.address opens it to others"
    } else {
        "open to the network WITHOUT authentication; HOST is this machine's name or address"
    };
    let place = place(address);
    let send = format!("  Send     paste into prometheus.yml:\n\n{block}\n");
    let query = format!("  Query    http://{place}   (Prometheus API; in Grafana a data source of type Prometheus)\n");
    let store = format!(
        "  StoreAPI {}   (for `narthex query --endpoint`, or a Thanos querier)\n",
        settings.grpc_address
    );
    let data = settings.data_dir.display();
    let data = match bucket {
        "" => String::new(),
        bucket => format!("  Data     {data}   (bucket: {bucket})\n"),
    };
    let (shown, stop) = match role {
        Role::All | Role::Receive => (format!("{send}{query}{data}"), "; nothing acknowledged is ever lost"),
        Role::Store => (format!("{store}{data}"), ""),
        Role::Query => (format!("{query}{store}{data}"), ""),
    };
    format!(
        "\nnarthex {version}: {role}\n\n{shown}  Reach    {reach}\n  Stop     Ctrl-C{stop}\n\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_names_a_place_that_others_can_use() {
        let block = |address: &str| remote_write_block(address.parse().unwrap());
        assert!(block("127.0.0.1:10902").contains("http://127.0.0.1:10902/api/v1/write"));
        for all in ["0.0.0.0:10902", "[::]:10902"] {
            assert!(block(all).contains("http://HOST:10902/api/v1/write"), "{all}");
        }
    }
}
