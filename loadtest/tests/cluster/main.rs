//! Rings of real processes on loopback that are killed, stopped, cut off and changed under load, with the write ledger as the judge.
//!
//! Short forms run with all tests; the long ones by `make cluster`.
#![expect(clippy::disallowed_methods, reason = "tests live in real time beside real servers")]

mod balancer;
mod wires;
mod ring;
mod kill;
mod stop;
mod change;
mod roll;
mod placement;
mod file;
mod tenants;
mod partition;
mod resend;
mod recover;
mod cost;
