//! Real S3 servers that tests start where they are at hand: s3s-fs, Garage, moto. Each makes one bucket and ends with its [`Bucket`].
//!
//! A server is found in `PATH`, or by the variable that [`start`] names for it. None of them is needed to build or to run Narthex.

use crate::{
    http::{Client, Url},
    process::free_port,
};
use anyhow::{Context, bail};
use std::{
    ffi::OsString,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const BUCKET: &str = "blocks";
const KEY: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(120);

/// The servers that are known, the most exact first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Files behind S3, with signatures that are checked.
    S3s,
    /// A store of its own.
    Garage,
    /// Amazon's services in memory.
    Moto,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::S3s, Self::Garage, Self::Moto];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::S3s => "s3s-fs",
            Self::Garage => "garage",
            Self::Moto => "moto",
        }
    }

    /// The variable that may name its program, and the name under which it is looked for else.
    pub fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::S3s => ("NARTHEX_S3S", "s3s-fs"),
            Self::Garage => ("NARTHEX_GARAGE", "garage"),
            Self::Moto => ("NARTHEX_MOTO", "moto_server"),
        }
    }

    fn region(self) -> &'static str {
        match self {
            Self::Garage => "garage",
            Self::S3s | Self::Moto => "us-east-1",
        }
    }
}

/// A bucket that ends with its server.
#[derive(Debug)]
pub struct Bucket {
    server: Option<Child>,
    /// What kind of server it is.
    pub name: &'static str,
    /// How Narthex is told of it.
    pub document: String,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// The first server that is at hand, with its files in `dir`; says loudly when there is none, and takes a folder.
pub fn any(dir: &Path) -> anyhow::Result<Bucket> {
    for kind in [Kind::Garage, Kind::S3s, Kind::Moto] {
        if let Some(bucket) = start(kind, dir)? {
            return Ok(bucket);
        }
    }
    eprintln!("NO S3 SERVER at hand (garage, s3s-fs or moto_server in PATH): the bucket is a folder");
    let folder = dir.join("bucket");
    Ok(Bucket {
        server: None,
        name: "folder",
        document: format!("{{type: FILESYSTEM, config: {{directory: '{}'}}}}", folder.display()),
    })
}

/// Starts a server of this kind with its files in `dir`; `None` when there is none on this machine that runs.
pub fn start(kind: Kind, dir: &Path) -> anyhow::Result<Option<Bucket>> {
    let (variable, usual) = kind.program();
    let program = std::env::var_os(variable).unwrap_or_else(|| usual.into());
    let port = free_port()?;
    let mut command = match kind {
        Kind::S3s => s3s(program, dir, port)?,
        Kind::Garage => garage(program, dir, port)?,
        Kind::Moto => moto(program, port),
    };
    let server = match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(server) => server,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("start {}", kind.name())),
    };
    let mut bucket = Bucket {
        server: Some(server),
        name: kind.name(),
        document: format!(
            "{{type: S3, config: {{bucket: {BUCKET}, endpoint: '127.0.0.1:{port}', insecure: true, \
             access_key: {KEY}, secret_key: {SECRET}, region: {}, max_retries: 3}}}}",
            kind.region()
        ),
    };
    Ok(answers(&mut bucket, kind, port)?.then_some(bucket))
}

fn s3s(program: OsString, dir: &Path, port: u16) -> anyhow::Result<Command> {
    // A bucket is a folder there.
    std::fs::create_dir_all(dir.join("files").join(BUCKET))?;
    let mut command = Command::new(program);
    command
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--access-key", KEY, "--secret-key", SECRET])
        .arg(dir.join("files"));
    Ok(command)
}

fn garage(program: OsString, dir: &Path, port: u16) -> anyhow::Result<Command> {
    let (rpc, shown) = (free_port()?, dir.display());
    let settings = format!(
        "metadata_dir = '{shown}/meta'\ndata_dir = '{shown}/objects'\ndb_engine = 'lmdb'\nreplication_factor = 1\n\
         rpc_bind_addr = '127.0.0.1:{rpc}'\nrpc_public_addr = '127.0.0.1:{rpc}'\nrpc_secret = '{SECRET}'\n\
         [s3_api]\napi_bind_addr = '127.0.0.1:{port}'\ns3_region = 'garage'\nroot_domain = '.s3.local'\n"
    );
    let file = dir.join("garage.toml");
    std::fs::write(&file, settings)?;
    let mut command = Command::new(program);
    command
        .arg("-c")
        .arg(&file)
        .args(["server", "--single-node", "--default-bucket"])
        .env("GARAGE_DEFAULT_BUCKET", BUCKET)
        .env("GARAGE_DEFAULT_ACCESS_KEY", KEY)
        .env("GARAGE_DEFAULT_SECRET_KEY", SECRET);
    Ok(command)
}

fn moto(program: OsString, port: u16) -> Command {
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    command
}

/// Waits until a server answers; false when it ended instead. Moto is given its bucket here; the others have it, and refuse a request without a signature once they know buckets and keys.
fn answers(bucket: &mut Bucket, kind: Kind, port: u16) -> anyhow::Result<bool> {
    let url = Url::parse(&format!("http://127.0.0.1:{port}"))?;
    let (method, expected) = match kind {
        Kind::Moto => ("PUT", 200),
        Kind::S3s | Kind::Garage => ("GET", 403),
    };
    let is_up = || {
        let path = format!("/{BUCKET}");
        let answer = Client::new(&url, &[], Duration::from_secs(5)).send(method, &path, "", b"");
        answer.is_ok_and(|answer| answer.status == expected)
    };
    let deadline = Instant::now() + PATIENCE;
    while !is_up() {
        if let Some(status) = bucket.server.as_mut().map(Child::try_wait).transpose()?.flatten() {
            // A launcher whose server is not installed, mostly.
            eprintln!("{} ended with {status} before it answered", bucket.name);
            return Ok(false);
        }
        if Instant::now() > deadline {
            bail!("{} does not answer after {PATIENCE:?}", bucket.name);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(true)
}
