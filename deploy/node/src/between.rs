//! TLS between nodes: the file that `--grpc.config.file` names, for the gRPC listener and for dialling other nodes, followed while the
//! process runs.
//!
//! ```yaml
//! tls_server_config:            # the listener
//!   cert_file: node.pem
//!   key_file: node.key
//!   client_ca_file: ca.pem
//!   client_auth_type: RequireAndVerifyClientCert
//! tls_config:                   # dialling; without it the files of the listener are used for both
//!   ca_file: ca.pem
//!   cert_file: node.pem
//!   key_file: node.key
//! ```

use crate::{
    tls::{ClientTls, ServerTls, read_all},
    watch,
};
use anyhow::{Context, ensure};
use model::env::Env;
use proto::grpc::security::{ClientKeys, Keys, Security};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    tls_server_config: Option<ServerTls>,
    tls_config: Option<ClientTls>,
}

/// How nodes speak to each other, as the file says; in the clear without one.
pub fn security(path: Option<&PathBuf>, env: &Env, stop: &CancellationToken) -> anyhow::Result<Security> {
    let security = Security::default();
    let Some(path) = path.cloned() else {
        return Ok(security);
    };
    let (told, world, file) = (security.clone(), env.clone(), path.clone());
    let read = move |env: &Env| {
        let text = watch::read(env, &file)?;
        let parsed = parse(&text).with_context(|| file.display().to_string())?;
        let server = parsed.tls_server_config.iter().flat_map(ServerTls::files);
        let named = server.chain(parsed.tls_config.iter().flat_map(ClientTls::files));
        read_all(env, text, &file, named.collect())
    };
    let apply = move |_: &str| {
        let text = watch::read(&world, &path)?;
        told.set(keys(&text, &path, &world).with_context(|| path.display().to_string())?);
        Ok(())
    };
    watch::follow("TLS between nodes", env, read, apply, stop.clone())?;
    Ok(security)
}

fn parse(text: &str) -> anyhow::Result<File> {
    if text.trim().is_empty() {
        return Ok(File::default());
    }
    serde_saphyr::from_str(text).context("parse YAML")
}

fn keys(text: &str, path: &Path, env: &Env) -> anyhow::Result<Keys> {
    let File {
        tls_server_config: server,
        tls_config: client,
    } = parse(text)?;
    let client = match (client, &server) {
        (Some(client), _) => Some(client),
        (None, Some(server)) => Some(as_client(server)?),
        (None, None) => None,
    };
    let server = server.map(|server| server.config(path, env).context("tls_server_config"));
    let client = client.map(|client| {
        let config = client.config(path, env).context("tls_config")?;
        anyhow::Ok(ClientKeys {
            config: Arc::new(config),
            server_name: client.server_name,
        })
    });
    Ok(Keys {
        server: server.transpose()?.map(Arc::new),
        client: client.transpose()?,
    })
}

/// A node dials as it listens: the same certificate, the same authority.
fn as_client(server: &ServerTls) -> anyhow::Result<ClientTls> {
    ensure!(
        server.client_ca_file.is_some(),
        "tls_config is missing: it says whom this node trusts when it dials others (ca_file)"
    );
    Ok(ClientTls {
        ca_file: server.client_ca_file.clone().unwrap_or_default(),
        cert_file: Some(server.cert_file.clone()),
        key_file: Some(server.key_file.clone()),
        ..ClientTls::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let env = crate::env::real(tokio::runtime::Runtime::new().unwrap().handle().clone());
        for (text, phrase) in [
            ("tls_server: {}", "tls_server"),
            ("tls_config: {insecure_skip_verify: true}", "insecure_skip_verify"),
            ("tls_config: {ca_file: /nowhere}", "tls_config: ca_file"),
            (
                "tls_server_config: {cert_file: /nowhere, key_file: /nowhere}",
                "tls_config is missing",
            ),
            (
                "tls_server_config: {cert_file: /nowhere, client_ca_file: /nowhere}",
                "tls_server_config: cert_file",
            ),
        ] {
            let error = match keys(text, Path::new("/x/grpc.yml"), &env) {
                Ok(_) => panic!("{text} was accepted"),
                Err(error) => format!("{error:#}"),
            };
            assert!(error.contains(phrase), "{text}: {error}");
        }
        let open = keys("", Path::new("grpc.yml"), &env).unwrap();
        assert!(open.server.is_none() && open.client.is_none());
    }
}
