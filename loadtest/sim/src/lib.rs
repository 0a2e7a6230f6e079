//! Whole-cluster simulation over the real assembly, and the tidy test.
//!
//! Today it holds the tidy test (`tests/tidy.rs`), which keeps crates and modules importing in one direction.
