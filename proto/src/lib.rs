//! Wire forms: remote write 1.0 and 2.0, remote read, capped decompression, Thanos's gRPC, conversions.
//!
//! Only this crate knows protobuf and compression. The hot path (remote write) is decoded by hand, in place: a
//! generated decoder allocates each label of each sample, which costs more than everything else a receiver does.
//!
//! Modules are listed in reading order; a module imports only from those above it.
#![warn(missing_docs)]

pub mod compression;
pub mod protobuf;
pub mod histogram;
pub mod remote_write;
pub mod remote_read;
pub mod push;
#[cfg(feature = "grpc")]
pub mod spare;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "grpc")]
pub mod thanos;
