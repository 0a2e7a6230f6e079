//! The ingester from outside, an idea in each module. They are one program, since each program is linked with everything that it uses.
//! What seeds are for, lives and crashes, is apart: it also runs for long.

mod basics;
mod crash_kinds;
mod cut;
mod damaged_files;
mod delete;
mod histograms;
mod many_tenants;
mod memory;
mod out_of_order;
mod scattered;
#[path = "../support/mod.rs"]
mod support;
mod weaker;
