//! What the functions of the language compute, apart from how series are read and put together.
//!
//! A kernel sees one window of samples, one number or one label set; `operator` walks it over steps and series.

pub(crate) mod window;
pub(crate) mod math;
pub(crate) mod over_time;
pub(crate) mod change;
pub(crate) mod extent;
mod histogram_rate;
pub(crate) mod rate;
pub(crate) mod extended;
pub(crate) mod regression;
pub(crate) mod bucket;
pub(crate) mod label;
pub(crate) mod natural;
