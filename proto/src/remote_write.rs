//! Remote write, both versions: how requests are walked and how they are made.

pub mod v1;
pub mod v2;
pub mod encode;
