//! Whole-cluster simulation over the real assembly, and the tidy test.
