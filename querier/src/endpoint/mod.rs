//! Other processes as sources: everything that speaks StoreAPI, of Narthex or of Thanos.
//!
//! The node finds addresses and hands them to an [`EndpointSet`], which keeps one [`Endpoint`] for each, asks it from time to time
//! what it holds, and puts it into the fan-out. An endpoint is asked only for what it may hold. One that does not answer is never
//! left out in silence: it fails at once, and the fan-out says what that means for the answer.

mod health;
mod scope;
mod remote;
mod set;

pub use health::EndpointStatus;
pub use remote::Endpoint;
pub use set::EndpointSet;

use model::{matcher::Matcher, tenant::Tenant};
use promql::ast::{Expr, ParserOptions};
use proto::{grpc::security::Security, thanos::ClientTls};
use std::time::Duration;

/// How endpoints are spoken to.
#[derive(Debug, Clone)]
pub struct EndpointSettings {
    /// How long one call, or one batch of an answer, may take.
    pub timeout: Duration,
    /// Certificates; `None` speaks in the clear.
    pub tls: Option<ClientTls>,
    /// How nodes of the same cluster speak to each other; for endpoints that are such nodes, instead of `tls`.
    pub between_nodes: Option<Security>,
    /// The external label by which components that know no tenants, such as Thanos's, say whose a series is.
    pub tenant_label: String,
    /// Whose the series without that label are.
    pub default_tenant: Tenant,
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            tls: None,
            between_nodes: None,
            tenant_label: "tenant_id".to_owned(),
            default_tenant: Tenant::default(),
        }
    }
}

/// The selectors of an expression, which is how StoreAPI asks for exemplars.
pub fn selectors_of(query: &str) -> Result<Vec<Vec<Matcher>>, String> {
    let expr = promql::parse::parse(query, ParserOptions::default()).map_err(|error| error.to_string())?;
    let mut sets = Vec::new();
    expr.walk(&mut |node| match node {
        Expr::Vector(selector) => sets.push(selector.matchers.clone()),
        Expr::Matrix(matrix) => sets.push(matrix.selector.matchers.clone()),
        Expr::Aggregate(_) | Expr::Binary(_) | Expr::Call(_) | Expr::Subquery(_) => {}
        Expr::Number(_) | Expr::Paren(_) | Expr::String(_) | Expr::Unary(_) => {}
    });
    Ok(sets)
}
