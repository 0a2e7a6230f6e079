//! From a question to JSON: fan-out, merge, dedup, the Prometheus HTTP API.
