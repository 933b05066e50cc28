//! `/_matrix/key/v2/…` (Server-Server API, "Retrieving server keys"): our own keys, and those of
//! others, for which this server is a notary.

use std::collections::BTreeMap;

use axum::extract::State;
use futures_util::{StreamExt as _, stream};
use ruma::OwnedServerName;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    federation::to_text,
    http::{
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody, Path, Query, RawJson},
        state::{App, AppState},
    },
};

/// Servers that one request asks about.
const SERVERS_MAX: usize = 100;
/// Servers that are looked up at the same time for one request.
const LOOKUPS_AT_ONCE_MAX: usize = 8;

/// The query of `GET /query/{serverName}`.
#[derive(Debug, Deserialize)]
pub struct KeyQuery {
    minimum_valid_until_ts: Option<i64>,
}

/// The body of `POST /query`.
#[derive(Debug, Deserialize)]
pub struct KeysBody {
    server_keys: BTreeMap<OwnedServerName, BTreeMap<String, Criteria>>,
}

/// What is wanted of one key.
#[derive(Debug, Deserialize)]
pub struct Criteria {
    minimum_valid_until_ts: Option<i64>,
}

/// `GET /_matrix/key/v2/server`, with or without the ID of a key.
pub async fn get_own(State(app): State<AppState>) -> RawJson {
    RawJson(to_text(app.federation.own_key_document()).into())
}

/// `GET /_matrix/key/v2/query/{serverName}`
pub async fn query_one(
    State(app): State<AppState>,
    Path(server): Path<OwnedServerName>,
    Query(query): Query<KeyQuery>,
) -> MatrixResult<Json<Value>> {
    let now_ts = app.clock.now_ms().cast_signed();
    let minimum_ts = query.minimum_valid_until_ts.unwrap_or(now_ts);
    answer(&app, vec![(server, minimum_ts)]).await
}

/// `POST /_matrix/key/v2/query`
pub async fn query_many(
    State(app): State<AppState>,
    JsonBody(body): JsonBody<KeysBody>,
) -> MatrixResult<Json<Value>> {
    if body.server_keys.len() > SERVERS_MAX {
        let message = "One request asks about 100 servers at most.";
        return Err(MatrixError::invalid_param(message));
    }
    let now_ts = app.clock.now_ms().cast_signed();
    let wanted = body.server_keys.into_iter().map(|(server, keys)| {
        let wanted = keys.values().map(|c| c.minimum_valid_until_ts.unwrap_or(now_ts));
        (server, wanted.max().unwrap_or(now_ts))
    });
    answer(&app, wanted.collect()).await
}

/// What is known of these servers, signed by this one as well. Those of which nothing is known are
/// left out.
async fn answer(app: &App, wanted: Vec<(OwnedServerName, i64)>) -> MatrixResult<Json<Value>> {
    let lookups = wanted.into_iter().map(|(server, minimum_ts)| async move {
        if server == app.federation.server_name() {
            return Ok(Some(app.federation.own_key_document()));
        }
        let answer = app.federation.keys().find_answer(&server, minimum_ts).await?;
        Ok(answer.and_then(|text| serde_json::from_str::<Map<String, Value>>(&text).ok()))
    });
    let found: Vec<MatrixResult<Option<Map<String, Value>>>> =
        stream::iter(lookups).buffered(LOOKUPS_AT_ONCE_MAX).collect().await;
    let mut documents = Vec::new();
    for document in found {
        if let Some(mut document) = document? {
            let peers = app.federation.peers();
            peers.signing_key().sign_json(&mut document, peers.server_name().as_str());
            documents.push(document);
        }
    }
    Ok(Json(json!({ "server_keys": documents })))
}
