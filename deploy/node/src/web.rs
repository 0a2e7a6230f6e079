//! Who may speak to the HTTP listener, and for which tenant: TLS, credentials, and the one tenant that a request names.
//!
//! [`config`] reads the file that Prometheus's programs know as web configuration, [`users`] checks passwords, [`certificate`] reads names
//! out of certificates. [`guard`] stands before all routes: behind it a request names its tenant in one header, and those behind need not
//! know by which carrier it came.

mod certificate;
mod config;
mod guard;
mod users;

pub use certificate::Field;
pub use config::{Access, Web};
pub use guard::{Guard, Tenancy};

/// The certificate that a client showed and that was verified, as DER. An extension of its requests.
#[derive(Debug, Clone)]
pub struct PeerCertificate(pub std::sync::Arc<[u8]>);
