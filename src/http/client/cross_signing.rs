//! `/keys/device_signing` and `/keys/signatures` (client-server API, "Cross-signing").

use std::collections::BTreeMap;

use axum::extract::State;
use ruma::OwnedUserId;
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
    confirm_unless_appservice(&app, &session, "POST /keys/device_signing/upload", &body).await?;
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
