//! `/_synapse/admin/v1/user_reports`: what users have reported about other users.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{limit_of, page_json, reports};
use crate::{
    http::{
        AppState,
        auth::AdminSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, Path, Query},
    },
    storage::administration::{self, ListedReport, UserReportFilter},
};

/// The query of the list.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
    dir: Option<String>,
    /// Parts of the IDs of who reports, and of who is reported.
    user_id: Option<String>,
    target_user_id: Option<String>,
}

/// `GET /_synapse/admin/v1/user_reports`, newest first.
pub async fn list(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    let filter = UserReportFilter {
        reporter: super::pattern_of(query.user_id.as_deref()),
        target: super::pattern_of(query.target_user_id.as_deref()),
        oldest_first: query.dir.as_deref() == Some("f"),
        from: query.from,
        limit: limit_of(query.limit),
    };
    let found = administration::list_user_reports(&app.database, &filter).await?;
    let total = found.first().map_or(0, |report| report.total) as usize;
    let listed: Vec<Value> = found.iter().map(report_json).collect();
    Ok(Json(page_json("user_reports", listed, (query.from, total), Value::from)))
}

/// `GET /_synapse/admin/v1/user_reports/{reportId}`.
pub async fn get(
    State(app): State<AppState>,
    _: AdminSession,
    Path(number): Path<i64>,
) -> MatrixResult<Json<Value>> {
    let report = administration::find_report(&app.database, number).await?;
    let report = report.filter(|report| report.user_id.is_some());
    let report = report.ok_or_else(|| MatrixError::not_found("No such report."))?;
    Ok(Json(report_json(&report)))
}

/// `DELETE /_synapse/admin/v1/user_reports/{reportId}`.
pub async fn delete(
    state: State<AppState>,
    session: AdminSession,
    number: Path<i64>,
) -> MatrixResult<Json<Empty>> {
    reports::delete(state, session, number).await
}

fn report_json(report: &ListedReport) -> Value {
    json!({
        "id": report.nid,
        "received_ts": report.received_ts,
        "user_id": report.reporter,
        "target_user_id": report.user_id,
        "reason": report.reason,
    })
}
