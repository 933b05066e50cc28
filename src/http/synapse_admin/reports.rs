//! `/_synapse/admin/v1/event_reports`: what users have reported.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{limit_of, page_json};
use crate::{
    http::{
        App, AppState,
        auth::AdminSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, Path, Query},
    },
    rooms::write_client_event,
    storage::administration::{self, ListedReport},
};

/// The query of the list.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
    dir: Option<String>,
}

/// `GET /_synapse/admin/v1/event_reports`, newest first.
pub async fn list(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    let limit = limit_of(query.limit);
    let oldest_first = query.dir.as_deref() == Some("f");
    let page = (query.from, limit);
    let reports = administration::list_reports(&app.database, oldest_first, page).await?;
    let total = reports.first().map_or(0, |report| report.total);
    let mut listed = Vec::with_capacity(reports.len());
    for report in &reports {
        listed.push(report_json(&app, report).await?);
    }
    Ok(Json(page_json("event_reports", listed, (query.from, total as usize), Value::from)))
}

/// `GET /_synapse/admin/v1/event_reports/{reportId}`, with the event.
pub async fn get(
    State(app): State<AppState>,
    _: AdminSession,
    Path(number): Path<i64>,
) -> MatrixResult<Json<Value>> {
    let report = administration::find_report(&app.database, number).await?;
    let report = report.ok_or_else(unknown)?;
    let mut answer = report_json(&app, &report).await?;
    if let Some(event) = find_reported(&app, &report).await? {
        let mut json = String::new();
        write_client_event(&mut json, &event, &Default::default());
        answer["event_json"] = serde_json::from_str(&json).unwrap_or(Value::Null);
    }
    Ok(Json(answer))
}

/// `DELETE /_synapse/admin/v1/event_reports/{reportId}`.
pub async fn delete(
    State(app): State<AppState>,
    _: AdminSession,
    Path(number): Path<i64>,
) -> MatrixResult<Json<Empty>> {
    let found: MatrixResult<bool> = app
        .writer
        .transact(move |tx| {
            Box::pin(async move { Ok(administration::delete_report(tx, number).await?) })
        })
        .await;
    if found? { Ok(Json(Empty {})) } else { Err(unknown()) }
}

async fn report_json(app: &App, report: &ListedReport) -> MatrixResult<Value> {
    let event = find_reported(app, report).await?;
    let room = match report.room_id.as_deref().and_then(|id| ruma::RoomId::parse(id).ok()) {
        Some(room_id) => app.rooms.find(&room_id).await?,
        None => None,
    };
    let head = room.map(|room| room.head());
    let text = |kind: &str, key: &str| {
        let event = head.as_ref()?.find_pinned(kind)?;
        let content: Value = event.event.content_as().ok()?;
        content[key].as_str().map(ToOwned::to_owned)
    };
    Ok(json!({
        "id": report.nid,
        "received_ts": report.received_ts,
        "room_id": report.room_id,
        "name": text("m.room.name", "name"),
        "canonical_alias": text("m.room.canonical_alias", "alias"),
        "event_id": report.event_id,
        "user_id": report.reporter,
        "reason": report.reason,
        "score": null,
        "sender": event.map(|event| event.event.sender().to_owned()),
    }))
}

async fn find_reported(
    app: &App,
    report: &ListedReport,
) -> MatrixResult<Option<std::sync::Arc<crate::rooms::StoredEvent>>> {
    let room_id = report.room_id.as_deref().and_then(|id| ruma::RoomId::parse(id).ok());
    let event_id = report.event_id.as_deref().and_then(|id| ruma::EventId::parse(id).ok());
    let (Some(room_id), Some(event_id)) = (room_id, event_id) else { return Ok(None) };
    match app.rooms.find(&room_id).await? {
        Some(room) => Ok(app.rooms.find_event(&room, &event_id).await?),
        None => Ok(None),
    }
}

fn unknown() -> MatrixError {
    MatrixError::not_found("No such report.")
}
