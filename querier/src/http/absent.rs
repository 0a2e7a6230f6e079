//! Calls about scraping and alerting, which we do not do: the right shapes, with nothing in them.
//!
//! Clients ask these at start and stumble over a 404. What is wrong with a request is told all the same, so that a mistake does not
//! look like an empty answer.

use super::{
    answer::{Answer, ApiError, ErrorKind},
    lookup::selectors,
    params::{Asked, atoi},
};
use ::http::StatusCode;
use promql::{format::quote, parse::parse_selector};

fn constant(data: &str) -> Answer {
    let mut answer = Answer::new();
    answer.json.raw(data);
    answer
}

pub(super) async fn rules(asked: Asked) -> Result<Answer, ApiError> {
    selectors(&asked)?;
    match asked.first("type").to_ascii_lowercase().as_str() {
        "" | "alert" | "record" => {}
        other => {
            return Err(ApiError::parameter(
                "type",
                format!("not supported value {}", quote(other)),
            ));
        }
    }
    if asked.flag("exclude_alerts", false).is_err() {
        let text = quote(asked.first("exclude_alerts"));
        let reason = format!("error converting exclude_alerts: strconv.ParseBool: parsing {text}: invalid syntax");
        return Err(ApiError::parameter("exclude_alerts", reason));
    }
    let token = asked.first("group_next_token");
    match asked.first("group_limit") {
        "" if token.is_empty() => {}
        "" => {
            let reason = "group_limit needs to be present in order to paginate over the groups";
            return Err(ApiError::parameter("group_next_token", reason));
        }
        limit => {
            let limit = atoi(limit).map_err(|_| {
                let text = quote(limit);
                let reason =
                    format!("group_limit needs to be a valid number: strconv.ParseInt: parsing {text}: invalid syntax");
                ApiError::parameter("group_limit", reason)
            })?;
            if limit <= 0 {
                let reason = "group_limit needs to be greater than 0";
                return Err(ApiError::parameter("group_limit", reason));
            }
        }
    }
    if !token.is_empty() {
        let reason = format!("invalid group_next_token '{token}'. were rule groups changed?");
        return Err(ApiError::parameter("group_next_token", reason));
    }
    Ok(constant("{\"groups\":[]}"))
}

pub(super) async fn alerts() -> Answer {
    constant("{\"alerts\":[]}")
}

/// As in Prometheus, the counts are there only when dropped targets are asked for.
pub(super) async fn targets(asked: Asked) -> Answer {
    match asked.first("state").to_ascii_lowercase().as_str() {
        "" | "any" | "dropped" => constant("{\"activeTargets\":[],\"droppedTargets\":[],\"droppedTargetCounts\":{}}"),
        _ => constant("{\"activeTargets\":[],\"droppedTargets\":[],\"droppedTargetCounts\":null}"),
    }
}

/// Without targets nothing is ever found, and Prometheus calls that an error.
pub(super) async fn targets_metadata(asked: Asked) -> Result<Answer, ApiError> {
    if atoi(asked.first("limit")).is_err() && !asked.first("limit").is_empty() {
        return Err(ApiError::bad_data("limit must be a number"));
    }
    match asked.first("match_target") {
        "" => {}
        selector => {
            parse_selector(selector).map_err(|error| ApiError::parameter("match_target", error))?;
        }
    }
    Err(ApiError::new(ErrorKind::NotFound, "specified metadata not found"))
}

pub(super) async fn scrape_pools() -> Answer {
    constant("{\"scrapePools\":[]}")
}

pub(super) async fn alertmanagers() -> Answer {
    constant("{\"activeAlertmanagers\":[],\"droppedAlertmanagers\":[]}")
}

pub(super) async fn notifications() -> Answer {
    constant("[]")
}

/// A stream of events that never has one need not be kept open: 204 tells a browser not to come back.
pub(super) async fn notifications_live() -> StatusCode {
    StatusCode::NO_CONTENT
}
