//! Remote write in: HTTP, admission, placement, replication.
//!
//! A request passes through the modules in the order in which they are listed: [`http`] takes the body and calls
//! [`Receiver::write`], which negotiates, gathers series into a batch by routes it already knows, admits the new ones,
//! pushes, and answers.
//!
//! A module imports only from those above it.
#![warn(missing_docs)]

pub mod settings;
mod metrics;
mod budget;
pub mod limits;
mod negotiate;
mod rejections;
mod admit;
pub mod relabel;
pub mod shape;
pub mod ring;
mod resolve;
mod gather;
pub mod replicate;
pub mod reach;
mod tally;
mod answer;
mod write;
pub mod thanos;
pub mod http;

pub use answer::WriteAnswer;
pub use settings::{LabelLimits, ReceiverSettings};
pub use write::{Receiver, WriteRequest};
