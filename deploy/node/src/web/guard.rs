//! Stands before all routes: lets in who has credentials, and finds the one tenant that a request names.
//!
//! A request can name its tenant by the client's certificate, a token, the user of basic authentication, a header, or the path, in this
//! order; the first that is there names it. All that are there must name the same one, else the request is refused, so the order only
//! says which of them a message mentions first. Behind the guard the tenant stands in one header, whichever way it came. The label of a
//! series, if the operator wants that, goes before header and path, never before credentials (`receiver::shape`).

use super::{
    PeerCertificate, Web,
    certificate::{self, Field},
    users::Users,
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use model::{
    env::Spawn,
    tenant::{TENANT_HEADERS, Tenant},
};
use receiver::http::BoundTenant;
use std::sync::Arc;

/// Answered without credentials: probes have none, and learn nothing.
const OPEN_PATHS: [&str; 2] = ["/-/healthy", "/-/ready"];

/// Paths below which a tenant matters.
const TENANT_PATHS: [&str; 5] = ["/api/", "/t/", "/prometheus/", "/federate", "/graph"];

/// How requests name their tenant.
#[derive(Debug, Clone)]
pub struct Tenancy {
    /// Headers besides those that everybody knows.
    pub headers: Vec<HeaderName>,
    /// Of requests that name none.
    pub default: Tenant,
    /// Whether the user of basic authentication is one.
    pub basic_auth: bool,
    /// The field of the certificate that names it; every request must have one then.
    pub certificate_field: Option<Field>,
}

/// The guard.
pub struct Guard {
    /// Users and TLS.
    pub web: Arc<Web>,
    /// How requests name their tenant.
    pub tenancy: Tenancy,
    /// For work that takes long.
    pub spawn: Arc<dyn Spawn>,
}

/// A name for a tenant, and where it was found.
struct Named {
    carrier: String,
    tenant: Tenant,
    /// Whether it is proven.
    bound: bool,
}

fn refused(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into() + "\n").into_response()
}

fn bad(text: String) -> Response {
    refused(StatusCode::BAD_REQUEST, text)
}

/// What the Authorization header holds.
enum Credentials {
    None,
    Basic { user: String, password: String },
    Bearer(String),
}

impl Guard {
    /// As a layer of the router.
    pub async fn stand(guard: Arc<Self>, mut request: Request<Body>, next: Next) -> Response {
        match guard.admit(&mut request).await {
            Ok(()) => next.run(request).await,
            Err(refusal) => *refusal,
        }
    }

    async fn admit(&self, request: &mut Request<Body>) -> Result<(), Box<Response>> {
        let path = request.uri().path().to_owned();
        if OPEN_PATHS.contains(&path.as_str()) {
            return Ok(());
        }
        let users = Arc::clone(&self.web.access().users);
        let credentials = credentials(request.headers());
        let mut named = Vec::new();
        if let Some(tenant) = self.authenticate(&users, &credentials).await? {
            named.push(Named {
                carrier: "the token".to_owned(),
                tenant,
                bound: true,
            });
        }
        if !TENANT_PATHS.iter().any(|prefix| path.starts_with(prefix)) {
            return Ok(());
        }
        self.by_user(&users, &credentials, &mut named)?;
        self.by_certificate(request, &mut named)?;
        self.by_headers(request.headers(), &mut named)?;
        by_path(&path, &mut named)?;
        let first = named.first();
        if let Some(first) = first
            && let Some(other) = named.iter().find(|other| other.tenant != first.tenant)
        {
            return Err(Box::new(bad(format!(
                "the request names two tenants: {} by {} and {} by {}",
                first.tenant, first.carrier, other.tenant, other.carrier
            ))));
        }
        let tenant = first.map_or(&self.tenancy.default, |first| &first.tenant);
        let value = HeaderValue::from_str(tenant.as_str());
        let value = value.map_err(|_| Box::new(bad(format!("{tenant} fits into no header"))))?;
        for name in TENANT_HEADERS {
            request.headers_mut().remove(name);
        }
        request
            .headers_mut()
            .insert(HeaderName::from_static(TENANT_HEADERS[0]), value);
        if named.iter().any(|named| named.bound) {
            request.extensions_mut().insert(BoundTenant);
        }
        Ok(())
    }

    /// Lets in who has credentials, where they are wanted; gives the tenant of a token.
    async fn authenticate(&self, users: &Users, credentials: &Credentials) -> Result<Option<Tenant>, Box<Response>> {
        if users.is_empty() {
            return Ok(None);
        }
        let tenant = match credentials {
            Credentials::Bearer(token) => users.bearer(token).map(Some),
            Credentials::Basic { user, password } => users.is_right(user, password, &*self.spawn).await.then_some(None),
            Credentials::None => None,
        };
        tenant.ok_or_else(|| {
            let mut refusal = refused(StatusCode::UNAUTHORIZED, "credentials are missing or wrong");
            let wanted = HeaderValue::from_static("Basic realm=\"narthex\", charset=\"UTF-8\"");
            refusal.headers_mut().insert(header::WWW_AUTHENTICATE, wanted);
            Box::new(refusal)
        })
    }

    fn by_user(&self, users: &Users, credentials: &Credentials, named: &mut Vec<Named>) -> Result<(), Box<Response>> {
        let Credentials::Basic { user, .. } = credentials else {
            return Ok(());
        };
        if self.tenancy.basic_auth {
            // Without passwords here a proxy has checked it, or nobody: then it is worth as much as a header.
            named.push(valid("the user", user, users.has_passwords())?);
        }
        Ok(())
    }

    fn by_certificate(&self, request: &Request<Body>, named: &mut Vec<Named>) -> Result<(), Box<Response>> {
        let Some(field) = self.tenancy.certificate_field else {
            return Ok(());
        };
        let shown = request.extensions().get::<PeerCertificate>();
        let id = shown.and_then(|shown| certificate::subject(&shown.0, field));
        let Some(id) = id else {
            let text = "the client shows no certificate, or one without the field that names the tenant";
            return Err(Box::new(bad(text.to_owned())));
        };
        named.insert(0, valid("the certificate", &id, true)?);
        Ok(())
    }

    fn by_headers(&self, headers: &HeaderMap, named: &mut Vec<Named>) -> Result<(), Box<Response>> {
        let known = TENANT_HEADERS.map(HeaderName::from_static);
        for name in self.tenancy.headers.iter().chain(&known) {
            for value in headers.get_all(name) {
                let id = value.to_str().unwrap_or("not readable");
                named.push(valid(&format!("the header {name}"), id, false)?);
            }
        }
        Ok(())
    }
}

/// The tenant in the path, for senders that cannot set headers. The write path checks it as well; there it is decoded.
fn by_path(path: &str, named: &mut Vec<Named>) -> Result<(), Box<Response>> {
    let Some(rest) = path.strip_prefix("/t/") else {
        return Ok(());
    };
    let id = rest.split('/').next().unwrap_or_default();
    named.push(valid("the path", &decoded(id), false)?);
    Ok(())
}

/// Undoes percent encoding.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = text.get(at + 1..at + 3).filter(|_| *byte == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn valid(carrier: &str, id: &str, bound: bool) -> Result<Named, Box<Response>> {
    let tenant = Tenant::new(id).map_err(|error| Box::new(bad(format!("{carrier}: {error}"))))?;
    Ok(Named {
        carrier: carrier.to_owned(),
        tenant,
        bound,
    })
}

fn credentials(headers: &HeaderMap) -> Credentials {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some((scheme, rest)) = value.and_then(|value| value.split_once(' ')) else {
        return Credentials::None;
    };
    if scheme.eq_ignore_ascii_case("bearer") {
        return Credentials::Bearer(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Credentials::None;
    }
    let decoded = BASE64_STANDARD.decode(rest.trim()).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    match text.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => Credentials::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        },
        None => Credentials::None,
    }
}
