//! How samples lie in files and buckets: chunk codecs, index, block, bucket, gateway.
//!
//! Everything below a block folder is byte-compatible with Prometheus, everything around it with Thanos; `FORMAT.md`
//! draws both. Modules are listed in reading order; a module imports only from those above it.

pub mod disk;
mod cursor;
pub mod chunk;
mod sink;
pub mod index;
pub mod join;
pub mod block;
pub mod prometheus;
pub mod external;
pub mod bucket;
mod metrics;
pub mod gateway;
