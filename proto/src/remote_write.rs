//! Remote write, both versions: how requests are walked and how they are made.

pub mod encode;
pub mod v1;
pub mod v2;
