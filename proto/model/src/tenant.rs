//! Who a sample belongs to.

use std::{fmt, sync::Arc};

/// The tenant of requests that name none, as in Thanos.
pub const DEFAULT_TENANT: &str = "default-tenant";

/// Longest accepted tenant id in bytes. Mimir and Loki use the same bound.
pub const TENANT_BYTES_MAX: usize = 150;

/// A validated tenant id: 1 to 150 bytes of letters, digits and `! - _ . * ' ( )`, neither `.` nor `..`.
///
/// The alphabet is the one that Mimir documents, so an id can stand in a path, a label and an object key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

/// Why a string is no tenant id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// The id is the empty string.
    #[error("tenant id is empty")]
    Empty,
    /// The id is longer than [`TENANT_BYTES_MAX`].
    #[error("tenant id has {0} bytes, at most {TENANT_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The id holds a character outside the alphabet, or is `.` or `..`.
    #[error("tenant id {0:?} holds characters other than letters, digits and !-_.*'()")]
    Alphabet(String),
}

impl Tenant {
    /// Checks `id` and makes a tenant of it.
    pub fn new(id: &str) -> Result<Self, TenantError> {
        if id.is_empty() {
            return Err(TenantError::Empty);
        }
        if id.len() > TENANT_BYTES_MAX {
            return Err(TenantError::TooLong(id.len()));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!-_.*'()".contains(&b);
        if !id.bytes().all(allowed) || id == "." || id == ".." {
            return Err(TenantError::Alphabet(id.escape_debug().to_string()));
        }
        Ok(Self(id.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self(DEFAULT_TENANT.into())
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Headers that name the tenant, as Thanos and as Mimir, Cortex and Loki users know them.
pub const TENANT_HEADERS: [&str; 2] = ["thanos-tenant", "x-scope-orgid"];

/// Why a request's tenant is not clear.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CarrierError {
    /// A carrier holds something that is no tenant id.
    #[error("{carrier}: {error}")]
    Invalid {
        /// Where it was found.
        carrier: &'static str,
        /// What is wrong with it.
        error: TenantError,
    },
    /// Two carriers name different tenants.
    #[error("the request names two tenants: {0} and {1}")]
    Contradiction(Tenant, Tenant),
}

/// The tenant that the headers of a request name, the default tenant when they name none. `header` looks one up by its
/// lower-case name. Headers that contradict each other are refused rather than ranked.
pub fn tenant_of<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Result<Tenant, CarrierError> {
    let mut found: Option<Tenant> = None;
    for carrier in TENANT_HEADERS {
        let Some(id) = header(carrier) else { continue };
        let tenant = Tenant::new(id).map_err(|error| CarrierError::Invalid { carrier, error })?;
        match found {
            Some(first) if first != tenant => return Err(CarrierError::Contradiction(first, tenant)),
            _ => found = Some(tenant),
        }
    }
    Ok(found.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_ids_are_refused() {
        for id in ["", ".", "..", "a/b", "a\\b", "a\0b", "a b", "ünïcode", &"x".repeat(151)] {
            assert!(Tenant::new(id).is_err(), "{id:?} was accepted");
        }
        for id in ["a", "team-1", "a.b", "(x)", &"x".repeat(150)] {
            assert!(Tenant::new(id).is_ok(), "{id:?} was refused");
        }
    }
}
