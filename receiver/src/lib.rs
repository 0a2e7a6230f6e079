//! Remote write in: HTTP, admission, placement, replication.
