//! Calls that look things up without evaluating anything: label names and values, series, metadata, exemplars.

use super::{
    answer::{Answer, ApiError, json_response},
    json::Json,
    params::{Asked, atoi, unescape_name},
    result::PIECE_BYTES,
    stream::{self, Torn},
};
use crate::{
    merge::{FailAlways, MergedSet},
    querier::{Late, Querier},
};
use ::http::StatusCode;
use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use futures::future::try_join_all;
use model::{
    matcher::Matcher,
    metadata::Metadata,
    select::{LabelList, Listed, Select, SelectError, SelectRequest, SeriesSet},
    time::TimeRange,
};
use promql::{
    ast::Expr,
    format::quote,
    parse::{parse, parse_selector},
};
use std::sync::Arc;

/// What an answer says when `limit` cut it.
pub(super) const TRUNCATED: &str = "results truncated due to limit";

/// Selectors that one request may name.
const SELECTORS_MAX: usize = 1000;

/// The sets of matchers of `match[]`, each of which must exclude something.
pub(super) fn selectors(asked: &Asked) -> Result<Vec<Vec<Matcher>>, ApiError> {
    let mut sets = Vec::new();
    for text in asked.all("match[]") {
        if sets.len() == SELECTORS_MAX {
            return Err(ApiError::parameter(
                "match[]",
                format!("more than {SELECTORS_MAX} selectors"),
            ));
        }
        sets.push(parse_selector(text).map_err(|error| ApiError::parameter("match[]", error))?);
    }
    if sets.iter().any(|set| set.iter().all(Matcher::matches_empty)) {
        return Err(ApiError::parameter(
            "match[]",
            "match[] must contain at least one non-empty matcher",
        ));
    }
    Ok(sets)
}

/// How many items to ask sources for: one more than wanted, to know whether some are left out.
struct Bound {
    wanted: usize,
    by_client: bool,
}

impl Bound {
    fn new(limit: usize, items_max: usize) -> Self {
        let by_client = limit != 0 && limit <= items_max;
        Self {
            wanted: if by_client { limit } else { items_max },
            by_client,
        }
    }

    fn asked(&self) -> usize {
        self.wanted.saturating_add(1)
    }

    /// The warning when there were `found` items; `None` when all fit.
    fn warning(&self, found: usize) -> Option<String> {
        let wanted = self.wanted;
        (found > wanted).then(|| {
            if self.by_client {
                TRUNCATED.to_owned()
            } else {
                format!("{TRUNCATED}: this server returns at most {wanted} items; narrow the selectors or the time")
            }
        })
    }
}

pub(super) async fn label_names(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Answer, ApiError> {
    list(&querier, &asked, None).await
}

pub(super) async fn label_values(
    State(querier): State<Arc<Querier>>,
    Path(name): Path<String>,
    asked: Asked,
) -> Result<Answer, ApiError> {
    let name = unescape_name(&name);
    if name.is_empty() {
        return Err(ApiError::bad_data(format!("invalid label name: {}", quote(&name))));
    }
    list(&querier, &asked, Some(name)).await
}

/// Values of the label `name`, or label names.
async fn list(querier: &Querier, asked: &Asked, name: Option<String>) -> Result<Answer, ApiError> {
    let bound = Bound::new(asked.limit()?, querier.settings.items_max);
    let range = asked.range()?;
    let mut sets = selectors(asked)?;
    if sets.is_empty() {
        sets.push(Vec::new());
    }
    let select = querier.select_of(&asked.tenant, &asked.reading(&querier.settings)?);
    let ask = |matchers| match &name {
        Some(name) => select.label_values(name.clone(), matchers, range, bound.asked()),
        None => select.label_names(matchers, range, bound.asked()),
    };
    let lists = querier
        .lookup(&asked.tenant, try_join_all(sets.into_iter().map(ask)))
        .await??;
    let LabelList {
        mut items,
        mut warnings,
    } = union(lists);
    warnings.extend(bound.warning(items.len()));
    items.truncate(bound.wanted);
    let mut answer = Answer::new().warned(warnings);
    answer.json.strings(items);
    Ok(answer)
}

/// One sorted list of several; a lone one stays as it is.
fn union(mut lists: Vec<LabelList>) -> LabelList {
    let mut all = lists.pop().unwrap_or_default();
    if lists.is_empty() {
        return all;
    }
    for list in lists {
        all.items.extend(list.items);
        all.warnings.extend(list.warnings);
    }
    all.items.sort();
    all.items.dedup();
    all
}

pub(super) async fn series(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Response, ApiError> {
    if asked.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let bound = Bound::new(asked.limit()?, querier.settings.items_max);
    let range = asked.range()?;
    let sets = selectors(&asked)?;
    let select = querier.select_of(&asked.tenant, &asked.reading(&querier.settings)?);
    let permit = querier.enter_lookup(&asked.tenant).await?;
    let mut json = Answer::new().json;
    json.raw("[");
    let first = async {
        let mut writer = SeriesWriter::open(&*select, sets, range, bound).await?;
        let state = writer.write(&mut json).await?;
        Ok::<_, SelectError>((writer, state))
    };
    let done = querier.within(querier.settings.timeout, first).await;
    let (mut writer, state) = done.ok_or(Late::InExecution)??;
    if let Written::All { warned } = state {
        return Ok(json_response(StatusCode::OK, Body::from(json.out), warned));
    }
    let body = stream::body(&querier, async move |pieces| {
        let _in_turn = permit;
        let mut state = state;
        loop {
            pieces.send(std::mem::take(&mut json.out)).await?;
            if let Written::All { .. } = state {
                return Ok(());
            }
            let written = writer.write(&mut json).await;
            state = written.map_err(|error| Torn::Failed(error.to_string()))?;
        }
    });
    // Whether it will be complete is not known yet, so it must not be cached.
    Ok(json_response(StatusCode::OK, body, true))
}

/// Writes the labels of series, a piece at a time, so that an answer of a million series needs no memory of its size.
struct SeriesWriter {
    set: Box<dyn SeriesSet>,
    bound: Bound,
    found: usize,
}

/// What a call of [`SeriesWriter::write`] wrote.
enum Written {
    /// A piece; more follows.
    Part,
    /// The last piece, with the end of the envelope.
    All {
        /// Whether warnings are in it.
        warned: bool,
    },
}

impl SeriesWriter {
    async fn open(
        select: &dyn Select,
        sets: Vec<Vec<Matcher>>,
        range: TimeRange,
        bound: Bound,
    ) -> Result<Self, SelectError> {
        let request = |matchers| SelectRequest {
            labels_only: true,
            limit: bound.asked(),
            ..SelectRequest::new(matchers, range)
        };
        Ok(Self {
            set: select_any(select, sets.into_iter().map(request)).await?,
            bound,
            found: 0,
        })
    }

    async fn write(&mut self, json: &mut Json) -> Result<Written, SelectError> {
        while let Some(batch) = self.set.next().await {
            for series in batch? {
                self.found += 1;
                if self.found > self.bound.wanted {
                    break;
                }
                if self.found > 1 {
                    json.raw(",");
                }
                json.labels(&series.labels);
            }
            if self.found > self.bound.wanted {
                break;
            }
            if json.out.len() >= PIECE_BYTES {
                return Ok(Written::Part);
            }
        }
        let mut warnings = self.set.warnings();
        warnings.extend(self.bound.warning(self.found));
        let warned = !warnings.is_empty();
        json.raw("]").out.extend(Answer::tail(&mut warnings, &mut Vec::new()));
        Ok(Written::All { warned })
    }
}

/// Series that any of the requests finds, each once, sorted.
pub(super) async fn select_any(
    select: &dyn Select,
    requests: impl Iterator<Item = SelectRequest>,
) -> Result<Box<dyn SeriesSet>, SelectError> {
    let mut sets = try_join_all(requests.map(|request| select.select(request))).await?;
    match sets.pop() {
        Some(lone) if sets.is_empty() => Ok(lone),
        last => {
            sets.extend(last);
            Ok(Box::new(MergedSet::new(
                sets.into_iter().map(Some).collect(),
                0,
                FailAlways,
            )))
        }
    }
}

pub(super) async fn metadata(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Answer, ApiError> {
    let number = |name: &str| match asked.first(name) {
        "" => Ok(usize::MAX),
        text => match atoi(text) {
            // As in Prometheus, a negative number is no limit.
            Ok(number) => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
            Err(_) => Err(ApiError::bad_data(format!("{name} must be a number"))),
        },
    };
    let (families_max, entries_max) = (number("limit")?, number("limit_per_metric")?);
    let family = Some(asked.first("metric").to_owned()).filter(|family| !family.is_empty());
    let select = querier.select_of(&asked.tenant, &asked.reading(&querier.settings)?);
    let Listed { mut items, warnings } = querier.lookup(&asked.tenant, select.metadata(family)).await??;
    items.sort_by(|a, b| a.family.cmp(&b.family));
    let mut answer = Answer::new().warned(warnings);
    answer.json.raw("{");
    for entries in items.chunk_by(|a, b| a.family == b.family).take(families_max) {
        write_metadata(&mut answer, entries, entries_max);
    }
    answer.json.raw("}");
    Ok(answer)
}

/// The entries of one family.
fn write_metadata(answer: &mut Answer, entries: &[Metadata], entries_max: usize) {
    let json = &mut answer.json;
    json.comma().string(&entries[0].family).raw(":[");
    for entry in entries.iter().take(entries_max) {
        json.comma().raw("{").text_member("type", entry.kind.as_str());
        json.text_member("unit", &entry.unit)
            .text_member("help", &entry.help)
            .raw("}");
    }
    json.raw("]");
}

pub(super) async fn exemplars(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Answer, ApiError> {
    let range = asked.range()?;
    if range.is_empty() {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let expr = parse(asked.first("query"), querier.parser).map_err(|error| ApiError::bad_data(error.to_string()))?;
    let selectors = selectors_of(&expr);
    let Listed { items, warnings } = if selectors.is_empty() {
        Listed::default()
    } else {
        let select = querier.select_of(&asked.tenant, &asked.reading(&querier.settings)?);
        querier
            .lookup(&asked.tenant, select.exemplars(selectors, range))
            .await??
    };
    let mut answer = Answer::new().warned(warnings);
    let json = answer.json.raw("[");
    for series in items.iter().filter(|series| !series.exemplars.is_empty()) {
        json.comma()
            .raw("{")
            .key("seriesLabels")
            .labels(&series.labels)
            .key("exemplars")
            .raw("[");
        for exemplar in &series.exemplars {
            json.comma()
                .raw("{")
                .key("labels")
                .labels(&exemplar.labels)
                .key("value")
                .value(exemplar.value);
            json.key("timestamp").timestamp(exemplar.at).raw("}");
        }
        json.raw("]}");
    }
    json.raw("]");
    Ok(answer)
}

/// The matchers of every selector in an expression.
fn selectors_of(expr: &Expr) -> Vec<Vec<Matcher>> {
    let mut sets = Vec::new();
    expr.walk(&mut |node| match node {
        Expr::Vector(selector) => sets.push(selector.matchers.clone()),
        Expr::Matrix(matrix) => sets.push(matrix.selector.matchers.clone()),
        Expr::Aggregate(_) | Expr::Binary(_) | Expr::Call(_) | Expr::Subquery(_) => {}
        Expr::Number(_) | Expr::Paren(_) | Expr::String(_) | Expr::Unary(_) => {}
    });
    sets
}
