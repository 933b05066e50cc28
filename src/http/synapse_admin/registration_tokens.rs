//! `/_synapse/admin/v1/registration_tokens`: with what people may register.

use axum::extract::State;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::{
    accounts::registration_tokens::CreateTokenError,
    http::{
        App, AppState,
        auth::AdminSession,
        client::register::capitalize,
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
    let mut tokens = app.accounts.list_registration_tokens().await?;
    // Who becomes administrator is decided on the command line.
    tokens.retain(|token| !token.makes_admin);
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
    let mut wanted = StoredRegistrationToken {
        token: body.token.clone().unwrap_or_else(|| app.clock.random_text(length)),
        uses_allowed: None,
        uses: 0,
        expires_ts: None,
        makes_admin: false,
    };
    body.apply(&mut wanted, app.clock.now_ms().cast_signed())?;
    let StoredRegistrationToken { token, uses_allowed, expires_ts, .. } = wanted;
    let made = app.accounts.make_registration_token(Some(token), uses_allowed, expires_ts).await;
    match made {
        Ok(made) => Ok(Json(token_json(&made))),
        Err(CreateTokenError::Storage(error)) => Err(error.into()),
        Err(error) => Err(MatrixError::invalid_param(capitalize(&error.to_string()))),
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
    match app.accounts.revoke_registration_token(&token).await? {
        Some(_) => Ok(Json(Empty {})),
        None => Err(unknown()),
    }
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
    let tokens = app.accounts.list_registration_tokens().await?;
    let is_shown = |stored: &StoredRegistrationToken| stored.token == token && !stored.makes_admin;
    tokens.into_iter().find(is_shown).ok_or_else(unknown)
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
