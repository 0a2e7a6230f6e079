//! The envelope of every answer: `status`, `data`, `errorType`, `error`, `warnings`, `infos`, in this order, empty ones left out.

use super::json::Json;
use crate::{gate::Full, querier::Late};
use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use model::{admin::AdminError, select::SelectError};

/// Warnings and infos that an answer carries; more are counted in one last line.
const ANNOTATIONS_MAX: usize = 10;

/// When a client that was turned away may try again; short, since queries are.
const RETRY_AFTER_SECONDS: &str = "2";

/// A successful answer in the making. Write the data to `json`, then finish.
pub(crate) struct Answer {
    pub(crate) json: Json,
    pub(crate) warnings: Vec<String>,
    pub(crate) infos: Vec<String>,
}

impl Answer {
    /// An answer whose data comes next.
    pub(crate) fn new() -> Self {
        let mut json = Json::new();
        json.raw("{\"status\":\"success\",\"data\":");
        Self {
            json,
            warnings: Vec::new(),
            infos: Vec::new(),
        }
    }

    /// The same with warnings.
    pub(crate) fn warned(mut self, warnings: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    /// The part of the envelope behind the data.
    pub(crate) fn tail(warnings: &mut Vec<String>, infos: &mut Vec<String>) -> Vec<u8> {
        let mut json = Json::new();
        for (key, kind, list) in [("warnings", "warning", warnings), ("infos", "info", infos)] {
            list.sort();
            list.dedup();
            if list.is_empty() {
                continue;
            }
            if list.len() > ANNOTATIONS_MAX {
                let omitted = list.len() - ANNOTATIONS_MAX;
                list.truncate(ANNOTATIONS_MAX);
                list.push(format!("{omitted} more {kind} annotations omitted"));
            }
            json.raw(",\"").raw(key).raw("\":").strings(&*list);
        }
        json.raw("}");
        json.out
    }
}

impl IntoResponse for Answer {
    fn into_response(mut self) -> Response {
        let tail = Self::tail(&mut self.warnings, &mut self.infos);
        self.json.out.extend_from_slice(&tail);
        json_response(StatusCode::OK, Body::from(self.json.out), !self.warnings.is_empty())
    }
}

/// A response of JSON. One that may be incomplete must not be cached.
pub(crate) fn json_response(status: StatusCode, body: Body, incomplete: bool) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if incomplete {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// What kind of error; decides the status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    BadData,
    Execution,
    Canceled,
    Timeout,
    Internal,
    Unavailable,
    NotFound,
    /// What was asked for is switched off. Prometheus calls that unavailable, too, but not for a while.
    Disabled,
}

impl ErrorKind {
    const fn as_str(self) -> &'static str {
        match self {
            ErrorKind::BadData => "bad_data",
            ErrorKind::Execution => "execution",
            ErrorKind::Canceled => "canceled",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Internal => "internal",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Unavailable | ErrorKind::Disabled => "unavailable",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            ErrorKind::BadData => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            // The client has gone; nginx's code for it, as in Prometheus.
            ErrorKind::Canceled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            ErrorKind::Timeout | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Internal | ErrorKind::Disabled => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// An answer that says why there is no data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) kind: ErrorKind,
    pub(crate) text: String,
}

impl ApiError {
    /// An error of this kind.
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    /// The client's mistake.
    pub(crate) fn bad_data(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::BadData, text)
    }

    /// The client's mistake in a parameter.
    pub(crate) fn parameter(name: &str, text: impl std::fmt::Display) -> Self {
        Self::bad_data(format!("invalid parameter \"{name}\": {text}"))
    }
}

impl ApiError {
    /// Says when to try again, if that can help.
    pub(crate) fn add_retry_after(&self, headers: &mut HeaderMap) {
        if self.kind == ErrorKind::Unavailable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut json = Json::new();
        json.raw("{\"status\":\"error\"")
            .text_member("errorType", self.kind.as_str());
        json.text_member("error", &self.text).raw("}");
        let mut response = json_response(self.kind.status(), Body::from(json.out), true);
        self.add_retry_after(response.headers_mut());
        response
    }
}

impl From<SelectError> for ApiError {
    fn from(error: SelectError) -> Self {
        let kind = match &error {
            SelectError::Limit(_) => ErrorKind::Execution,
            SelectError::Unavailable(_) => ErrorKind::Unavailable,
            SelectError::Corrupt(_) => ErrorKind::Internal,
            SelectError::Canceled(_) => ErrorKind::Canceled,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        let kind = match &error {
            AdminError::Unavailable(_) => ErrorKind::Unavailable,
            AdminError::Storage(_) => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<Full> for ApiError {
    fn from(full: Full) -> Self {
        Self::new(ErrorKind::Unavailable, full.to_string())
    }
}

impl From<Late> for ApiError {
    fn from(late: Late) -> Self {
        let kind = match late {
            Late::Full(_) => ErrorKind::Unavailable,
            Late::InQueue | Late::InExecution => ErrorKind::Timeout,
        };
        Self::new(kind, late.to_string())
    }
}
