//! A member of the ring: who it is, where it is reached, and how far it has come on its way in or out.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The weight of a usual node. One with 200 gets twice as many series.
pub const WEIGHT_NORMAL: u32 = 100;

/// Heaviest node that is accepted: ten usual ones. It bounds the size of the lookup table.
pub const WEIGHT_MAX: u32 = 1000;

/// Longest accepted address and zone name in bytes; a DNS name has at most 253.
pub const TEXT_BYTES_MAX: usize = 260;

/// Largest id: 2^53 - 1, so that readers of JSON which know only floats see the same number.
pub const MEMBER_ID_MAX: u64 = (1 << 53) - 1;

/// Identifies a member for as long as its data directory lives. It is drawn at random at the first start, so that a node which lost its
/// disk is another member: it must not vote as if it remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(u64);

impl MemberId {
    /// The smallest id.
    pub const FIRST: Self = Self(1);

    /// Makes an id of 64 random bits.
    pub fn from_random(bits: u64) -> Self {
        Self((bits & MEMBER_ID_MAX).max(1))
    }

    /// An id read from elsewhere; `None` outside 1 to [`MEMBER_ID_MAX`].
    pub fn new(id: u64) -> Option<Self> {
        (1..=MEMBER_ID_MAX).contains(&id).then_some(Self(id))
    }

    /// The id as a number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// For openraft's examination of stores, which numbers its members.
#[cfg(test)]
impl From<u64> for MemberId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl FromStr for MemberId {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Self, MemberError> {
        text.parse()
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| MemberError::Id(text.escape_debug().to_string()))
    }
}

/// How far a member has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Announced itself; owns nothing yet.
    Joining,
    /// Owns series and takes writes.
    Active,
    /// Takes no new series, is still read, cuts and ships.
    Leaving,
    /// Its data is in the bucket or given up; kept so that it learns of it when it comes back.
    Gone,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Joining => "JOINING",
            State::Active => "ACTIVE",
            State::Leaving => "LEAVING",
            State::Gone => "GONE",
        })
    }
}

/// A member of the ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who it is. Placement depends on it, so a member may change its address without moving series.
    pub id: MemberId,
    /// Where its gRPC listener is reached: `host:port`.
    pub address: String,
    /// The zone whose failure takes the member with it; empty when zones are not used.
    #[serde(default)]
    pub zone: String,
    /// Share of the series relative to the others; [`WEIGHT_NORMAL`] is usual.
    #[serde(default = "weight_normal")]
    pub weight: u32,
    /// How far it has come.
    pub state: State,
    /// Epoch of the document that brought it into this state.
    #[serde(default)]
    pub since_epoch: u64,
}

fn weight_normal() -> u32 {
    WEIGHT_NORMAL
}

/// What is wrong with the description of a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MemberError {
    /// Not a number in range.
    #[error("{0:?} is no member id: give a number from 1 to 9007199254740991")]
    Id(String),
    /// Not `host:port`.
    #[error("{0:?} is no address of a member: give host:port")]
    Address(String),
    /// Too long, or not printable.
    #[error("{0:?} is no zone name: give up to {TEXT_BYTES_MAX} bytes without control characters")]
    Zone(String),
    /// Outside 1 to [`WEIGHT_MAX`].
    #[error(
        "weight {0} is not between 1 and {WEIGHT_MAX} ({WEIGHT_NORMAL} is usual); drain a member that shall get nothing"
    )]
    Weight(u32),
}

impl Member {
    /// Whether the fields make sense by themselves.
    pub fn check(&self) -> Result<(), MemberError> {
        if MemberId::new(self.id.get()).is_none() {
            return Err(MemberError::Id(self.id.to_string()));
        }
        check_address(&self.address)?;
        check_zone(&self.zone)?;
        check_weight(self.weight)
    }
}

/// Whether `address` is `host:port`.
pub fn check_address(address: &str) -> Result<(), MemberError> {
    let good = match address.rsplit_once(':') {
        Some((host, port)) => {
            let port_is_number = port.bytes().all(|byte| byte.is_ascii_digit());
            let host_is_bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
            let printable = host.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '/');
            !host.is_empty()
                && host_is_bare
                && printable
                && port_is_number
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        None => false,
    };
    if good && address.len() <= TEXT_BYTES_MAX {
        Ok(())
    } else {
        Err(MemberError::Address(short(address)))
    }
}

/// Whether `zone` can be a zone name; the empty one can.
pub fn check_zone(zone: &str) -> Result<(), MemberError> {
    let good = zone.len() <= TEXT_BYTES_MAX && !zone.chars().any(char::is_control);
    if good {
        Ok(())
    } else {
        Err(MemberError::Zone(short(zone)))
    }
}

/// Whether `weight` is in range.
pub fn check_weight(weight: u32) -> Result<(), MemberError> {
    if (1..=WEIGHT_MAX).contains(&weight) {
        Ok(())
    } else {
        Err(MemberError::Weight(weight))
    }
}

/// The beginning of a text from outside, so that an error message stays short.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in [
            "a:1",
            "10.0.0.1:10901",
            "[2001:db8::1]:10901",
            "receive-0.receive.monitoring.svc:65535",
        ] {
            assert_eq!(check_address(good), Ok(()), "{good:?}");
        }
        let long = format!("{}:1", "x".repeat(TEXT_BYTES_MAX));
        for bad in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a b:1",
            "http://a:1",
            "::1:80",
            "a\n:1",
            &long,
        ] {
            assert!(check_address(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn random_ids_are_in_range() {
        for bits in [0, 1, u64::MAX, 1 << 53, (1 << 53) | 7] {
            let id = MemberId::from_random(bits);
            assert_eq!(MemberId::new(id.get()), Some(id));
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!(MemberId::new(0), None);
        assert!("-1".parse::<MemberId>().is_err());
        assert!("9007199254740992".parse::<MemberId>().is_err());
    }
}
