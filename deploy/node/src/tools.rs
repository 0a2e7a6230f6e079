//! Thin commands over library functions and over the HTTP API of a running process.

pub mod promqltest;
pub mod bucket;
pub mod cut;
pub mod healthcheck;
pub mod import;
pub mod ring;

use clap::Subcommand;
use std::process::ExitCode;
use tokio::runtime::Runtime;

/// `narthex tools …`
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Run PromQL test scripts (files or folders of `.test` files) against the engine
    Promqltest(promqltest::Promqltest),
    /// Look into a bucket
    #[command(subcommand)]
    Bucket(bucket::BucketTool),
    /// Look into a local block
    #[command(subcommand)]
    Block(bucket::BlockTool),
    /// Cut the head of a running process into blocks and ship them now, instead of every two hours
    Cut(cut::Cut),
    /// Bring along the data of a Prometheus that does not run: blocks and write-ahead log go into the bucket
    Import(Box<import::Import>),
    /// Show or change the ring of a running process
    Ring(ring::Ring),
}

impl Tool {
    /// Does what the tool is for; the exit code says whether it went well.
    pub fn run(self, runtime: &Runtime) -> anyhow::Result<ExitCode> {
        match self {
            Tool::Promqltest(tool) => tool.run(),
            Tool::Bucket(tool) => runtime.block_on(tool.run()),
            Tool::Block(tool) => tool.run(),
            Tool::Cut(tool) => runtime.block_on(tool.run()),
            Tool::Import(tool) => runtime.block_on(tool.run()),
            Tool::Ring(tool) => runtime.block_on(tool.run()),
        }
    }
}
