//! The text of a ring file: Thanos Receive's hashring schema.
//!
//! It is read as Thanos reads it: keys in any letter case, keys that nobody knows passed over, `null` as absent, endpoints as strings or
//! objects. What Thanos would read by accident is an error: a key that stands twice mixes the two values there. Whether the rings can
//! work is not asked here but where they are built.

use super::json::Json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Longest ring file that is read.
pub const FILE_BYTES_MAX: usize = 16 << 20;

/// The number by which Thanos shows in its metrics which file a process uses: 48 bits of its SHA-256 sum, so that processes that differ are
/// found by comparing theirs with ours.
pub fn config_hash(text: &str) -> u64 {
    let sum: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    sum[..6]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// One ring of the file. Absent values are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RingConfig {
    /// Its name, for messages.
    pub hashring: String,
    /// Tenants that it serves; all when empty.
    pub tenants: Vec<String>,
    /// How `tenants` are compared: `exact` (also when empty) or `glob`.
    pub tenant_matcher_type: String,
    /// Its nodes.
    pub endpoints: Vec<Endpoint>,
    /// `hashmod` or `ketama`; when empty what the process is told.
    pub algorithm: String,
    /// Labels for blocks of the tenants that `tenants` names literally.
    pub external_labels: BTreeMap<String, String>,
    /// How many nodes a tenant gets.
    pub shuffle_sharding: ShuffleConfig,
}

/// A node of a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where its gRPC listener is reached; hashed as it is written.
    pub address: String,
    /// Its zone, or empty.
    pub zone: String,
}

/// How many nodes of its ring a tenant gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShuffleConfig {
    /// Nodes of a tenant; all when not positive.
    pub shard_size: i64,
    /// Tenants whose nodes are kept in memory; 0 leaves it to the process.
    pub cache_size: i64,
    /// Whether the nodes are drawn from the whole ring rather than as many from each zone.
    pub zone_awareness_disabled: bool,
    /// Other sizes for some tenants; the first that fits.
    pub overrides: Vec<OverrideConfig>,
}

/// Another shard size for some tenants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OverrideConfig {
    /// Nodes of each of the tenants.
    pub shard_size: i64,
    /// Which tenants.
    pub tenants: Vec<String>,
    /// How they are compared: `exact` or `glob`.
    pub tenant_matcher_type: String,
}

/// Why a text is no ring file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// A value of the wrong kind.
    #[error("{place}: expected {expected}, found {found}")]
    Kind {
        /// Where it stands.
        place: String,
        /// What may stand there.
        expected: &'static str,
        /// What does.
        found: &'static str,
    },
    /// A key twice in one object.
    #[error("{place}: the key {key:?} stands twice")]
    Repeated {
        /// Where the object stands.
        place: String,
        /// The key.
        key: String,
    },
    /// An endpoint that cannot be reached.
    #[error("{place}: {address:?} is no address")]
    Address {
        /// Where it stands.
        place: String,
        /// What it is.
        address: String,
    },
    /// No rings at all.
    #[error("the list of hashrings is empty")]
    NoRings,
}

/// Reads the rings of a file.
pub fn parse(text: &str) -> Result<Vec<RingConfig>, FileError> {
    if text.len() > FILE_BYTES_MAX {
        return Err(FileError::Syntax(format!(
            "{} bytes, at most {FILE_BYTES_MAX} are read",
            text.len()
        )));
    }
    let json: Json = serde_json::from_str(text).map_err(|error| FileError::Syntax(error.to_string()))?;
    let file = Place {
        name: "the file".into(),
        json: &json,
    };
    let rings = file.items()?.iter().map(ring).collect::<Result<Vec<_>, _>>()?;
    if rings.is_empty() {
        Err(FileError::NoRings)
    } else {
        Ok(rings)
    }
}

fn ring(place: &Place<'_>) -> Result<RingConfig, FileError> {
    let fields = place.fields()?;
    Ok(RingConfig {
        hashring: fields.get("hashring")?.text()?,
        tenants: fields.get("tenants")?.texts()?,
        tenant_matcher_type: fields.get("tenant_matcher_type")?.text()?,
        endpoints: fields
            .get("endpoints")?
            .items()?
            .iter()
            .map(endpoint)
            .collect::<Result<_, _>>()?,
        algorithm: fields.get("algorithm")?.text()?,
        external_labels: labels(&fields.get("external_labels")?)?,
        shuffle_sharding: shuffle_sharding(&fields.get("shuffle_sharding_config")?)?,
    })
}

fn endpoint(place: &Place<'_>) -> Result<Endpoint, FileError> {
    let endpoint = match place.json {
        Json::Text(address) => Endpoint {
            address: address.clone(),
            zone: String::new(),
        },
        Json::Null | Json::Object(_) => {
            let fields = place.fields()?;
            Endpoint {
                address: fields.get("address")?.text()?,
                zone: fields.get("az")?.text()?,
            }
        }
        _ => return Err(place.wrong("a string or an object")),
    };
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == char::REPLACEMENT_CHARACTER;
    if endpoint.address.is_empty() || endpoint.address.contains(odd) {
        return Err(FileError::Address {
            place: place.name.clone(),
            address: endpoint.address,
        });
    }
    Ok(endpoint)
}

fn labels(place: &Place<'_>) -> Result<BTreeMap<String, String>, FileError> {
    let mut labels = BTreeMap::new();
    for (name, value) in place.fields()?.entries {
        let value = Place {
            name: format!("{}.{name}", place.name),
            json: value,
        }
        .text()?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(FileError::Repeated {
                place: place.name.clone(),
                key: name.to_owned(),
            });
        }
    }
    Ok(labels)
}

fn shuffle_sharding(place: &Place<'_>) -> Result<ShuffleConfig, FileError> {
    let fields = place.fields()?;
    Ok(ShuffleConfig {
        shard_size: fields.get("shard_size")?.integer()?,
        cache_size: fields.get("cache_size")?.integer()?,
        zone_awareness_disabled: fields.get("zone_awareness_disabled")?.boolean()?,
        overrides: fields
            .get("overrides")?
            .items()?
            .iter()
            .map(shard_override)
            .collect::<Result<_, _>>()?,
    })
}

fn shard_override(place: &Place<'_>) -> Result<OverrideConfig, FileError> {
    let fields = place.fields()?;
    Ok(OverrideConfig {
        shard_size: fields.get("shard_size")?.integer()?,
        tenants: fields.get("tenants")?.texts()?,
        tenant_matcher_type: fields.get("tenant_matcher_type")?.text()?,
    })
}

/// A value and where it stands.
struct Place<'a> {
    name: String,
    json: &'a Json,
}

/// The fields of an object.
struct Fields<'a> {
    name: &'a str,
    entries: Vec<(&'a str, &'a Json)>,
}

impl<'a> Place<'a> {
    fn wrong(&self, expected: &'static str) -> FileError {
        FileError::Kind {
            place: self.name.clone(),
            expected,
            found: self.json.kind(),
        }
    }

    fn text(&self) -> Result<String, FileError> {
        match self.json {
            Json::Null => Ok(String::new()),
            Json::Text(text) => Ok(text.clone()),
            _ => Err(self.wrong("a string")),
        }
    }

    fn integer(&self) -> Result<i64, FileError> {
        match self.json {
            Json::Null => Ok(0),
            Json::Integer(number) => Ok(*number),
            _ => Err(self.wrong("a whole number")),
        }
    }

    fn boolean(&self) -> Result<bool, FileError> {
        match self.json {
            Json::Null => Ok(false),
            Json::Bool(value) => Ok(*value),
            _ => Err(self.wrong("a boolean")),
        }
    }

    fn items(&self) -> Result<Vec<Place<'a>>, FileError> {
        let items = match self.json {
            Json::Null => &[][..],
            Json::List(items) => items,
            _ => return Err(self.wrong("a list")),
        };
        Ok(items
            .iter()
            .enumerate()
            .map(|(index, json)| Place {
                name: format!("{}[{index}]", self.name),
                json,
            })
            .collect())
    }

    fn texts(&self) -> Result<Vec<String>, FileError> {
        self.items()?.iter().map(Place::text).collect()
    }

    fn fields(&self) -> Result<Fields<'_>, FileError> {
        match self.json {
            Json::Null => Ok(Fields {
                name: &self.name,
                entries: Vec::new(),
            }),
            Json::Object(entries) => {
                let entries = entries.iter().map(|(key, value)| (key.as_str(), value)).collect();
                Ok(Fields {
                    name: &self.name,
                    entries,
                })
            }
            _ => Err(self.wrong("an object")),
        }
    }
}

impl<'a> Fields<'a> {
    /// The value of a key, in any letter case; null when it is absent.
    fn get(&self, key: &str) -> Result<Place<'a>, FileError> {
        let mut values = self.entries.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key));
        let json = values.next().map_or(&Json::Null, |(_, value)| *value);
        if values.next().is_some() {
            return Err(FileError::Repeated {
                place: self.name.to_owned(),
                key: key.to_owned(),
            });
        }
        Ok(Place {
            name: format!("{}.{key}", self.name),
            json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_full_file_is_read() {
        let text = r#"[{"hashring": "r", "tenants": ["a", "b"], "tenant_matcher_type": "glob", "algorithm": "ketama",
            "endpoints": ["x:1", {"address": "y:1", "az": "z", "capnproto_address": "y:2"}],
            "external_labels": {"n": "v"}, "unknown": [{}],
            "shuffle_sharding_config": {"shard_size": 2, "cache_size": 7, "zone_awareness_disabled": true,
                "overrides": [{"shard_size": 3, "tenants": ["a"], "tenant_matcher_type": "exact"}]}}]"#;
        let endpoint = |address: &str, zone: &str| Endpoint {
            address: address.into(),
            zone: zone.into(),
        };
        let expected = RingConfig {
            hashring: "r".into(),
            tenants: vec!["a".into(), "b".into()],
            tenant_matcher_type: "glob".into(),
            endpoints: vec![endpoint("x:1", ""), endpoint("y:1", "z")],
            algorithm: "ketama".into(),
            external_labels: BTreeMap::from([("n".into(), "v".into())]),
            shuffle_sharding: ShuffleConfig {
                shard_size: 2,
                cache_size: 7,
                zone_awareness_disabled: true,
                overrides: vec![OverrideConfig {
                    shard_size: 3,
                    tenants: vec!["a".into()],
                    tenant_matcher_type: "exact".into(),
                }],
            },
        };
        assert_eq!(parse(text), Ok(vec![expected]));
    }

    #[test]
    fn keys_match_in_any_case_and_null_is_absent() {
        let ring = &parse(r#"[{"EndPoints": [{"Address": "a:1", "AZ": "z"}], "TENANTS": null}, null]"#).unwrap();
        assert_eq!(
            ring[0].endpoints,
            [Endpoint {
                address: "a:1".into(),
                zone: "z".into()
            }]
        );
        assert_eq!(ring[1], RingConfig::default());
    }

    #[test]
    fn errors_say_where() {
        for (text, expected) in [
            ("", "not JSON"),
            ("[{\"endpoints\":[\"a:1\"]}] x", "not JSON: trailing characters"),
            ("- endpoints", "not JSON"),
            ("{}", "the file: expected a list, found an object"),
            ("[]", "the list of hashrings is empty"),
            ("null", "the list of hashrings is empty"),
            (
                r#"[{}, {"endpoints": "a:1"}]"#,
                "the file[1].endpoints: expected a list, found a string",
            ),
            (
                r#"[{"endpoints": [1]}]"#,
                "the file[0].endpoints[0]: expected a string or an object, found a whole number",
            ),
            (
                r#"[{"endpoints": [{"az": "z"}]}]"#,
                r#"the file[0].endpoints[0]: "" is no address"#,
            ),
            (
                r#"[{"endpoints": ["a:1", null]}]"#,
                r#"the file[0].endpoints[1]: "" is no address"#,
            ),
            (r#"[{"endpoints": [" "]}]"#, r#"" " is no address"#),
            (
                r#"[{"shuffle_sharding_config": {"shard_size": 1.0}}]"#,
                "found a number that is not whole",
            ),
            (
                r#"[{"endpoints": ["a:1"], "Endpoints": ["b:1"]}]"#,
                r#"the file[0]: the key "endpoints" stands twice"#,
            ),
            (
                r#"[{"external_labels": {"a": "1", "a": "2"}}]"#,
                r#"the key "a" stands twice"#,
            ),
            (
                r#"[{"external_labels": {"a": 1}}]"#,
                "the file[0].external_labels.a: expected a string",
            ),
        ] {
            assert!(error(text).contains(expected), "{text}: {}", error(text));
        }
        assert!(
            error(&"[".repeat(100_000)).contains("not JSON"),
            "deep nesting is refused"
        );
    }
}
