//! What a request says about itself in its headers: version, encoding, tenant.
//!
//! Called first for every write. Only the encoding and the message type are answered with 415, since senders react to
//! that code by trying another one; a tenant that is not clear is a 400.

use http::{HeaderMap, StatusCode, header};
use model::tenant::{TENANT_HEADERS, Tenant, tenant_of};
use proto::compression::Encoding;

/// Version of the protocol, chosen by the message type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    /// `prometheus.WriteRequest`
    V1,
    /// `io.prometheus.write.v2.Request`
    V2,
}

impl Version {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Version::V1 => "1.0",
            Version::V2 => "2.0",
        }
    }
}

const MEDIA_TYPE: &str = "application/x-protobuf";
const V1_MESSAGE: &str = "prometheus.WriteRequest";
const V2_MESSAGE: &str = "io.prometheus.write.v2.Request";

/// Why a request is refused by its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Refusal {
    fn unsupported(text: String) -> Self {
        Self {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            text,
        }
    }

    fn bad(text: String) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            text,
        }
    }
}

/// The version that the content type names; version 1.0 when there is none.
pub(crate) fn version(headers: &HeaderMap) -> Result<Version, Refusal> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(Version::V1);
    };
    let Ok(value) = value.to_str() else {
        return Err(Refusal::unsupported(
            "the Content-Type header is not readable".to_owned(),
        ));
    };
    let mut parts = value.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    if media_type.is_empty() {
        return Ok(Version::V1);
    }
    if !media_type.eq_ignore_ascii_case(MEDIA_TYPE) {
        return Err(Refusal::unsupported(format!(
            "content type {media_type:?} is not supported; remote write is {MEDIA_TYPE}"
        )));
    }
    let message = parts
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("proto"))
        .map(|(_, message)| message.trim().trim_matches('"'));
    match message {
        None | Some(V1_MESSAGE) => Ok(Version::V1),
        Some(V2_MESSAGE) => Ok(Version::V2),
        Some(other) => Err(Refusal::unsupported(format!(
            "message type {other:?} is not supported; supported are {V1_MESSAGE} and {V2_MESSAGE}"
        ))),
    }
}

/// The encoding that the headers name.
pub(crate) fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let named = match values.next() {
        None => None,
        Some(value) => Some(value.to_str().unwrap_or("not readable")),
    };
    let supported = Encoding::from_header(named).filter(|_| values.next().is_none());
    supported.ok_or_else(|| {
        Refusal::unsupported(format!(
            "content encoding {:?} is not supported; supported are snappy (block format), zstd, gzip and identity, \
             one at a time",
            named.unwrap_or_default()
        ))
    })
}

/// The tenant that headers and path name. They may name it more than once, but not differently.
pub(crate) fn tenant(headers: &HeaderMap, in_path: Option<&str>) -> Result<Tenant, Refusal> {
    for name in TENANT_HEADERS {
        let mut values = headers.get_all(name).iter();
        if let Some(first) = values.next()
            && values.any(|value| value != first)
        {
            return Err(Refusal::bad(format!("the header {name} names two tenants")));
        }
    }
    let by_header = tenant_of(|name| headers.get(name).map(|value| value.to_str().unwrap_or("not readable")))
        .map_err(|error| Refusal::bad(error.to_string()))?;
    let Some(in_path) = in_path else { return Ok(by_header) };
    let by_path = Tenant::new(in_path).map_err(|error| Refusal::bad(format!("tenant in the path: {error}")))?;
    let named_by_header = TENANT_HEADERS.iter().any(|name| headers.contains_key(*name));
    if named_by_header && by_header != by_path {
        return Err(Refusal::bad(format!(
            "the request names two tenants: {by_path} in the path and {by_header} in a header"
        )));
    }
    Ok(by_path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn the_content_type_chooses_the_version() {
        let check = |value: &str, expected: Option<Version>| {
            assert_eq!(version(&headers(&[("content-type", value)])).ok(), expected, "{value}");
        };
        check("", Some(Version::V1));
        check("application/x-protobuf", Some(Version::V1));
        check("Application/X-Protobuf; charset=x", Some(Version::V1));
        check(
            "application/x-protobuf;proto=prometheus.WriteRequest",
            Some(Version::V1),
        );
        check(
            "application/x-protobuf; proto=\"io.prometheus.write.v2.Request\"",
            Some(Version::V2),
        );
        check(
            "application/x-protobuf;proto=io.prometheus.write.v2.Request",
            Some(Version::V2),
        );
        check("application/x-protobuf;proto=other", None);
        check("application/json", None);
        check("image/png", None);
        check("text/plain; proto=io.prometheus.write.v2.Request", None);
        assert_eq!(version(&HeaderMap::new()), Ok(Version::V1));
    }

    #[test]
    fn the_path_and_the_headers_may_agree_but_not_contradict() {
        let check = |pairs: &[(&'static str, &str)], path: Option<&str>, expected: Result<&str, &str>| match (
            tenant(&headers(pairs), path),
            expected,
        ) {
            (Ok(tenant), Ok(expected)) => assert_eq!(tenant.as_str(), expected),
            (Err(refusal), Err(phrase)) => assert!(refusal.text.contains(phrase), "{}", refusal.text),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        };
        check(&[], None, Ok("default-tenant"));
        check(&[], Some("a"), Ok("a"));
        check(&[("thanos-tenant", "a")], None, Ok("a"));
        check(&[("x-scope-orgid", "a"), ("thanos-tenant", "a")], Some("a"), Ok("a"));
        check(
            &[("x-scope-orgid", "a"), ("thanos-tenant", "b")],
            None,
            Err("two tenants: b and a"),
        );
        check(
            &[("x-scope-orgid", "a"), ("x-scope-orgid", "b")],
            None,
            Err("names two tenants"),
        );
        check(&[("x-scope-orgid", "default-tenant")], Some("b"), Err("two tenants"));
        check(&[], Some("a/b"), Err("tenant in the path"));
        check(&[("x-scope-orgid", "t\u{e4}")], None, Err("x-scope-orgid"));
    }

    #[test]
    fn encodings_come_one_at_a_time() {
        assert_eq!(encoding(&headers(&[])), Ok(Encoding::Unstated));
        assert_eq!(encoding(&headers(&[("content-encoding", "zstd")])), Ok(Encoding::Zstd));
        for pairs in [
            &[("content-encoding", "br")][..],
            &[("content-encoding", "snappy, gzip")],
            &[("content-encoding", "snappy"), ("content-encoding", "gzip")],
        ] {
            assert_eq!(
                encoding(&headers(pairs)).unwrap_err().status,
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            );
        }
    }
}
