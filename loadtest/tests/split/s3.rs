//! A real S3 server for a test: Garage where it is at hand, else moto, else a folder.

use anyhow::{Context, bail};
use loadtest::{
    http::{Client, Url},
    process::free_port,
};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const KEY: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(120);

/// A bucket that ends with the test.
pub(crate) struct Bucket {
    server: Option<Child>,
    /// What kind it is.
    pub(crate) name: &'static str,
    /// How Narthex is told of it.
    pub(crate) document: String,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Bucket {
    /// Starts a server in the folder; says loudly when there is none.
    pub(crate) fn start(dir: &Path) -> anyhow::Result<Self> {
        if let Some(bucket) = garage(dir)? {
            return Ok(bucket);
        }
        if let Some(bucket) = moto()? {
            return Ok(bucket);
        }
        eprintln!("NO S3 SERVER at hand (garage by NARTHEX_GARAGE or in PATH, or moto_server): the bucket is a folder");
        let folder = dir.join("bucket");
        Ok(Self {
            server: None,
            name: "folder",
            document: format!("{{type: FILESYSTEM, config: {{directory: '{}'}}}}", folder.display()),
        })
    }
}

fn spawned(command: &mut Command) -> anyhow::Result<Option<Child>> {
    match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => Ok(Some(child)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("start an S3 server"),
    }
}

fn garage(dir: &Path) -> anyhow::Result<Option<Bucket>> {
    let (s3, rpc, shown) = (free_port()?, free_port()?, dir.display());
    let settings = format!(
        "metadata_dir = '{shown}/meta'\ndata_dir = '{shown}/objects'\ndb_engine = 'lmdb'\nreplication_factor = 1\n\
         rpc_bind_addr = '127.0.0.1:{rpc}'\nrpc_public_addr = '127.0.0.1:{rpc}'\nrpc_secret = '{SECRET}'\n\
         [s3_api]\napi_bind_addr = '127.0.0.1:{s3}'\ns3_region = 'garage'\nroot_domain = '.s3.local'\n"
    );
    let file = dir.join("garage.toml");
    std::fs::write(&file, settings)?;
    let program = std::env::var_os("NARTHEX_GARAGE").unwrap_or_else(|| "garage".into());
    let server = spawned(
        Command::new(program)
            .arg("-c")
            .arg(&file)
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_BUCKET", "blocks")
            .env("GARAGE_DEFAULT_ACCESS_KEY", KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET),
    )?;
    let Some(server) = server else { return Ok(None) };
    let bucket = Bucket {
        server: Some(server),
        name: "garage",
        document: format!(
            "{{type: S3, config: {{bucket: blocks, endpoint: '127.0.0.1:{s3}', insecure: true, access_key: {KEY}, \
             secret_key: {SECRET}, region: garage}}}}"
        ),
    };
    wait_until(&bucket, || {
        let url = Url::parse(&format!("http://127.0.0.1:{s3}"))?;
        let answer = Client::new(&url, &[], Duration::from_secs(5)).get("/blocks")?;
        // Without a signature it refuses, which it can only once it knows buckets and keys.
        Ok(answer.status == 403)
    })?;
    Ok(Some(bucket))
}

fn moto() -> anyhow::Result<Option<Bucket>> {
    let port = free_port()?;
    let mut command = Command::new("moto_server");
    let server = spawned(command.args(["-H", "127.0.0.1", "-p", &port.to_string()]))?;
    let Some(server) = server else { return Ok(None) };
    let bucket = Bucket {
        server: Some(server),
        name: "moto",
        document: format!(
            "{{type: S3, config: {{bucket: blocks, endpoint: '127.0.0.1:{port}', insecure: true, access_key: k, \
             secret_key: s, region: us-east-1}}}}"
        ),
    };
    wait_until(&bucket, || {
        let url = Url::parse(&format!("http://127.0.0.1:{port}"))?;
        let answer = Client::new(&url, &[], Duration::from_secs(5)).send("PUT", "/blocks", "", b"")?;
        Ok(answer.status == 200)
    })?;
    Ok(Some(bucket))
}

fn wait_until(bucket: &Bucket, answers: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !answers().unwrap_or(false) {
        if Instant::now() > deadline {
            bail!("{} does not answer after {PATIENCE:?}", bucket.name);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
