//! Single requests made by hand, for tests that look at one answer.

use crate::{
    http::{Client, Response, Url},
    wire::{AnySeries, Protocol, encode_v1},
};
use std::{io, time::Duration};

/// A connection to a remote write endpoint that sends one request at a time, whatever it holds.
pub struct Probe {
    client: Client,
    path: String,
}

impl Probe {
    /// A connection to the endpoint `url`.
    pub fn new(url: &Url) -> Self {
        Self {
            client: Client::new(url, &[], Duration::from_secs(10)),
            path: url.path.clone(),
        }
    }

    /// Pushes series in a proper 1.0 request.
    pub fn push(&mut self, series: &[AnySeries]) -> io::Result<Response> {
        self.push_message(Protocol::V1, &encode_v1(series))
    }

    /// Pushes one sample of the series `name{probe="…"}`.
    pub fn push_one(&mut self, name: &str, timestamp: i64, value: f64) -> io::Result<Response> {
        self.push(&[AnySeries::new(
            &[("__name__", name), ("probe", "loadtest")],
            &[(timestamp, value)],
        )])
    }

    /// Compresses a message and sends it with the protocol's headers.
    pub fn push_message(&mut self, protocol: Protocol, message: &[u8]) -> io::Result<Response> {
        self.send(protocol.headers(), &compress(message))
    }

    /// Sends a body as it is; `headers` are whole lines with their line ends.
    pub fn send(&mut self, headers: &str, body: &[u8]) -> io::Result<Response> {
        self.client.post(&self.path, headers, body)
    }
}

/// A snappy block.
pub fn compress(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new()
        .compress_vec(message)
        .expect("messages are shorter than 4 GiB")
}
