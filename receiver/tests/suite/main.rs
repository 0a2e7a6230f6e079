//! The receiver from outside, an idea in each module. They are one program, since each program is linked with everything that it uses.

mod bad_input;
#[path = "../common/mod.rs"]
mod common;
mod http;
mod known_series;
mod reload;
mod remote_write_v1;
mod remote_write_v2;
mod repeated_tables;
mod shaping;
mod thanos_write;
