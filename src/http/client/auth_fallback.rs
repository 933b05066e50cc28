//! The page on which people pass a stage of user-interactive authentication that their client does not
//! know (client-server API, "Fallback").

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::register::capitalize;
use crate::{
    accounts::{
        interactive_auth::{AuthData, Stage},
        validation::{Purpose, ValidationCredentials, ValidationError, ValidationRequest},
    },
    http::{
        App, AppState,
        auth::ClientAddress,
        error::{MatrixError, MatrixResult},
        json::{Form, Path, Query},
        page::{hidden_fields, page, page_with_script},
        rate_limit::Action,
    },
    outbound::escape_html,
};

const TITLE: &str = "Authentication";
/// As the specification has it.
const DONE_SCRIPT: &str = "if (window.onAuthDone) { window.onAuthDone(); } \
    else if (window.opener && window.opener.postMessage) \
    { window.opener.postMessage(\"authDone\", \"*\"); }";
/// Random characters of the secret of a proof that the page itself asks for.
const SECRET_LENGTH: usize = 32;

#[derive(Debug, Deserialize)]
pub struct FallbackQuery {
    session: String,
}

/// What the forms of the page send.
#[derive(Debug, Default, Deserialize)]
pub struct Answers {
    password: Option<String>,
    token: Option<String>,
    /// A mail address that is to be proven.
    address: Option<String>,
    sid: Option<String>,
    client_secret: Option<String>,
}

/// `GET /auth/{kind}/fallback/web`
pub async fn show(
    State(app): State<AppState>,
    Path(kind): Path<String>,
    Query(query): Query<FallbackQuery>,
) -> MatrixResult<Response> {
    let (_, stage) = find_stage(&app, &query.session, &kind)?;
    Ok(ask(&app, stage, None))
}

/// `POST /auth/{kind}/fallback/web`: by the page's own form.
pub async fn submit(
    State(app): State<AppState>,
    address: ClientAddress,
    Path(kind): Path<String>,
    Query(query): Query<FallbackQuery>,
    Form(answers): Form<Answers>,
) -> MatrixResult<Response> {
    let now_ms = app.clock.now_ms();
    app.rate_limits.take_of_address(Action::Login, address.0, now_ms)?;
    let (user_id, stage) = find_stage(&app, &query.session, &kind)?;
    if let (Stage::Email(purpose), Some(mailbox)) = (stage, answers.address.clone()) {
        app.rate_limits.take_of_address(Action::Mail, address.0, now_ms)?;
        return Ok(send_mail(&app, purpose, mailbox).await);
    }
    if let Some(user_id) = &user_id {
        app.rate_limits.check_of_user(Action::LoginFailure, user_id, now_ms)?;
    }
    let proof = answers.sid.clone().zip(answers.client_secret.clone());
    let auth = AuthData {
        password: answers.password,
        token: answers.token,
        threepid_creds: proof
            .map(|(sid, client_secret)| ValidationCredentials { sid, client_secret }),
        ..AuthData::default()
    };
    match app.accounts.pass_stage_on_page(&query.session, &kind, auth).await? {
        Ok(()) => {
            let thanks = "<p>Thank you. You can close this window and go back to your app.</p>";
            Ok(page_with_script(TITLE, StatusCode::OK, thanks, Some(DONE_SCRIPT)))
        }
        Err(problem) => {
            if let (Stage::Password, Some(user_id)) = (stage, &user_id) {
                app.rate_limits.take_of_user(Action::LoginFailure, user_id, now_ms)?;
            }
            match (stage, answers.sid, answers.client_secret) {
                (Stage::Email(_), Some(sid), Some(secret)) => {
                    Ok(wait_for_click(&sid, &secret, Some(problem)))
                }
                _ => Ok(ask(&app, stage, Some(problem))),
            }
        }
    }
}

/// The user of the session, and the stage that is meant.
fn find_stage(
    app: &App,
    session: &str,
    kind: &str,
) -> MatrixResult<(Option<ruma::OwnedUserId>, Stage)> {
    let found = app.accounts.find_interactive_session(session);
    let (user_id, stages) =
        found.ok_or_else(|| MatrixError::not_found("There is no such session."))?;
    let stage = stages.into_iter().find(|stage| stage.name() == kind);
    let stage = stage.ok_or_else(|| MatrixError::not_found("The session has no such stage."))?;
    Ok((user_id, stage))
}

/// The form of a stage.
fn ask(app: &App, stage: Stage, problem: Option<&str>) -> Response {
    let fields = match stage {
        Stage::Password => {
            "<p>Your password: <input type=\"password\" name=\"password\"></p>".to_owned()
        }
        Stage::RegistrationToken => {
            "<p>Your registration token: <input name=\"token\"></p>".to_owned()
        }
        Stage::Email(_) => {
            "<p>Your mail address: <input type=\"email\" name=\"address\"></p>".to_owned()
        }
        Stage::Terms => {
            let documents = app.config.registration.terms.iter().map(|terms| {
                let (url, name) = (escape_html(&terms.url), escape_html(&terms.name));
                format!("<li><a href=\"{url}\">{name}</a></li>")
            });
            format!("<p>Do you accept these?</p><ul>{}</ul>", documents.collect::<String>())
        }
        Stage::Dummy => "<p>Nothing is asked of you here.</p>".to_owned(),
    };
    let label = if stage == Stage::Terms { "I accept them" } else { "Continue" };
    form(&fields, label, problem)
}

/// Sends a mail, and asks to come back when its link was followed.
async fn send_mail(app: &App, purpose: Purpose, address: String) -> Response {
    let client_secret = app.clock.random_text(SECRET_LENGTH);
    let secret = client_secret.clone();
    let request =
        ValidationRequest { purpose, address, client_secret, send_attempt: 1, next_link: None };
    match app.accounts.request_validation(request).await {
        Ok(sid) => wait_for_click(&sid, &secret, None),
        Err(ValidationError::Storage(error)) => MatrixError::from(error).into_response(),
        Err(error) => ask(app, Stage::Email(purpose), Some(&capitalize(&error.to_string()))),
    }
}

fn wait_for_click(sid: &str, client_secret: &str, problem: Option<&str>) -> Response {
    let fields = hidden_fields(&[("sid", sid), ("client_secret", client_secret)]);
    let text = "<p>Follow the link in the mail that you get, and then continue here.</p>";
    form(&format!("{text}{fields}"), "Continue", problem)
}

fn form(fields: &str, label: &str, problem: Option<&str>) -> Response {
    let problem =
        problem.map(|problem| format!("<p><strong>{}</strong></p>", escape_html(problem)));
    let problem = problem.unwrap_or_default();
    let body = format!("{problem}<form method=\"post\">{fields}<button>{label}</button></form>");
    page(TITLE, StatusCode::OK, &body)
}
