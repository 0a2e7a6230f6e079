//! The ring over HTTP: JSON for tools, a page of text for people, and the changes that an operator makes.

use super::Membership;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use cluster::{
    document::{Command, Document},
    group::{Group, ProposeError},
    limits::Limits,
    member::MemberId,
};
use model::time::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::HashMap, fmt::Write, sync::Arc};

/// The routes.
pub fn routes(membership: Arc<Membership>) -> Router {
    Router::new()
        .route("/ring", get(page))
        .route("/api/v1/cluster/ring", get(show))
        .route("/api/v1/cluster/ring/{change}", post(change))
        .with_state(membership)
}

/// What a change may name. Only JSON is read, so that no web page can make a browser send one unasked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wish {
    /// Id or address of a member.
    member: Option<String>,
    force: bool,
    weight: Option<u32>,
    replication_factor: Option<u32>,
    tenant: Option<String>,
    limits: Option<Limits>,
}

async fn show(State(membership): State<Arc<Membership>>) -> Json<Value> {
    Json(shown(&membership))
}

fn shown(membership: &Membership) -> Value {
    let up: HashMap<String, bool> = membership.replicator.peers().into_iter().collect();
    let reachable = |address: &str| up.get(address).copied().unwrap_or(address == membership.address);
    let Some(group) = &membership.group else {
        return shown_placement(membership, reachable);
    };
    let document = group.document();
    let status = group.status();
    let mut shown = serde_json::to_value(&*document).unwrap_or_default();
    if let Some(members) = shown["members"].as_array_mut() {
        for (shown, member) in members.iter_mut().zip(&document.members) {
            shown["reachable"] = reachable(&member.address).into();
            shown["voter"] = status.voters.contains(&member.id).into();
        }
    }
    shown["source"] = "consensus".into();
    shown["this"] = status.id.get().into();
    shown["leader"] = status.leader.map(MemberId::get).into();
    shown["term"] = status.term.into();
    if let Some(reason) = status.stopped {
        shown["stopped"] = reason.into();
    }
    shown
}

fn shown_placement(membership: &Membership, reachable: impl Fn(&str) -> bool) -> Value {
    let placement = membership.replicator.placement();
    let nodes = placement.iter().flat_map(|placement| placement.nodes());
    let members: Vec<Value> = nodes
        .map(|node| {
            json!({
                "id": node.address, "address": node.address, "zone": node.zone, "state": "ACTIVE",
                "reachable": reachable(&node.address),
            })
        })
        .collect();
    json!({
        "epoch": 0,
        "replication_factor": placement.as_ref().map_or(1, |placement| placement.replication_factor()),
        "members": members,
        "source": if membership.from_file { "file" } else { "alone" },
        "this": membership.address,
    })
}

async fn page(State(membership): State<Arc<Membership>>) -> String {
    text(&shown(&membership))
}

/// The ring as a table, for a page and for the tool.
pub fn text(shown: &Value) -> String {
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let mut text = format!(
        "epoch {}   copies {}   leader {}   source {}\n\n",
        plain(&shown["epoch"]),
        plain(&shown["replication_factor"]),
        plain(&shown["leader"]),
        plain(&shown["source"])
    );
    let mut rows = vec![["MEMBER", "ADDRESS", "ZONE", "STATE", "WEIGHT", "VOTES", "REACHABLE"].map(str::to_owned)];
    for member in shown["members"].as_array().into_iter().flatten() {
        let this = if member["id"] == shown["this"] { " (this)" } else { "" };
        rows.push([
            format!("{}{this}", plain(&member["id"])),
            plain(&member["address"]),
            plain(&member["zone"]),
            plain(&member["state"]),
            plain(&member["weight"]),
            plain(&member["voter"]),
            plain(&member["reachable"]),
        ]);
    }
    if let (Some(until), Some(spare)) = (shown["thin"]["until_ms"].as_i64(), shown["thin"]["spare"].as_u64()) {
        let until =
            jiff::Timestamp::from_millisecond(until).map_or_else(|_| until.to_string(), |until| until.to_string());
        let _ = writeln!(
            text,
            "older samples than {until} have fewer copies: an answer without more than {spare} members may lack some\n"
        );
    }
    let widths: [usize; 7] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    for row in rows {
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

async fn change(
    State(membership): State<Arc<Membership>>,
    Path(change): Path<String>,
    Json(wish): Json<Wish>,
) -> Response {
    let Some(group) = &membership.group else {
        return refused(StatusCode::CONFLICT, membership.no_group());
    };
    let command = match command(&change, wish, &group.document(), membership.env.clock.now()) {
        Ok(command) => command,
        Err(text) => return refused(StatusCode::BAD_REQUEST, &text),
    };
    match propose(group, command).await {
        Ok(()) => Json(json!({"status": "success", "data": shown(&membership)})).into_response(),
        Err(error @ ProposeError::Refused(_)) => refused(StatusCode::CONFLICT, &error.to_string()),
        Err(error @ ProposeError::NotAgreed { .. }) => refused(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

async fn propose(group: &Group, command: Command) -> Result<(), ProposeError> {
    let epoch = group.propose(command).await?;
    // So that the answer shows it; it is agreed on even when it does not show in time.
    group.wait_for(epoch, std::time::Duration::from_secs(5)).await;
    Ok(())
}

fn command(change: &str, wish: Wish, document: &Document, now_ms: Timestamp) -> Result<Command, String> {
    let id = || {
        let named = wish.member.as_deref().ok_or("name a member by its id or its address")?;
        let member = document.find(named);
        Ok::<_, String>(member.ok_or_else(|| format!("no member {named:?} in the ring"))?.id)
    };
    Ok(match change {
        "join" | "activate" => Command::Activate { id: id()? },
        "drain" => Command::Drain { id: id()? },
        "remove" => Command::Remove {
            id: id()?,
            force: wish.force,
            lost_ms: Some(now_ms),
        },
        "weight" => Command::SetWeight {
            id: id()?,
            weight: wish.weight.ok_or("give a weight")?,
        },
        "replication-factor" => Command::SetReplicationFactor {
            replication_factor: wish.replication_factor.ok_or("give a replication_factor")?,
            at_ms: now_ms,
        },
        "limits" => match (wish.tenant, wish.limits) {
            (Some(tenant), limits) => Command::SetTenant {
                tenant,
                limits: limits.unwrap_or_default(),
            },
            (None, Some(limits)) => Command::SetLimits { limits },
            (None, None) => return Err("give limits".to_owned()),
        },
        other => {
            return Err(format!(
                "{other:?} is no change of the ring: join, drain, remove, weight, replication-factor, limits"
            ));
        }
    })
}

fn refused(status: StatusCode, text: &str) -> Response {
    let kind = match status {
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        _ => "bad_data",
    };
    (
        status,
        Json(json!({"status": "error", "errorType": kind, "error": text})),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_name_a_member_and_what_they_need() {
        let json = r#"{"epoch":7,"replication_factor":1,"members":[{"id":5,"address":"a:1","state":"ACTIVE"}]}"#;
        let document = Document::from_json(json.as_bytes()).unwrap();
        let wish = |member: &str| Wish {
            member: Some(member.to_owned()),
            ..Wish::default()
        };
        let five = MemberId::new(5).unwrap();
        assert_eq!(
            command("drain", wish("a:1"), &document, 5),
            Ok(Command::Drain { id: five })
        );
        assert_eq!(
            command("join", wish("5"), &document, 5),
            Ok(Command::Activate { id: five })
        );
        assert!(
            command("drain", Wish::default(), &document, 5)
                .unwrap_err()
                .contains("name a member")
        );
        assert!(
            command("weight", wish("5"), &document, 5)
                .unwrap_err()
                .contains("weight")
        );
        assert!(command("drain", wish("b:1"), &document, 5).unwrap_err().contains("b:1"));
        assert!(
            command("burn", wish("5"), &document, 5)
                .unwrap_err()
                .contains("no change")
        );
    }

    #[test]
    fn the_table_names_this_node() {
        let shown = json!({"epoch": 3, "replication_factor": 2, "leader": 5, "source": "consensus", "this": 5, "members": [
            {"id": 5, "address": "a:1", "zone": "z", "state": "ACTIVE", "weight": 100, "voter": true, "reachable": true},
        ]});
        let text = text(&shown);
        assert!(text.starts_with("epoch 3   copies 2   leader 5"), "{text}");
        assert!(text.contains("5 (this)  a:1") && text.contains("ACTIVE"), "{text}");
    }
}
