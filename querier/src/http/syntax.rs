//! `format_query` and `parse_query`: what a query looks like, written well or as a tree. No samples are read.

use super::{
    answer::{Answer, ApiError},
    params::Asked,
};
use crate::querier::Querier;
use axum::extract::State;
use promql::{ast::Expr, parse::parse, print};
use std::sync::Arc;

pub(super) async fn format_query(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Answer, ApiError> {
    let mut answer = Answer::new();
    answer.json.string(&print::pretty(&expr(&querier, &asked)?));
    Ok(answer)
}

pub(super) async fn parse_query(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Answer, ApiError> {
    let mut answer = Answer::new();
    answer.json.raw(&print::json(&expr(&querier, &asked)?).to_string());
    Ok(answer)
}

fn expr(querier: &Querier, asked: &Asked) -> Result<Expr, ApiError> {
    parse(asked.first("query"), querier.parser).map_err(|error| ApiError::parameter("query", error))
}
