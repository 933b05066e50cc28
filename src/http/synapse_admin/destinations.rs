//! `/_synapse/admin/v1/federation/destinations`: the servers that this one talks with, how that goes, and
//! which rooms they share.

use std::collections::BTreeMap;

use axum::extract::State;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{limit_of, page_json, place_text};
use crate::{
    http::{
        App, AppState,
        auth::AdminSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, Path, Query},
    },
    rooms::Room,
    storage::{destinations::DestinationRow, memberships, server_keys},
};

/// The query of the lists.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
    /// Part of a name.
    destination: Option<String>,
    order_by: Option<String>,
    dir: Option<String>,
}

/// How it goes with one server.
#[derive(Clone, Debug, Default)]
struct Timing {
    /// Milliseconds since the Unix epoch; 0 while it answers.
    retry_last_ts: u64,
    retry_interval_ms: u64,
    failure_ts: Option<i64>,
}

/// `GET /_synapse/admin/v1/federation/destinations`.
pub async fn list(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    let wanted = query.destination.as_deref().unwrap_or_default().to_lowercase();
    let known = list_known(&app).await?.into_iter();
    let mut all: Vec<(String, Timing)> =
        known.filter(|(name, _)| name.to_lowercase().contains(&wanted)).collect();
    // They come by name, and a stable sort leaves equal ones so.
    match query.order_by.as_deref() {
        Some("retry_last_ts") => all.sort_by_key(|(_, timing)| timing.retry_last_ts),
        Some("retry_interval") => all.sort_by_key(|(_, timing)| timing.retry_interval_ms),
        Some("failure_ts") => all.sort_by_key(|(_, timing)| timing.failure_ts),
        _ => {}
    }
    if query.dir.as_deref() == Some("b") {
        all.reverse();
    }
    let (total, limit) = (all.len(), limit_of(query.limit));
    let page = all.iter().skip(query.from).take(limit);
    let listed: Vec<Value> = page.map(|(name, timing)| timing.to_json(name)).collect();
    Ok(Json(page_json("destinations", listed, (query.from, total), place_text)))
}

/// `GET /_synapse/admin/v1/federation/destinations/{destination}`.
pub async fn get(
    State(app): State<AppState>,
    _: AdminSession,
    Path(server): Path<OwnedServerName>,
) -> MatrixResult<Json<Value>> {
    Ok(Json(load(&app, &server).await?.to_json(server.as_str())))
}

/// `GET /_synapse/admin/v1/federation/destinations/{destination}/rooms`: the rooms in which somebody of the
/// server is.
pub async fn list_rooms(
    State(app): State<AppState>,
    _: AdminSession,
    Path(server): Path<OwnedServerName>,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    load(&app, &server).await?;
    let nids = memberships::list_rooms_of_server(&app.database, server.as_str()).await?;
    let mut rooms = app.rooms.load_all(&nids).await?;
    rooms.sort_by(|one, two| one.room_id.cmp(&two.room_id));
    if query.dir.as_deref() == Some("b") {
        rooms.reverse();
    }
    let (total, limit) = (rooms.len(), limit_of(query.limit));
    let page = rooms.iter().skip(query.from).take(limit);
    let listed: Vec<Value> = page.map(|room| room_json(room)).collect();
    Ok(Json(page_json("rooms", listed, (query.from, total), place_text)))
}

/// `POST /_synapse/admin/v1/federation/destinations/{destination}/reset_connection`: tries a server that
/// failed again at once.
pub async fn reset_connection(
    State(app): State<AppState>,
    _: AdminSession,
    Path(server): Path<OwnedServerName>,
) -> MatrixResult<Json<Empty>> {
    if load(&app, &server).await?.retry_last_ts == 0 {
        let message = "This server did not fail: there is nothing to reset.";
        return Err(MatrixError::bad_request(message));
    }
    app.federation.outbox().retry(Some(server.as_str())).await?;
    Ok(Json(Empty {}))
}

impl Timing {
    /// When the last attempt was is known from the next one, which comes up to a quarter later than the
    /// pause says (`federation::destination`).
    fn of_row(row: &DestinationRow, now_ts: u64) -> Self {
        if row.failures == 0 {
            return Self::default();
        }
        let retry_ts = row.retry_ts.cast_unsigned();
        let failing_since_ts = row.failing_since_ts.map_or(now_ts, i64::cast_unsigned);
        let pause_ms = crate::federation::retry_pause_ms(row.failures);
        let last_ts = retry_ts.saturating_sub(pause_ms).clamp(failing_since_ts.min(now_ts), now_ts);
        Self {
            retry_last_ts: last_ts.max(1),
            retry_interval_ms: pause_ms,
            failure_ts: row.failing_since_ts,
        }
    }

    fn to_json(&self, name: &str) -> Value {
        json!({
            "destination": name,
            "retry_last_ts": self.retry_last_ts,
            "retry_interval": self.retry_interval_ms,
            "failure_ts": self.failure_ts,
            // Not written down here: what a server has not got is, and it is told by the room.
            "last_successful_stream_ordering": null,
        })
    }
}

/// The servers of which this one knows keys, or for which something waits, by name.
async fn list_known(app: &App) -> MatrixResult<BTreeMap<String, Timing>> {
    let names = server_keys::list_servers(&app.database).await?;
    let mut known: BTreeMap<String, Timing> =
        names.into_iter().map(|name| (name, Timing::default())).collect();
    let now_ts = app.clock.now_ms();
    for (row, _) in app.federation.outbox().list_destinations().await? {
        let timing = Timing::of_row(&row, now_ts);
        known.insert(row.server_name, timing);
    }
    known.remove(app.rooms.server_name().as_str());
    Ok(known)
}

async fn load(app: &App, server: &ServerName) -> MatrixResult<Timing> {
    let found = list_known(app).await?.remove(server.as_str());
    found.ok_or_else(|| MatrixError::not_found("Unknown destination."))
}

fn room_json(room: &Room) -> Value {
    json!({ "room_id": room.room_id, "stream_ordering": room.head().latest_position })
}
