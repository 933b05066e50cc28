//! The page that the link at the end of mails about unread messages leads to. A click is asked for,
//! since programs that look at mails follow every link; mail programs with a button of their own for it
//! post at once (RFC 8058).

use axum::{extract::State, http::StatusCode, response::Response};
use ruma::OwnedUserId;
use serde::Deserialize;

use crate::{
    http::{
        AppState, auth::ClientAddress, error::MatrixResult, json::Query, page::page,
        rate_limit::Action,
    },
    outbound::escape_html,
    push::delivery::Subscription,
};

const TITLE: &str = "Mails about unread messages";

/// What a link says.
#[derive(Debug, Deserialize)]
pub struct Link {
    user_id: OwnedUserId,
    app_id: String,
    pushkey: String,
    signature: String,
}

/// `GET /_hearth/unsubscribe`: asks whether to go on. The form leads to the same address.
pub async fn ask(
    State(app): State<AppState>,
    address: ClientAddress,
    Query(link): Query<Link>,
) -> MatrixResult<Response> {
    app.rate_limits.take_of_address(Action::Change, address.0, app.clock.now_ms())?;
    if read_genuine(&app, &link).is_none() {
        return Ok(refuse());
    }
    let body = format!(
        "<p>Shall {} get no more mails about unread messages of {}?</p>\
         <form method=\"post\"><button>No more mails</button></form>",
        escape_html(&link.pushkey),
        escape_html(link.user_id.as_str()),
    );
    Ok(page(TITLE, StatusCode::OK, &body))
}

/// `POST /_hearth/unsubscribe`.
pub async fn unsubscribe(
    State(app): State<AppState>,
    address: ClientAddress,
    Query(link): Query<Link>,
) -> MatrixResult<Response> {
    app.rate_limits.take_of_address(Action::Change, address.0, app.clock.now_ms())?;
    let Some(subscription) = read_genuine(&app, &link) else { return Ok(refuse()) };
    app.push_delivery.unsubscribe(subscription).await?;
    let body = "<p>There will be no more mails about unread messages.</p>";
    Ok(page(TITLE, StatusCode::OK, body))
}

/// What the link is about, if this server made it.
fn read_genuine(app: &AppState, link: &Link) -> Option<Subscription> {
    let subscription = Subscription {
        user_id: link.user_id.clone(),
        app_id: link.app_id.clone(),
        pushkey: link.pushkey.clone(),
    };
    app.push_delivery.is_genuine(&subscription, &link.signature).then_some(subscription)
}

fn refuse() -> Response {
    let body = "<p>This link is not complete. Please use the one in the mail.</p>";
    page(TITLE, StatusCode::FORBIDDEN, body)
}
