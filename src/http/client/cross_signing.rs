//! `/keys/device_signing` and `/keys/signatures` (client-server API, "Cross-signing").

use std::collections::BTreeMap;

use axum::extract::State;
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use super::{account::read_object, uia::confirm_unless_appservice};
use crate::{
    encryption::{CrossSigningError, CrossSigningUpload, SignatureFailure},
    http::{
        AppState,
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody},
        rate_limit::Action,
    },
};

/// Signatures of one request.
const SIGNATURES_MAX: usize = 5_000;

/// Users who may replace their keys without proof, at most; beyond, some lose that.
const GRANTS_MAX: usize = 1_000;

/// Who may replace their keys without proving who they are, and until when, since an administrator says so.
/// A restart ends it.
pub struct CrossSigningGrants(Cache<OwnedUserId, u64>);

impl CrossSigningGrants {
    pub fn new() -> Self {
        Self(Cache::new(GRANTS_MAX))
    }

    /// Allows it until a time, milliseconds since the Unix epoch.
    pub fn allow(&self, user: &UserId, until_ms: u64) {
        self.0.insert(user.to_owned(), until_ms);
    }

    fn is_allowed(&self, user: &UserId, now_ms: u64) -> bool {
        self.0.get(user).is_some_and(|until_ms| now_ms < until_ms)
    }
}

impl Default for CrossSigningGrants {
    fn default() -> Self {
        Self::new()
    }
}

/// `POST /keys/device_signing/upload`.
pub async fn upload_keys(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<Value>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let upload: CrossSigningUpload = read_object(&body)?;
    let user = &session.user_id;
    match app.encryption.upload_cross_signing_keys(user, upload.clone(), false).await {
        Err(CrossSigningError::NeedsProof) => {}
        stored => return Ok(stored.map(|()| Json(Empty {}))?),
    }
    if !app.cross_signing_grants.is_allowed(user, app.clock.now_ms()) {
        let request = "POST /keys/device_signing/upload";
        confirm_unless_appservice(&app, &session, request, &body).await?;
    }
    app.encryption.upload_cross_signing_keys(user, upload, true).await?;
    Ok(Json(Empty {}))
}

/// `POST /keys/signatures/upload`. What fails is told key by key.
pub async fn upload_signatures(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(upload): JsonBody<BTreeMap<OwnedUserId, BTreeMap<String, Map<String, Value>>>>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    if upload.values().map(BTreeMap::len).sum::<usize>() > SIGNATURES_MAX {
        return Err(MatrixError::too_large("These are too many signatures for one request."));
    }
    let failures = app.encryption.upload_signatures(&session.user_id, upload).await?;
    let told = |keys: BTreeMap<String, SignatureFailure>| -> Map<String, Value> {
        let told = |failure| MatrixError::from(failure).to_json();
        keys.into_iter().map(|(key, failure)| (key, told(failure))).collect()
    };
    let failures: Map<String, Value> =
        failures.into_iter().map(|(user, keys)| (user.to_string(), told(keys).into())).collect();
    Ok(Json(json!({ "failures": failures })))
}

impl From<SignatureFailure> for MatrixError {
    fn from(failure: SignatureFailure) -> Self {
        let message = super::register::capitalize(&failure.to_string());
        match failure {
            SignatureFailure::NotFound => Self::not_found(message),
            SignatureFailure::KeyDiffers => Self::bad_request(message),
            SignatureFailure::Invalid => Self::invalid_signature(message),
        }
    }
}

impl From<CrossSigningError> for MatrixError {
    fn from(error: CrossSigningError) -> Self {
        let message = super::register::capitalize(&error.to_string());
        match error {
            CrossSigningError::Identity(error) => error.into(),
            CrossSigningError::NoMasterKey => Self::missing_param(message),
            CrossSigningError::KeyIdInUse | CrossSigningError::NeedsProof => {
                Self::forbidden(message)
            }
            CrossSigningError::TooLong => Self::too_large(message),
            CrossSigningError::Storage(error) => error.into(),
        }
    }
}
