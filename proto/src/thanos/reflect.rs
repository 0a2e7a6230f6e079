//! Server reflection: tools ask a process what it speaks (`grpcurl HOST:PORT list`) and need no interface files.
//!
//! What is told is the compiled form of `interface/` beside this crate. What nodes of a ring say to each other is not told: it changes
//! from version to version.

use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};

/// The interface descriptions, compiled.
const INTERFACE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/interface.bin"));

/// What every process speaks.
const SERVICES: [&str; 5] = [
    "grpc.health.v1.Health",
    "thanos.Exemplars",
    "thanos.Metadata",
    "thanos.Store",
    "thanos.info.Info",
];

/// What a process speaks that takes samples.
const TAKING: &str = "thanos.WriteableStore";

/// Adds both versions of server reflection.
///
/// # Errors
/// The descriptions do not fit together, which a test of this module would have found.
pub fn add_reflection(routes: Routes, takes_writes: bool) -> Result<Routes, Error> {
    let told = || {
        let mut told = Builder::configure()
            .register_encoded_file_descriptor_set(INTERFACE)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        for service in SERVICES.into_iter().chain(takes_writes.then_some(TAKING)) {
            told = told.with_service_name(service);
        }
        told
    };
    Ok(routes
        .add_service(told().build_v1()?)
        .add_service(told().build_v1alpha()?))
}

#[cfg(test)]
mod tests;
