//! What a request asks: its parameters, its tenant, who sent it.

use super::{
    answer::ApiError,
    catalogue::Call,
    time::{TIME_MAX, TIME_MIN, parse_duration, parse_time},
};
use crate::{
    reading::Reading,
    settings::{Dedup, QuerierSettings},
};
use ::http::{HeaderMap, Method, header, request::Parts};
use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
};
use model::{
    tenant::{Tenant, tenant_of},
    time::{TimeRange, Timestamp},
};
use promql::format::quote;
use std::time::Duration;

/// Size of a form; the same bound as in Go.
const FORM_BYTES_MAX: usize = 10 << 20;

/// Parameters that one request may have; each costs memory, and a selector costs a search.
const PARAMETERS_MAX: usize = 10_000;

/// A request of the API, read and checked as far as all calls have it in common.
pub(crate) struct Asked {
    /// Form parameters first, then those of the URL.
    pairs: Vec<(String, String)>,
    /// Whose samples are asked for.
    pub(crate) tenant: Tenant,
    /// All headers, for the log of slow queries.
    pub(crate) headers: HeaderMap,
    /// Which call it is.
    call: Option<&'static Call>,
}

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        // As in Go, only a form in the body of a method that changes things is read: vmalert posts an empty body and calls it JSON.
        let with_form = [Method::POST, Method::PUT].contains(&parts.method) && is_form(&parts.headers);
        if !with_form {
            return Self::new(parts, &[]);
        }
        let form = to_bytes(body, FORM_BYTES_MAX).await.map_err(|error| {
            ApiError::bad_data(format!(
                "error parsing form values: {error} (at most {FORM_BYTES_MAX} bytes are read)"
            ))
        })?;
        Self::new(parts, &form)
    }
}

impl Asked {
    /// A request whose body is this form, or has none.
    pub(crate) fn new(parts: Parts, form: &[u8]) -> Result<Self, ApiError> {
        let header = |name: &str| {
            parts
                .headers
                .get(name)
                .map(|value| value.to_str().unwrap_or("\u{fffd}"))
        };
        let tenant = tenant_of(header).map_err(|error| ApiError::bad_data(error.to_string()))?;
        let mut pairs = Vec::new();
        read_pairs(form, &mut pairs)?;
        read_pairs(parts.uri.query().unwrap_or("").as_bytes(), &mut pairs)?;
        Ok(Self {
            pairs,
            tenant,
            call: parts.extensions.get::<&'static Call>().copied(),
            headers: parts.headers,
        })
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let media_type = value.split(';').next().unwrap_or("").trim();
    media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

fn read_pairs(encoded: &[u8], pairs: &mut Vec<(String, String)>) -> Result<(), ApiError> {
    for (name, value) in form_urlencoded::parse(encoded) {
        if pairs.len() == PARAMETERS_MAX {
            return Err(ApiError::bad_data(format!(
                "error parsing form values: more than {PARAMETERS_MAX} parameters"
            )));
        }
        pairs.push((name.into_owned(), value.into_owned()));
    }
    Ok(())
}

impl Asked {
    /// What is read must be in the catalogue, or the document would not tell it.
    fn known(&self, name: &str) {
        if let Some(call) = self.call {
            debug_assert!(
                call.names(name),
                "{} reads {name}, which its row does not name",
                call.path
            );
        }
    }

    /// The first value of a parameter, or the empty string.
    pub(crate) fn first(&self, name: &str) -> &str {
        self.known(name);
        self.pairs
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, value)| value)
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.known(name);
        self.pairs
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// A time that must be there.
    pub(crate) fn time(&self, name: &str) -> Result<Timestamp, ApiError> {
        parse_time(self.first(name)).map_err(|error| ApiError::parameter(name, error))
    }

    /// A time, or `default` when it is not given.
    pub(crate) fn time_or(&self, name: &str, default: Timestamp) -> Result<Timestamp, ApiError> {
        match self.first(name) {
            "" => Ok(default),
            text => parse_time(text)
                .map_err(|error| ApiError::parameter(name, format!("invalid time value for '{name}': {error}"))),
        }
    }

    /// `start` and `end`, all of time when they are not given.
    pub(crate) fn range(&self) -> Result<TimeRange, ApiError> {
        Ok(TimeRange::new(
            self.time_or("start", TIME_MIN)?,
            self.time_or("end", TIME_MAX)?,
        ))
    }

    /// `step`, in milliseconds.
    pub(crate) fn step(&self) -> Result<i64, ApiError> {
        parse_duration(self.first("step")).map_err(|error| ApiError::parameter("step", error))
    }

    /// `timeout`, if given; one in the past is no time at all.
    pub(crate) fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        match self.first("timeout") {
            "" => Ok(None),
            text => {
                let millis = parse_duration(text).map_err(|error| ApiError::parameter("timeout", error))?;
                Ok(Some(Duration::from_millis(millis.max(0) as u64)))
            }
        }
    }

    /// `lookback_delta` in milliseconds, if given.
    pub(crate) fn lookback(&self) -> Result<Option<i64>, ApiError> {
        match self.first("lookback_delta") {
            "" => Ok(None),
            text => {
                let wrap = |error| ApiError::bad_data(format!("error parsing lookback delta duration: {error}"));
                // As in Prometheus, zero or less means the default.
                Ok(Some(parse_duration(text).map_err(wrap)?).filter(|millis| *millis > 0))
            }
        }
    }

    /// `limit`, 0 for none.
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        let text = self.first("limit");
        if text.is_empty() {
            return Ok(0);
        }
        let number = atoi(text).map_err(|error| ApiError::parameter("limit", error))?;
        usize::try_from(number).map_err(|_| ApiError::parameter("limit", "limit must be non-negative"))
    }

    /// How series are to be read: `partial_response`, `dedup` and `replicaLabels[]`, as in Thanos; `dedup` also takes the name of an
    /// algorithm.
    pub(crate) fn reading(&self, settings: &QuerierSettings) -> Result<Reading, ApiError> {
        self.reading_or(settings, settings.partial_response)
    }

    /// The same for answers that have no place for warnings: they must be whole unless the request says otherwise.
    pub(crate) fn whole_reading(&self, settings: &QuerierSettings) -> Result<Reading, ApiError> {
        self.reading_or(settings, false)
    }

    fn reading_or(&self, settings: &QuerierSettings, partial: bool) -> Result<Reading, ApiError> {
        let partial = self.flag("partial_response", partial)?;
        let asked: Vec<String> = self.all("replicaLabels[]").map(str::to_owned).collect();
        let named = Dedup::named(self.first("dedup"));
        let wanted = named.is_some() || self.flag("dedup", true)?;
        let replica_labels = match (wanted, asked.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => settings.replica_labels.clone(),
            (true, false) => asked,
        };
        Ok(Reading {
            partial,
            replica_labels: replica_labels.into(),
            dedup: named.unwrap_or(settings.dedup),
        })
    }

    /// A truth value, or `default` when it is not given.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.first(name) {
            "" => Ok(default),
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(ApiError::parameter(
                name,
                format!("cannot parse {} to a bool", quote(other)),
            )),
        }
    }
}

/// A whole number, with Go's words when it is none.
pub(crate) fn atoi(text: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|error| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let what = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.Atoi: parsing {}: {what}", quote(text))
    })
}

/// The label name behind its escaped form `U__…`: `__` is an underscore, `_2e_` the character with that code point. What is no
/// escaped form stays as it is.
pub(crate) fn unescape_name(name: &str) -> String {
    let unescape = |escaped: &str| -> Option<String> {
        let mut plain = String::with_capacity(escaped.len());
        let mut rest = escaped;
        while let Some(at) = rest.find('_') {
            plain.push_str(&rest[..at]);
            let code = &rest[at + 1..];
            let end = code.find('_')?;
            if end == 0 {
                plain.push('_');
            } else if end <= 6 && code[..end].bytes().all(|b| b.is_ascii_hexdigit()) {
                plain.push(char::from_u32(u32::from_str_radix(&code[..end], 16).ok()?)?);
            } else {
                return None;
            }
            rest = &code[end + 1..];
        }
        plain.push_str(rest);
        Some(plain)
    };
    name.strip_prefix("U__")
        .and_then(unescape)
        .unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unescaped() {
        let cases = [
            ("job", "job"),
            ("U__my_2e_name", "my.name"),
            ("U__a__b", "a_b"),
            ("U___1f600_x", "😀x"),
            ("U__", ""),
            ("U__plain", "plain"),
            ("U__broken_", "U__broken_"),
            ("U__broken_zz_", "U__broken_zz_"),
            ("U__surrogate_d800_", "U__surrogate_d800_"),
            ("U__long_0000000_", "U__long_0000000_"),
            ("U__日_2e_本", "日.本"),
        ];
        for (escaped, expected) in cases {
            assert_eq!(unescape_name(escaped), expected);
        }
    }

    #[test]
    fn whole_numbers_fail_in_the_words_of_go() {
        assert_eq!(atoi("42"), Ok(42));
        assert_eq!(atoi("+1"), Ok(1));
        assert_eq!(atoi("x").unwrap_err(), "strconv.Atoi: parsing \"x\": invalid syntax");
        assert_eq!(
            atoi("1.5").unwrap_err(),
            "strconv.Atoi: parsing \"1.5\": invalid syntax"
        );
        let huge = "99999999999999999999";
        assert_eq!(
            atoi(huge).unwrap_err(),
            format!("strconv.Atoi: parsing \"{huge}\": value out of range")
        );
    }
}
