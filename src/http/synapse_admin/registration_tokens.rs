//! `/_synapse/admin/v1/registration_tokens`: with what people may register.

use axum::extract::State;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::{
    http::{
        App, AppState,
        auth::AdminSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, OptionalJsonBody, Path, Query},
    },
    storage::{accounts::StoredRegistrationToken, administration},
};

/// Characters of a token that the server makes up, and at most.
const TOKEN_LENGTH_DEFAULT: usize = 16;
const TOKEN_LENGTH_MAX: usize = 64;

/// The query of the list.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    valid: Option<bool>,
}

/// What a new or changed token allows. A field that is `null` lifts the limit.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenBody {
    token: Option<String>,
    length: Option<usize>,
    #[serde(deserialize_with = "read_given")]
    uses_allowed: Option<Option<i64>>,
    #[serde(deserialize_with = "read_given")]
    expiry_time: Option<Option<i64>>,
}

/// `GET /_synapse/admin/v1/registration_tokens`.
pub async fn list(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    let now_ts = app.clock.now_ms().cast_signed();
    let mut tokens = administration::list_registration_tokens(&app.database).await?;
    tokens.retain(|token| query.valid.is_none_or(|wanted| is_valid(token, now_ts) == wanted));
    let tokens: Vec<_> = tokens.iter().map(token_json).collect();
    Ok(Json(json!({ "registration_tokens": tokens })))
}

/// `GET /_synapse/admin/v1/registration_tokens/{token}`.
pub async fn get(
    State(app): State<AppState>,
    _: AdminSession,
    Path(token): Path<String>,
) -> MatrixResult<Json<Value>> {
    Ok(Json(token_json(&load(&app, &token).await?)))
}

/// `POST /_synapse/admin/v1/registration_tokens/new`.
pub async fn create(
    State(app): State<AppState>,
    _: AdminSession,
    OptionalJsonBody(body): OptionalJsonBody<TokenBody>,
) -> MatrixResult<Json<Value>> {
    let length = body.length.unwrap_or(TOKEN_LENGTH_DEFAULT);
    if !(1..=TOKEN_LENGTH_MAX).contains(&length) {
        return Err(MatrixError::invalid_param("`length` must be 1 to 64."));
    }
    let token = body.token.clone().unwrap_or_else(|| app.clock.random_text(length));
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    if token.is_empty() || token.len() > TOKEN_LENGTH_MAX || !token.bytes().all(is_allowed) {
        let message = "A token is 1 to 64 characters out of A-Z a-z 0-9 . _ ~ -";
        return Err(MatrixError::invalid_param(message));
    }
    let mut stored = StoredRegistrationToken {
        token,
        uses_allowed: None,
        uses: 0,
        expires_ts: None,
        makes_admin: false,
    };
    body.apply(&mut stored, app.clock.now_ms().cast_signed())?;
    match app.accounts.create_registration_token(stored.clone()).await? {
        true => Ok(Json(token_json(&stored))),
        false => Err(MatrixError::invalid_param("This token exists already.")),
    }
}

/// `PUT /_synapse/admin/v1/registration_tokens/{token}`.
pub async fn update(
    State(app): State<AppState>,
    _: AdminSession,
    Path(token): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<TokenBody>,
) -> MatrixResult<Json<Value>> {
    let mut stored = load(&app, &token).await?;
    body.apply(&mut stored, app.clock.now_ms().cast_signed())?;
    let changed = stored.clone();
    let found: MatrixResult<bool> = app
        .writer
        .transact(move |tx| {
            Box::pin(
                async move { Ok(administration::update_registration_token(tx, &changed).await?) },
            )
        })
        .await;
    if found? { Ok(Json(token_json(&stored))) } else { Err(unknown()) }
}

/// `DELETE /_synapse/admin/v1/registration_tokens/{token}`.
pub async fn delete(
    State(app): State<AppState>,
    _: AdminSession,
    Path(token): Path<String>,
) -> MatrixResult<Json<Empty>> {
    load(&app, &token).await?;
    let found: MatrixResult<bool> = app
        .writer
        .transact(move |tx| {
            Box::pin(
                async move { Ok(administration::delete_registration_token(tx, &token).await?) },
            )
        })
        .await;
    if found? { Ok(Json(Empty {})) } else { Err(unknown()) }
}

impl TokenBody {
    fn apply(&self, token: &mut StoredRegistrationToken, now_ts: i64) -> MatrixResult<()> {
        if let Some(uses_allowed) = self.uses_allowed {
            if uses_allowed.is_some_and(|uses| uses < 0) {
                return Err(MatrixError::invalid_param("`uses_allowed` must not be negative."));
            }
            token.uses_allowed = uses_allowed;
        }
        if let Some(expires_ts) = self.expiry_time {
            if expires_ts.is_some_and(|ts| ts <= now_ts) {
                return Err(MatrixError::invalid_param("`expiry_time` must lie in the future."));
            }
            token.expires_ts = expires_ts;
        }
        Ok(())
    }
}

async fn load(app: &App, token: &str) -> MatrixResult<StoredRegistrationToken> {
    let tokens = administration::list_registration_tokens(&app.database).await?;
    tokens.into_iter().find(|stored| stored.token == token).ok_or_else(unknown)
}

fn unknown() -> MatrixError {
    MatrixError::not_found("No such registration token.")
}

fn is_valid(token: &StoredRegistrationToken, now_ts: i64) -> bool {
    token.uses_allowed.is_none_or(|allowed| token.uses < allowed)
        && token.expires_ts.is_none_or(|ts| ts > now_ts)
}

fn token_json(token: &StoredRegistrationToken) -> Value {
    json!({
        "token": token.token,
        "uses_allowed": token.uses_allowed,
        "pending": 0,
        "completed": token.uses,
        "expiry_time": token.expires_ts,
    })
}

/// Tells a field that is `null` from one that is missing.
fn read_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::<i64>::deserialize(deserializer).map(Some)
}
