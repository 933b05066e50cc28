//! The page that the link in a mail leads to, where somebody confirms that the address is theirs
//! (identity service API, `/validate/email/submitToken`). A click is asked for, since programs that
//! look at mails follow every link.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, LOCATION},
    },
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    accounts::validation::ValidationError,
    http::{
        AppState,
        auth::ClientAddress,
        error::{MatrixError, MatrixResult},
        json::{Json, Query, parse_json, read_body},
        page::{hidden_fields, page},
        rate_limit::Action,
    },
    outbound::escape_html,
};

/// Three opaque identifiers of 255 characters each, as a form or in JSON.
const BODY_BYTES_MAX: usize = 4096;

const TITLE: &str = "Confirm your address";

/// What a mail says.
#[derive(Debug, Deserialize)]
pub struct Proof {
    sid: String,
    client_secret: String,
    token: String,
}

/// `GET`: asks whether to go on.
pub async fn ask(
    State(app): State<AppState>,
    address: ClientAddress,
    Query(proof): Query<Proof>,
) -> MatrixResult<Response> {
    app.rate_limits.take_of_address(Action::Registration, address.0, app.clock.now_ms())?;
    let Proof { sid, client_secret, token } = &proof;
    let checked = app.accounts.check_validation_token(sid, client_secret, token).await;
    if let Err(error) = checked {
        return Ok(explain(error));
    }
    let inputs = hidden_fields(&[("sid", sid), ("client_secret", client_secret), ("token", token)]);
    let server_name = escape_html(app.config.server.name.as_str());
    let body = format!(
        "<p>Is this your mail address, and did you ask {server_name} to use it?</p>\
         <form method=\"post\">{inputs}<button>Confirm the address</button></form>"
    );
    Ok(page(TITLE, StatusCode::OK, &body))
}

/// `POST`: by the page's own form, or by a client in JSON.
pub async fn confirm(
    State(app): State<AppState>,
    address: ClientAddress,
    request: Request,
) -> MatrixResult<Response> {
    app.rate_limits.take_of_address(Action::Registration, address.0, app.clock.now_ms())?;
    let (parts, body) = request.into_parts();
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_form = kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let bytes = read_body(Body::new(body), BODY_BYTES_MAX).await?;
    let Proof { sid, client_secret, token } = match is_form {
        true => serde_html_form::from_bytes(&bytes)
            .map_err(|error| MatrixError::missing_param(format!("The form is wrong: {error}.")))?,
        false => parse_json(&bytes)?,
    };
    let confirmed = app.accounts.confirm_validation(&sid, &client_secret, &token).await;
    match (confirmed, is_form) {
        (Err(error), true) => Ok(explain(error)),
        (Err(ValidationError::Expired), false) => {
            let message = "This session has expired.";
            Err(MatrixError::new(StatusCode::BAD_REQUEST, "M_SESSION_EXPIRED", message))
        }
        (Err(ValidationError::UnknownSession), false) => {
            let message = "There is no such session.";
            Err(MatrixError::new(StatusCode::BAD_REQUEST, "M_NO_VALID_SESSION", message))
        }
        (Err(error), false) => Err(error.into()),
        (Ok(_), false) => Ok(Json(json!({ "success": true })).into_response()),
        (Ok(next_link), true) => Ok(go_on(next_link)),
    }
}

/// Where the user wanted to go, or that all is well.
fn go_on(next_link: Option<String>) -> Response {
    let link = next_link.and_then(|link| HeaderValue::try_from(link).ok());
    let body = "<p>Thank you, the address is confirmed. Go back to your app to continue.</p>";
    match link {
        None => page(TITLE, StatusCode::OK, body),
        Some(link) => {
            let mut response = page(TITLE, StatusCode::SEE_OTHER, body);
            response.headers_mut().insert(LOCATION, link);
            response
        }
    }
}

fn explain(error: ValidationError) -> Response {
    match error {
        ValidationError::Storage(error) => MatrixError::from(error).into_response(),
        _ => page(
            TITLE,
            StatusCode::BAD_REQUEST,
            "<p>This link is no longer valid. Ask for another mail in your app.</p>",
        ),
    }
}
