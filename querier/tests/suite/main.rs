//! The querier from outside, an idea in each module. They are one program, since each program is linked with everything that it uses.

mod administration;
mod bounds;
mod common;
mod endpoints;
mod fanout;
mod golden;
mod lookups;
mod openapi;
mod pairs;
mod queries;
mod remote_read;
mod replicas;
mod requests;
mod unordered;
