//! The command line: serving without a word, everything else as a subcommand.

use crate::{assemble, banner, env, role::Role, serve, settings, settings::Settings, tools};
use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::{ffi::OsString, net::SocketAddr, process::ExitCode};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// Takes Prometheus remote_write, keeps every acknowledged sample, and answers PromQL.
///
/// Without a subcommand all roles run in one process on loopback, with their data in ./data.
#[derive(Debug, Parser)]
#[command(name = "narthex", version, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(flatten)]
    settings: Settings,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take writes for a ring: route, replicate, store, and answer queries
    Receive(Box<Settings>),
    /// Serve the blocks of a bucket over StoreAPI, nothing else
    Store(Box<Settings>),
    /// Answer PromQL from other processes (--endpoint) and, where one is configured, from a bucket; keeps no data
    Query(Box<Settings>),
    /// Tools for operators and developers
    #[command(subcommand)]
    Tools(tools::Tool),
    /// Ask a running process whether it is ready; exit code 0 when it is (for container health checks)
    Healthcheck(tools::healthcheck::Healthcheck),
    /// Check a settings file and the flags without starting
    #[command(subcommand)]
    Check(Check),
}

#[derive(Debug, Subcommand)]
enum Check {
    /// Read a settings file as `--config.file` would, and say what is wrong with it
    Config {
        /// The file
        file: std::path::PathBuf,
    },
}

/// Runs what `arguments` ask for. Wrong arguments end the process with clap's message and code 2.
pub fn run(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    // One TLS stack for everything in the process; an error means that it was installed before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<OsString> = arguments.collect();
    let command = CommandLine::command();
    // A subcommand has flags of its own; only the serving process reads a settings file.
    let serving = arguments
        .get(1)
        .is_none_or(|first| first.to_string_lossy().starts_with('-') || settings::is_role(first));
    let arguments = if serving {
        settings::with_config_file(&command, arguments)?
    } else {
        arguments
    };
    let matches = command.args_override_self(true).get_matches_from(arguments);
    let parsed = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match parsed.command {
        None => runtime()?.block_on(run_server(Role::All, parsed.settings)),
        Some(Command::Receive(settings)) => runtime()?.block_on(run_server(Role::Receive, *settings)),
        Some(Command::Store(settings)) => runtime()?.block_on(run_server(Role::Store, *settings)),
        Some(Command::Query(settings)) => runtime()?.block_on(run_server(Role::Query, *settings)),
        Some(Command::Tools(tool)) => tool.run(&runtime()?),
        Some(Command::Healthcheck(healthcheck)) => runtime()?.block_on(healthcheck.run()),
        Some(Command::Check(Check::Config { file })) => check_config(&file),
    }
}

/// Threads for tasks; those that compute for queries and at the start are named, so that tools that list threads tell them apart.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let computing = rayon::ThreadPoolBuilder::new().thread_name(|number| format!("compute-{number}"));
    computing.build_global().context("start the threads that compute")?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

/// Serves until SIGTERM or SIGINT.
async fn run_server(role: Role, settings: Settings) -> anyhow::Result<ExitCode> {
    banner::start_logging(&settings)?;
    let env = env::real(tokio::runtime::Handle::current());
    let stop = CancellationToken::new();
    let listener = listen(settings.http_address, "--http.address").await?;
    let rpc_listener = listen(settings.grpc_address, "--grpc.address").await?;
    let address = listener.local_addr().context("read the listening address")?;
    let rpc_address = rpc_listener.local_addr().context("read the gRPC address")?;
    let addresses = assemble::Addresses {
        http: address,
        grpc: rpc_address,
    };
    let assembly = assemble::assemble(role, &settings, addresses, env.clone(), stop.clone()).await?;
    print!("{}", banner::welcome(role, &settings, address, &assembly.bucket_shown));
    stop_on_signal(stop.clone())?;
    serve::serve_rpc(
        rpc_listener,
        assembly.readiness(),
        assembly.services.clone(),
        assembly.security.clone(),
        &env,
        stop.clone(),
    );
    serve::serve(listener, assembly.router.clone(), assembly.web.clone(), env, stop).await;
    assembly.shutdown().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("listen on {address} ({flag}); is another process using it?"))
}

/// Cancels `stop` at the first SIGTERM or SIGINT; a second one ends the process at once, which is as safe.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    #[expect(
        clippy::disallowed_methods,
        reason = "signals belong to the process, not to the simulated part"
    )]
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if again {
                std::process::exit(130);
            }
            tracing::info!("stopping: no new requests; a second signal stops at once");
            stop.cancel();
        }
    });
    Ok(())
}

fn check_config(file: &std::path::Path) -> anyhow::Result<ExitCode> {
    let arguments = vec!["narthex".into(), format!("--config.file={}", file.display()).into()];
    let arguments = settings::with_config_file(&CommandLine::command(), arguments)?;
    if let Err(error) = CommandLine::command()
        .args_override_self(true)
        .try_get_matches_from(arguments)
    {
        anyhow::bail!("{}: {}", file.display(), error.to_string().trim_end());
    }
    println!("{}: ok", file.display());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_misspelt_key_is_an_error_with_a_suggestion() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("narthex.yml");
        #[expect(clippy::disallowed_methods, reason = "test input")]
        std::fs::write(&file, "data: {dri: /x}\n").unwrap();
        let error = format!("{:#}", check_config(&file).unwrap_err());
        assert!(error.contains("data.dri") && error.contains("data.dir"), "{error}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("narthex.yml");
        #[expect(clippy::disallowed_methods, reason = "test input")]
        std::fs::write(
            &file,
            "query: {concurrency: 3, timeout: 5s}\nlabel: [a=b, c=d]\nweb.enable-admin-api: true\n",
        )
        .unwrap();
        let arguments = [
            "narthex",
            "--config.file",
            file.to_str().unwrap(),
            "--query.concurrency=7",
        ];
        let arguments = arguments.iter().map(OsString::from).collect();
        let arguments = settings::with_config_file(&CommandLine::command(), arguments).unwrap();
        let matches = CommandLine::command()
            .args_override_self(true)
            .get_matches_from(arguments);
        let settings = CommandLine::from_arg_matches(&matches).unwrap().settings;
        assert_eq!(settings.query_concurrency, 7);
        assert_eq!(settings.query_timeout.as_secs(), 5);
        assert_eq!(settings.labels.len(), 2);
        assert!(settings.web_enable_admin_api);
    }
}
