//! Wire forms: remote write 1.0 and 2.0, capped decompression, conversions.
