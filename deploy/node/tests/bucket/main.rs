//! Buckets: one suite of checks for every kind, and what happens when a store misbehaves.

mod conformance;
mod faults;
mod server;
mod world;
