//! The web configuration file, in the words of Prometheus's programs: TLS of the listener and users with bcrypt hashes. `bearer_tokens`
//! is ours.
//!
//! Files that it names lie beside it unless their path is absolute. All of them are looked at again and again, so that certificates can be
//! exchanged while the process runs.

use super::users::{Users, sum};
use crate::{
    tls::{ServerTls, read_all},
    watch,
};
use anyhow::{Context, bail, ensure};
use model::{env::Env, tenant::Tenant};
use parking_lot::RwLock;
use rustls::ServerConfig;
use serde::Deserialize;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    tls_server_config: Option<ServerTls>,
    basic_auth_users: HashMap<String, String>,
    bearer_tokens: Vec<Token>,
}

/// A token, as it is or as the SHA-256 sum of it in hexadecimal digits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    tenant: String,
    token: Option<String>,
    token_sha256: Option<String>,
}

/// What the file says, ready for use.
pub struct Access {
    /// None when the listener speaks plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    pub(super) users: Arc<Users>,
}

/// What is in force now.
pub struct Web(RwLock<Arc<Access>>);

impl Web {
    /// Without a file: plain HTTP for everybody.
    pub fn open() -> Arc<Self> {
        let users = Arc::new(Users::new(HashMap::new(), HashMap::new()));
        Arc::new(Self(RwLock::new(Arc::new(Access { tls: None, users }))))
    }

    /// Follows a file and those that it names.
    pub fn follow(path: PathBuf, env: &Env, stop: CancellationToken) -> anyhow::Result<Arc<Self>> {
        let web = Self::open();
        let (told, world) = (Arc::clone(&web), env.clone());
        let file = path.clone();
        let read = move |env: &Env| {
            let text = watch::read(env, &file)?;
            let tls = parse(&text)?.tls_server_config;
            let named = tls.iter().flat_map(ServerTls::files).collect();
            read_all(env, text, &file, named)
        };
        let apply = move |_: &str| {
            let text = watch::read(&world, &path)?;
            let access = access(&text, &path, &world).with_context(|| path.display().to_string())?;
            *told.0.write() = Arc::new(access);
            Ok(())
        };
        watch::follow("web configuration", env, read, apply, stop)?;
        Ok(web)
    }

    /// What is in force now.
    pub fn access(&self) -> Arc<Access> {
        Arc::clone(&self.0.read())
    }
}

fn parse(text: &str) -> anyhow::Result<File> {
    if text.trim().is_empty() {
        return Ok(File::default());
    }
    serde_saphyr::from_str(text).context("parse YAML")
}

fn access(text: &str, path: &Path, env: &Env) -> anyhow::Result<Access> {
    let file = parse(text)?;
    for (user, hash) in &file.basic_auth_users {
        ensure!(
            !user.is_empty() && !user.contains(':'),
            "basic_auth_users: {user:?} is no user name"
        );
        let checked = hash.parse::<bcrypt::HashParts>();
        checked.map_err(|_| anyhow::anyhow!("basic_auth_users: what is given for {user:?} is no bcrypt hash"))?;
    }
    let mut tokens = HashMap::new();
    for token in &file.bearer_tokens {
        let (sum, tenant) = token_of(token).context("bearer_tokens")?;
        ensure!(
            tokens.insert(sum, tenant).is_none(),
            "bearer_tokens: a token is there twice"
        );
    }
    let tls = file
        .tls_server_config
        .map(|tls| tls.config(path, env).context("tls_server_config"));
    Ok(Access {
        tls: tls.transpose()?.map(Arc::new),
        users: Arc::new(Users::new(file.basic_auth_users, tokens)),
    })
}

fn token_of(token: &Token) -> anyhow::Result<([u8; 32], Tenant)> {
    let tenant = Tenant::new(&token.tenant)?;
    let sum = match (&token.token, &token.token_sha256) {
        (Some(token), None) if !token.is_empty() => sum(&[token.as_bytes()]),
        (None, Some(digits)) => {
            let byte = |index: usize| u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok();
            let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
            let sum = bytes
                .filter(|_| digits.len() == 64)
                .and_then(|bytes| bytes.try_into().ok());
            sum.with_context(|| format!("token_sha256 of {tenant} is not 64 hexadecimal digits"))?
        }
        _ => bail!("{tenant}: give either token or token_sha256"),
    };
    Ok((sum, tenant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let env = crate::env::real(tokio::runtime::Runtime::new().unwrap().handle().clone());
        for (text, phrase) in [
            ("basic_auth_users: {a: secret}", "no bcrypt hash"),
            ("basic_auth_user: {}", "basic_auth_user"),
            ("bearer_tokens: [{tenant: a/b, token: x}]", "tenant"),
            ("bearer_tokens: [{tenant: a}]", "either token"),
            ("bearer_tokens: [{tenant: a, token_sha256: zz}]", "64"),
            ("bearer_tokens: [{tenant: a, token: x}, {tenant: b, token: x}]", "twice"),
            (
                "tls_server_config: {cert_file: /nowhere, key_file: /nowhere}",
                "cert_file",
            ),
        ] {
            let error = match access(text, Path::new("/x/web.yml"), &env) {
                Ok(_) => panic!("{text} was accepted"),
                Err(error) => format!("{error:#}"),
            };
            assert!(error.contains(phrase), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(access("", Path::new("web.yml"), &env).unwrap().users.is_empty());
    }
}
