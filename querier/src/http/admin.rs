//! Deleting series, freeing their space, making snapshots: off unless the operator has switched it on.

use super::{
    answer::{Answer, ApiError, ErrorKind},
    lookup::selectors,
    params::Asked,
};
use crate::querier::Querier;
use ::http::StatusCode;
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use model::admin::Administer;
use promql::format::quote;
use std::sync::Arc;

pub(super) async fn delete_series(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Response, ApiError> {
    let admin = enabled(&querier)?;
    if asked.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let range = asked.range()?;
    let selectors = selectors(&asked)?;
    tracing::info!(tenant = asked.tenant.as_str(), ?selectors, ?range, "series are deleted");
    let deleted = admin.delete_series(&asked.tenant, selectors, range).await?;
    tracing::info!(
        tenant = asked.tenant.as_str(),
        series = deleted.series,
        "series were deleted"
    );
    if deleted.unreached.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    // Prometheus has nothing that a deletion cannot reach. Clients take any 2xx, and read warnings when there is a body.
    let mut answer = Answer::new().warned(deleted.unreached);
    answer.json.raw("{}");
    Ok(answer.into_response())
}

pub(super) async fn clean_tombstones(
    State(querier): State<Arc<Querier>>,
    asked: Asked,
) -> Result<StatusCode, ApiError> {
    enabled(&querier)?.clean_tombstones(&asked.tenant).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn snapshot(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Answer, ApiError> {
    let admin = enabled(&querier)?;
    let skip_head = asked.flag("skip_head", false).map_err(|_| {
        let text = quote(asked.first("skip_head"));
        let reason = format!("unable to parse boolean: strconv.ParseBool: parsing {text}: invalid syntax");
        ApiError::parameter("skip_head", reason)
    })?;
    let name = admin.snapshot(&asked.tenant, skip_head).await?;
    let mut answer = Answer::new();
    answer.json.raw("{").text_member("name", &name).raw("}");
    Ok(answer)
}

fn enabled(querier: &Querier) -> Result<Arc<dyn Administer>, ApiError> {
    querier
        .status
        .admin()
        .ok_or_else(|| ApiError::new(ErrorKind::Disabled, "admin APIs disabled"))
}
