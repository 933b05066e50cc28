//! `/_synapse/admin/v1/scheduled_tasks`: what administrators have asked for that takes a while (deletions of
//! rooms, redactions of what somebody has sent), and how far it is. A restart forgets what is done.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    clock::Clock,
    http::{
        AppState,
        auth::AdminSession,
        error::MatrixResult,
        json::{Json, Query},
    },
};

/// How far something is that takes a while.
#[derive(Clone, Debug)]
pub struct TaskState {
    /// The room or user that it is about.
    pub subject: String,
    /// As it is told to who asks for this task.
    pub status: Value,
    /// When that changed, milliseconds since the Unix epoch.
    changed_ts: u64,
}

impl TaskState {
    pub fn now(clock: &Clock, subject: &str, status: Value) -> Self {
        Self { subject: subject.to_owned(), status, changed_ts: clock.now_ms() }
    }

    fn to_json(&self, id: &str, action: &str) -> Value {
        let status = match self.status["status"].as_str() {
            Some("complete" | "completed") => "complete",
            Some("failed") => "failed",
            _ => "active",
        };
        json!({
            "id": id,
            "action": action,
            "status": status,
            "timestamp_ms": self.changed_ts,
            "resource_id": self.subject,
            "result": if status == "complete" { self.status.clone() } else { Value::Null },
            "error": self.status["error"],
        })
    }
}

/// Which tasks are listed.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    action_name: Option<String>,
    resource_id: Option<String>,
    status: Option<String>,
    max_timestamp: Option<u64>,
}

/// `GET /_synapse/admin/v1/scheduled_tasks`.
pub async fn list(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    let deletions = app.room_deletions.0.iter();
    let deletions = deletions.map(|(id, task)| task.to_json(&id, "shutdown_and_purge_room"));
    let redactions = app.user_redactions.0.iter();
    let redactions = redactions.map(|(id, task)| task.to_json(&id, "redact_all_events"));
    let is_wanted = |task: &Value| {
        let is = |field: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| task[field] == wanted.as_str())
        };
        is("action", &query.action_name)
            && is("resource_id", &query.resource_id)
            && is("status", &query.status)
            && query.max_timestamp.is_none_or(|max| task["timestamp_ms"].as_u64() < Some(max))
    };
    let mut tasks: Vec<Value> = deletions.chain(redactions).filter(is_wanted).collect();
    tasks.sort_by_key(|task| task["timestamp_ms"].as_u64());
    Ok(Json(json!({ "scheduled_tasks": tasks })))
}
