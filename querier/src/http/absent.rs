//! Calls about scraping and alerting, which we do not do: the right shapes, with nothing in them.
//!
//! Clients ask these at start and stumble over a 404.

use super::{
    answer::{Answer, ApiError},
    params::Asked,
};
use promql::format::quote;

fn constant(data: &str) -> Answer {
    let mut answer = Answer::new();
    answer.json.raw(data);
    answer
}

pub(super) async fn rules(asked: Asked) -> Result<Answer, ApiError> {
    match asked.first("type").to_ascii_lowercase().as_str() {
        "" | "alert" | "record" => Ok(constant("{\"groups\":[]}")),
        other => Err(ApiError::parameter(
            "type",
            format!("not supported value {}", quote(other)),
        )),
    }
}

pub(super) async fn alerts() -> Answer {
    constant("{\"alerts\":[]}")
}

pub(super) async fn targets() -> Answer {
    constant("{\"activeTargets\":[],\"droppedTargets\":[],\"droppedTargetCounts\":{}}")
}

pub(super) async fn targets_metadata() -> Answer {
    constant("[]")
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
