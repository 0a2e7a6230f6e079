//! A ring of real processes, and load on it.

use crate::{balancer::Balancer, wires::Wires};
use anyhow::{Context, ensure};
use loadtest::{
    api::Api,
    clock::{now_ms, run_name},
    http::{Client, Url},
    ledger::{Ledger, LedgerWorkload, Run},
    outcome::Outcome,
    process::{Launch, Server, narthex_binary},
    verify::{Findings, verify_nodes},
    write::{Plan, last_scrapes_start, write},
};
use std::{
    net::SocketAddr,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Runs `narthex tools ring …`; whether it went well, and what it said.
pub(crate) fn tools_ring(arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(narthex_binary()?)
        .args(["tools", "ring"])
        .args(arguments)
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// A member: how it is started, and its process while it runs.
pub(crate) struct Node {
    pub(crate) launch: Launch,
    pub(crate) grpc: String,
    pub(crate) server: Option<Server>,
}

impl Node {
    pub(crate) fn http(&self) -> SocketAddr {
        self.launch.url.authority.parse().expect("a loopback address")
    }

    /// The ring as this node sees it.
    pub(crate) fn ring(&self) -> anyhow::Result<serde_json::Value> {
        let mut client = Client::new(&self.launch.url, &[], Duration::from_secs(10));
        let answer = client.get("/api/v1/cluster/ring")?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(serde_json::from_str(&answer.text())?)
    }

    /// Runs `narthex tools ring …` against this node; gives what it prints.
    pub(crate) fn tools_ring(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let url = format!("http://{}", self.launch.url.authority);
        let (done, said) = tools_ring(&[arguments, &["--server", &url]].concat())?;
        ensure!(done, "tools ring {arguments:?}: {said}");
        Ok(said)
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.server = Some(self.launch.start()?);
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.server.take().context("the node runs")?.kill()
    }
}

/// A ring and the balancer before it.
pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Node>,
    pub(crate) balancer: Balancer,
    /// When nodes reach each other through wires that can be cut.
    pub(crate) wires: Option<Wires>,
}

impl Cluster {
    /// Starts a ring of `size` nodes with so many copies of each series, and waits until all are active.
    pub(crate) fn start(size: usize, copies: usize) -> anyhow::Result<Self> {
        Self::start_over(None, size, copies)
    }

    /// The same over wires.
    pub(crate) fn start_over(wires: Option<Wires>, size: usize, copies: usize) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut cluster = Self {
            wires,
            dir,
            nodes: Vec::new(),
            balancer: Balancer::start(Vec::new())?,
        };
        for _ in 0..size {
            cluster.join(copies)?;
        }
        cluster.wait_active(size)?;
        Ok(cluster)
    }

    /// Starts one more node, which joins.
    pub(crate) fn join(&mut self, copies: usize) -> anyhow::Result<()> {
        let number = self.nodes.len();
        let home = self.dir.path().join(format!("node{number}"));
        std::fs::create_dir(&home)?;
        let bucket = self.dir.path().join("bucket");
        let objstore = format!(
            "{{type: FILESYSTEM, config: {{directory: {:?}}}}}",
            bucket.display().to_string()
        );
        let mut launch = Launch::narthex(&home)?
            .with(&format!("--objstore.config={objstore}"))
            .with("--store.sync-interval=1s")
            .with("--web.enable-admin-api");
        let mut grpc = grpc_of(&launch)?;
        if let Some(wires) = &self.wires {
            grpc = wires.before(number, grpc.parse()?)?.to_string();
            launch = launch.with(&format!("--cluster.advertise={grpc}"));
        }
        launch = match self.nodes.first() {
            None => launch.with(&format!("--cluster.replication-factor={copies}")),
            Some(first) => launch.with(&format!("--cluster.join={}", first.grpc)),
        };
        launch.arguments.insert(0, "receive".to_owned());
        let mut node = Node {
            launch,
            grpc,
            server: None,
        };
        let server = node.launch.spawn()?;
        if let Some(wires) = &self.wires {
            wires.set_pid(number, server.pid());
        }
        node.server = Some(server);
        if let Some(server) = &mut node.server {
            server.wait_ready(PATIENCE)?;
        }
        self.balancer.add(node.http());
        self.nodes.push(node);
        Ok(())
    }

    /// Waits until all nodes see so many active members.
    pub(crate) fn wait_active(&self, active: usize) -> anyhow::Result<()> {
        self.wait("all members are active", |ring| {
            let members = ring["members"].as_array().map_or(&[][..], Vec::as_slice);
            members.iter().filter(|member| member["state"] == "ACTIVE").count() == active
        })
    }

    /// Waits until every running node's ring is as wanted.
    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&serde_json::Value) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let running = || self.nodes.iter().filter(|node| node.server.is_some());
        while !running().all(|node| node.ring().is_ok_and(|ring| holds(&ring))) {
            if Instant::now() > deadline {
                let rings: Vec<String> = running()
                    .map(|node| {
                        node.ring()
                            .map_or_else(|error| error.to_string(), |ring| ring.to_string())
                    })
                    .collect();
                anyhow::bail!("waited too long until {what}:\n{}\n{}", rings.join("\n"), self.logs());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        self.balancer.set(self.nodes[number].http(), false);
        self.nodes[number].kill()
    }

    /// Starts a node again; gives how long it took until it was ready.
    pub(crate) fn restart(&mut self, number: usize) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.nodes[number].start()?;
        let taken = begun.elapsed();
        self.balancer.set(self.nodes[number].http(), true);
        Ok(taken)
    }

    /// Compares what the running nodes hold with the ledger: each is asked for what it has itself, through a querier of its own, since its
    /// own API answers with what all of them hold. What is acknowledged must be on at least `copies_min` nodes.
    pub(crate) fn verify(&self, ledger: &Ledger, copies_min: usize) -> anyhow::Result<Findings> {
        let running = self.nodes.iter().filter(|node| node.server.is_some());
        let queriers: Vec<Server> = running
            .enumerate()
            .map(|(number, node)| self.querier_of(number, node))
            .collect::<anyhow::Result<_>>()?;
        let mut apis: Vec<Api> = queriers.iter().map(Server::api).collect();
        verify_nodes(&mut apis, copies_min, ledger, &|_| ())
    }

    /// Tells how a story went that may neither refuse nor lose anything, and checks that it did not: what is acknowledged must be on at
    /// least `copies_min` of the running nodes.
    pub(crate) fn check(&self, story: &str, written: &Written, copies_min: usize) -> anyhow::Result<()> {
        let outcome = &written.outcome;
        println!(
            "{story}: {} samples, p50 {} ms, p99 {} ms, longest {} ms, failed attempts {:?}",
            outcome.samples, outcome.ack_ms.p50, outcome.ack_ms.p99, outcome.ack_ms.max, outcome.errors
        );
        let told = (outcome.refused, outcome.unknown);
        assert_eq!(told, (0, 0), "{:?}\n{}", outcome.first_refusal, self.logs());
        let findings = self.verify(&written.ledger, copies_min)?;
        println!("{findings}");
        assert!(findings.is_clean(), "{findings}\n{}", self.logs());
        Ok(())
    }

    /// A querier that asks this node alone: to others a member shows only what it has itself.
    fn querier_of(&self, number: usize, node: &Node) -> anyhow::Result<Server> {
        let home = self.dir.path().join(format!("querier{number}-{}", run_name()));
        std::fs::create_dir(&home)?;
        let endpoint = format!("--endpoint={}", grpc_of(&node.launch)?);
        let mut launch = Launch::narthex(&home)?
            .with(&endpoint)
            .with("--endpoint.interval=1s")
            .with("--query.partial-response=false");
        launch.arguments.insert(0, "query".to_owned());
        launch.start()
    }

    /// Compares what each running node answers for the whole ring with the ledger.
    pub(crate) fn verify_whole(&self, ledger: &Ledger) -> anyhow::Result<Findings> {
        let running = self.nodes.iter().filter_map(|node| node.server.as_ref());
        let mut apis: Vec<Api> = running.map(Server::api).collect();
        let copies = apis.len();
        verify_nodes(&mut apis, copies, ledger, &|_| ())
    }

    pub(crate) fn logs(&self) -> String {
        let running = self.nodes.iter().filter_map(|node| node.server.as_ref());
        running
            .map(|server| format!("--- {}\n{}\n", server.launch().url.authority, server.log_tail()))
            .collect()
    }
}

pub(crate) fn grpc_of(launch: &Launch) -> anyhow::Result<String> {
    let flag = launch
        .arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("--grpc.address="));
    Ok(flag.context("the launch names its gRPC address")?.to_owned())
}

/// How hard to write.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) series: usize,
    pub(crate) batch: usize,
    pub(crate) rate: f64,
    /// How often a request may be sent again.
    pub(crate) retries: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            series: 2_000,
            batch: 200,
            rate: 20_000.0,
            retries: 1,
        }
    }
}

impl Load {
    /// 50,000 samples per second in requests as large as senders make them. Smaller ones would measure how often the disk can sync: each
    /// connection has one request under way.
    pub(crate) fn full() -> Self {
        Self {
            series: 10_000,
            batch: 1_000,
            rate: 50_000.0,
            ..Self::default()
        }
    }
}

/// What a run of load came to.
pub(crate) struct Written {
    pub(crate) outcome: Outcome,
    pub(crate) ledger: Ledger,
}

/// Counts what is acknowledged while the load runs.
pub(crate) struct Progress<'a>(&'a AtomicU64);

impl Progress<'_> {
    /// Waits until so many more samples are acknowledged.
    pub(crate) fn wait(&self, samples: u64) -> anyhow::Result<()> {
        let (before, deadline) = (self.0.load(Ordering::Relaxed), Instant::now() + PATIENCE);
        while self.0.load(Ordering::Relaxed) < before + samples {
            ensure!(
                Instant::now() < deadline,
                "only {} of {samples} samples acknowledged in {PATIENCE:?}",
                self.0.load(Ordering::Relaxed) - before
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// Writes through the balancer while `story` goes on.
pub(crate) fn under_load(
    cluster: &mut Cluster,
    load: &Load,
    story: impl FnOnce(&mut Cluster, &Progress<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Written> {
    let run = new_run(load);
    let plan = plan(cluster, load, &run)?;
    let ledger = Ledger::new(run.clone(), None)?;
    let (stop, ended) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcome = thread::scope(|scope| -> anyhow::Result<Outcome> {
        let workload = LedgerWorkload(run);
        let (plan, ledger, stop, ended) = (&plan, &ledger, &stop, &ended);
        let writer = scope.spawn(move || {
            write(plan, &workload, ledger, stop, &|samples| {
                ended.fetch_add(samples, Ordering::Relaxed);
            })
        });
        let told = story(cluster, &Progress(ended));
        stop.store(true, Ordering::Relaxed);
        let outcome = writer.join().expect("the writer does not panic")?;
        told?;
        Ok(outcome)
    })?;
    Ok(Written { outcome, ledger })
}

const SCRAPES: u64 = 3_500;
const STEP: i64 = 1_000;

fn new_run(load: &Load) -> Run {
    Run {
        name: run_name(),
        series: load.series,
        start: last_scrapes_start(now_ms(), SCRAPES, STEP),
        step: STEP,
    }
}

fn plan(cluster: &Cluster, load: &Load, run: &Run) -> anyhow::Result<Plan> {
    let url = Url::parse(&format!("http://{}/api/v1/write", cluster.balancer.address))?;
    Ok(Plan {
        scrapes: SCRAPES,
        start: run.start,
        step: run.step,
        batch: load.batch,
        connections: 6,
        rate: Some(load.rate),
        retries: load.retries,
        backoff_max: Duration::from_millis(200),
        timeout: Duration::from_secs(15),
        ..Plan::new(url, now_ms())
    })
}

/// Writes `scrapes` scrapes, all of them so many times; each time has a ledger of its own.
pub(crate) fn write_again(cluster: &Cluster, load: &Load, scrapes: u64, times: usize) -> anyhow::Result<Vec<Written>> {
    let run = new_run(load);
    let plan = Plan {
        scrapes,
        rate: None,
        ..plan(cluster, load, &run)?
    };
    let mut all = Vec::new();
    for _ in 0..times {
        let ledger = Ledger::new(run.clone(), None)?;
        let workload = LedgerWorkload(run.clone());
        let outcome = write(&plan, &workload, &ledger, &AtomicBool::new(false), &|_| ())?;
        all.push(Written { outcome, ledger });
    }
    Ok(all)
}
