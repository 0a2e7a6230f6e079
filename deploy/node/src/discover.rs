//! Finds the endpoints that the settings name, again and again: addresses as they stand, files, DNS.
//!
//! What cannot be looked up keeps its last answer, so a name server that is away for a while costs nothing. A name that never
//! resolved stays in the list under its own name, so that the querier says it is missing.

use crate::settings::Settings;
use anyhow::Context;
use futures::future::BoxFuture;
use hickory_resolver::{TokioResolver, proto::rr::RData};
use model::env::{Env, Fs};
use proto::thanos::ClientTls;
use querier::{EndpointSet, EndpointSettings};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Larger files of endpoints are refused.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Looks names up.
pub trait Resolve: Send + Sync {
    /// The IP addresses of a host.
    fn addresses(&self, host: String) -> BoxFuture<'_, anyhow::Result<Vec<String>>>;

    /// Host and port of each target of a service (SRV).
    fn services(&self, name: String) -> BoxFuture<'_, anyhow::Result<Vec<(String, u16)>>>;
}

/// The name servers of this machine.
pub struct SystemDns(TokioResolver);

impl SystemDns {
    /// As /etc/resolv.conf and /etc/hosts say.
    pub fn new() -> anyhow::Result<Self> {
        let builder = TokioResolver::builder_tokio().context("read /etc/resolv.conf")?;
        Ok(Self(builder.build().context("set up DNS")?))
    }

    #[cfg(test)]
    fn asking(server: std::net::SocketAddr) -> Self {
        use hickory_resolver::{
            config::{NameServerConfig, ResolverConfig},
            net::runtime::TokioRuntimeProvider,
        };
        let mut name_server = NameServerConfig::udp(server.ip());
        for connection in &mut name_server.connections {
            connection.port = server.port();
        }
        let config = ResolverConfig::from_name_servers(vec![name_server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Self(builder.build().unwrap())
    }
}

impl Resolve for SystemDns {
    fn addresses(&self, host: String) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        Box::pin(async move {
            let found = self.0.lookup_ip(host).await?;
            Ok(found.iter().map(|address| address.to_string()).collect())
        })
    }

    fn services(&self, name: String) -> BoxFuture<'_, anyhow::Result<Vec<(String, u16)>>> {
        Box::pin(async move {
            let found = self.0.srv_lookup(name).await?;
            let targets = found.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(service) => {
                    let host = service.target.to_utf8();
                    Some((host.trim_end_matches('.').to_owned(), service.port))
                }
                _ => None,
            });
            Ok(targets.collect())
        })
    }
}

/// A word of `--endpoint`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Spec {
    /// `host:port`, resolved by the connection itself.
    Plain(String),
    /// `dns+host:port`: all addresses of the host.
    Addresses(String, u16),
    /// `dnssrv+name`: all targets of the service.
    Services(String),
}

impl Spec {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(name) = text.strip_prefix("dnssrv+").or_else(|| text.strip_prefix("dnssrvnoa+")) {
            return match name {
                "" => Err(format!(
                    "{text:?} names no service; an example is dnssrv+_grpc._tcp.receive.example.org"
                )),
                name => Ok(Spec::Services(name.to_owned())),
            };
        }
        let (dns, place) = match text.strip_prefix("dns+").or_else(|| text.strip_prefix("dnsdualstack+")) {
            Some(place) => (true, place),
            None => (false, text),
        };
        let parts = place
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match parts {
            Some((host, port)) if !host.is_empty() && !host.contains(['/', ' ', '@']) => Ok(match dns {
                true => Spec::Addresses(host.to_owned(), port),
                false => Spec::Plain(place.to_owned()),
            }),
            _ => Err(format!("{text:?} is no HOST:PORT, dns+HOST:PORT or dnssrv+NAME")),
        }
    }
}

/// A file of endpoints: addresses, or groups of them as Prometheus writes them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    Address(String),
    Group { targets: Vec<String> },
}

/// Looks for endpoints.
pub struct Discovery {
    fixed: Vec<Spec>,
    files: Vec<PathBuf>,
    fs: Arc<dyn Fs>,
    dns: Arc<dyn Resolve>,
    /// What each name and each file gave last.
    names: BTreeMap<Spec, Vec<String>>,
    listed: BTreeMap<PathBuf, Vec<Spec>>,
}

impl Discovery {
    /// For the endpoints of the settings; an address that cannot be one is an error here, in a file it is logged.
    pub fn new(settings: &Settings, fs: Arc<dyn Fs>, dns: Arc<dyn Resolve>) -> anyhow::Result<Self> {
        let fixed = settings.endpoints.iter().map(|text| Spec::parse(text));
        let fixed = fixed.collect::<Result<Vec<Spec>, String>>().map_err(anyhow::Error::msg);
        Ok(Self {
            fixed: fixed.context("--endpoint")?,
            files: settings.endpoint_files.clone(),
            fs,
            dns,
            names: BTreeMap::new(),
            listed: BTreeMap::new(),
        })
    }

    /// The addresses as they are now.
    pub async fn addresses(&mut self) -> BTreeSet<String> {
        for path in &self.files {
            match read_list(&*self.fs, path) {
                Ok(specs) => drop(self.listed.insert(path.clone(), specs)),
                Err(error) => {
                    let file = path.display();
                    tracing::warn!(%file, "endpoints stay as they were: {error:#}");
                }
            }
        }
        let listed = self.listed.values().flatten();
        let specs: BTreeSet<Spec> = self.fixed.iter().chain(listed).cloned().collect();
        self.names.retain(|spec, _| specs.contains(spec));
        let mut addresses = BTreeSet::new();
        for spec in specs {
            match self.look_up(&spec).await {
                Ok(found) => drop(self.names.insert(spec.clone(), found)),
                Err(error) => tracing::warn!(?spec, "look up endpoints: {error:#}"),
            }
            match self.names.get(&spec) {
                Some(found) => addresses.extend(found.iter().cloned()),
                None => drop(addresses.insert(unresolved(&spec))),
            }
        }
        addresses
    }

    async fn look_up(&self, spec: &Spec) -> anyhow::Result<Vec<String>> {
        match spec {
            Spec::Plain(address) => Ok(vec![address.clone()]),
            Spec::Addresses(host, port) => {
                let found = self.dns.addresses(host.clone()).await?;
                Ok(found.into_iter().map(|address| join(&address, *port)).collect())
            }
            Spec::Services(name) => {
                let found = self.dns.services(name.clone()).await?;
                Ok(found.into_iter().map(|(host, port)| join(&host, port)).collect())
            }
        }
    }
}

/// The name by which an endpoint that was never found is missed.
fn unresolved(spec: &Spec) -> String {
    match spec {
        Spec::Plain(address) => address.clone(),
        Spec::Addresses(host, port) => join(host, *port),
        // The port is not known; whatever stands there cannot be reached.
        Spec::Services(name) => join(name, 0),
    }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn read_list(fs: &dyn Fs, path: &Path) -> anyhow::Result<Vec<Spec>> {
    let size = fs.size(path)?;
    anyhow::ensure!(
        size <= FILE_BYTES_MAX,
        "the file has {size} bytes, more than {FILE_BYTES_MAX}"
    );
    let text = String::from_utf8(fs.read(path)?).context("the file is not UTF-8")?;
    let listed: Vec<Listed> = serde_saphyr::from_str(&text).context("parse the file")?;
    let addresses = listed.into_iter().flat_map(|item| match item {
        Listed::Address(address) => vec![address],
        Listed::Group { targets } => targets,
    });
    let specs = addresses.map(|text| Spec::parse(&text));
    specs.collect::<Result<_, String>>().map_err(anyhow::Error::msg)
}

/// How the settings want endpoints to be spoken to.
pub fn endpoint_settings(settings: &Settings, fs: &dyn Fs) -> anyhow::Result<EndpointSettings> {
    let read = |path: &PathBuf| fs.read(path).with_context(|| format!("read {}", path.display()));
    let certificate = settings.endpoint_tls_cert.as_ref().map(read).transpose()?;
    let key = settings.endpoint_tls_key.as_ref().map(read).transpose()?;
    let tls = ClientTls {
        authority: settings.endpoint_tls_ca.as_ref().map(read).transpose()?,
        identity: certificate.zip(key),
        server_name: settings.endpoint_tls_server_name.clone(),
    };
    Ok(EndpointSettings {
        timeout: settings.endpoint_timeout,
        tls: settings.endpoint_tls.then_some(tls),
        ..EndpointSettings::default()
    })
}

/// Keeps the set as the discovery finds it, until `stop`. The answer turns true after the first round.
pub fn follow(
    mut discovery: Discovery,
    set: Arc<EndpointSet>,
    interval: std::time::Duration,
    env: &Env,
    stop: CancellationToken,
) -> watch::Receiver<bool> {
    let (told, first_round) = watch::channel(false);
    let clock = env.clock.clone();
    let follow = async move {
        loop {
            let round = async {
                set.update(&discovery.addresses().await);
                set.probe_all().await;
            };
            tokio::select! { () = round => {}, () = stop.cancelled() => return }
            told.send_replace(true);
            tokio::select! { () = clock.sleep(interval) => {}, () = stop.cancelled() => return }
        }
    };
    env.spawn.task("endpoints", Box::pin(follow));
    first_round
}

#[cfg(test)]
mod tests;
