//! `/pushers` (Client-Server API, "Push Notifications").

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    accounts::{
        pushers::{EMAIL_APP_ID, SetPusherError},
        sessions::Session,
        validation::EMAIL,
    },
    http::{
        AppState,
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody},
        rate_limit::Action,
    },
    storage::pushers::StoredPusher,
};

/// `POST /pushers/set`.
const PUSHKEY_BYTES_MAX: usize = 512;
const APP_ID_CHARS_MAX: usize = 64;
/// Names and data beside these are kept as long as they are not absurd, bytes.
const TEXT_BYTES_MAX: usize = 1024;
const DATA_BYTES_MAX: usize = 16 << 10;
/// The path of every push gateway.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

/// What a client asks for.
#[derive(Debug, Deserialize)]
pub struct SetPusherBody {
    pushkey: String,
    #[serde(deserialize_with = "Option::deserialize")]
    kind: Option<String>,
    app_id: String,
    app_display_name: Option<String>,
    device_display_name: Option<String>,
    profile_tag: Option<String>,
    lang: Option<String>,
    data: Option<Map<String, Value>>,
    #[serde(default)]
    append: bool,
}

/// `GET /pushers`.
pub async fn list_pushers(
    State(app): State<AppState>,
    session: UserSession,
) -> MatrixResult<Json<Value>> {
    let pushers = app.accounts.list_pushers(&session.user_id).await?;
    let pushers: Vec<_> = pushers.iter().map(pusher_json).collect();
    Ok(Json(json!({ "pushers": pushers })))
}

/// `POST /pushers/set`.
pub async fn set_pusher(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<SetPusherBody>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    check_length("pushkey", &body.pushkey, PUSHKEY_BYTES_MAX)?;
    if body.app_id.chars().count() > APP_ID_CHARS_MAX {
        return Err(MatrixError::invalid_param("`app_id` is longer than 64 characters."));
    }
    if body.kind.is_none() {
        app.accounts.delete_pusher(&session.user_id, body.app_id, body.pushkey).await?;
        return Ok(Json(Empty {}));
    }
    let append = body.append;
    let allows_plain = app.config.push.allow_private_networks;
    let pusher = read_pusher(body, &session, allows_plain)?;
    if pusher.kind == "email" {
        check_address(&app, &session, &pusher).await?;
    }
    app.push_delivery.set_pusher(&session.user_id, pusher, append).await?;
    Ok(Json(Empty {}))
}

impl From<SetPusherError> for MatrixError {
    fn from(error: SetPusherError) -> Self {
        match error {
            SetPusherError::TooMany => Self::forbidden("This account has too many pushers."),
            SetPusherError::Storage(error) => error.into(),
        }
    }
}

fn read_pusher(
    body: SetPusherBody,
    session: &Session,
    allows_plain: bool,
) -> MatrixResult<StoredPusher> {
    let missing = |name: &str| MatrixError::missing_param(format!("`{name}` is missing."));
    let kind = body.kind.ok_or_else(|| missing("kind"))?;
    let data = body.data.ok_or_else(|| missing("data"))?;
    match &*kind {
        "http" => check_gateway(&data, allows_plain)?,
        "email" => {}
        _ => {
            return Err(MatrixError::invalid_param(
                "This server has pushers of kind `http` and `email` only.",
            ));
        }
    }
    let data = Value::Object(data).to_string();
    check_length("data", &data, DATA_BYTES_MAX)?;
    let pusher = StoredPusher {
        app_id: body.app_id,
        pushkey: body.pushkey,
        kind,
        app_display_name: body.app_display_name.ok_or_else(|| missing("app_display_name"))?,
        device_display_name: body
            .device_display_name
            .ok_or_else(|| missing("device_display_name"))?,
        profile_tag: body.profile_tag,
        lang: body.lang.ok_or_else(|| missing("lang"))?,
        data,
        device_id: session.device_id.to_string(),
    };
    check_length("app_display_name", &pusher.app_display_name, TEXT_BYTES_MAX)?;
    check_length("device_display_name", &pusher.device_display_name, TEXT_BYTES_MAX)?;
    check_length("lang", &pusher.lang, TEXT_BYTES_MAX)?;
    check_length("profile_tag", pusher.profile_tag.as_deref().unwrap_or(""), TEXT_BYTES_MAX)?;
    Ok(pusher)
}

/// Mails go to addresses that the user has proven to be theirs.
async fn check_address(
    app: &AppState,
    session: &Session,
    pusher: &StoredPusher,
) -> MatrixResult<()> {
    if pusher.app_id != EMAIL_APP_ID {
        let message = format!("The `app_id` of mails is `{EMAIL_APP_ID}`.");
        return Err(MatrixError::invalid_param(message));
    }
    if !app.push_delivery.sends_mails() {
        return Err(MatrixError::invalid_param("This server sends no mails."));
    }
    let own = app.accounts.list_third_party_ids(&session.user_id).await?;
    match own.iter().any(|id| id.medium == EMAIL && id.address == pusher.pushkey) {
        true => Ok(()),
        false => Err(MatrixError::invalid_param("This is no mail address of the account.")),
    }
}

/// "MUST be an HTTPS URL with a path of `/_matrix/push/v1/notify`", unless the administrator allows
/// gateways in networks of their own.
fn check_gateway(data: &Map<String, Value>, allows_plain: bool) -> MatrixResult<()> {
    let Some(url) = data.get("url").and_then(Value::as_str) else {
        return Err(MatrixError::missing_param("`data.url` is missing."));
    };
    let uri: Result<axum::http::Uri, _> = url.parse();
    let is_right = uri.is_ok_and(|uri| {
        let scheme = uri.scheme_str();
        uri.path() == GATEWAY_PATH
            && (scheme == Some("https") || scheme == Some("http") && allows_plain)
    });
    match is_right {
        true => Ok(()),
        false => Err(MatrixError::invalid_param(
            "`data.url` must be an https address with the path /_matrix/push/v1/notify.",
        )),
    }
}

fn check_length(name: &str, text: &str, bytes_max: usize) -> MatrixResult<()> {
    match text.len() > bytes_max {
        true => {
            Err(MatrixError::invalid_param(format!("`{name}` is longer than {bytes_max} bytes.")))
        }
        false => Ok(()),
    }
}

/// A pusher as clients and administrators see it.
pub fn pusher_json(pusher: &StoredPusher) -> Value {
    let data: Value = serde_json::from_str(&pusher.data).unwrap_or_else(|_| json!({}));
    let mut json = json!({
        "app_id": pusher.app_id,
        "pushkey": pusher.pushkey,
        "kind": pusher.kind,
        "app_display_name": pusher.app_display_name,
        "device_display_name": pusher.device_display_name,
        "lang": pusher.lang,
        "data": data,
    });
    if let Some(profile_tag) = &pusher.profile_tag {
        json["profile_tag"] = profile_tag.as_str().into();
    }
    json
}
