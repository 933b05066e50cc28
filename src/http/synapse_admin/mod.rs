//! `/_synapse/admin`: the administration API of Synapse, as far as the tools that people have use it
//! (Ketesa, Draupnir, Complement). Outside the specification; the shapes are Synapse's.

pub mod destinations;
pub mod history;
pub mod media;
pub mod notices;
pub mod quarantine;
pub mod rate_limits;
pub mod redactions;
pub mod registration_tokens;
pub mod reports;
pub mod rooms;
mod routes;
pub mod scheduled_tasks;
pub mod statistics;
pub mod user_facts;
pub mod user_reports;
pub mod users;

pub(super) use routes::add_routes;
use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};

use super::{
    auth::AdminSession,
    error::{MatrixError, MatrixResult},
    json::Json,
    state::App,
};
use crate::accounts::manage::Account;

/// Rows of a list when the client does not say, and at most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

/// `GET /_synapse/admin/v1/server_version`.
pub async fn get_version(_: AdminSession) -> Json<Value> {
    Json(json!({ "server_version": concat!("Hearth ", env!("CARGO_PKG_VERSION")) }))
}

/// How many rows a list has.
fn limit_of(limit: Option<usize>) -> usize {
    limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX)
}

/// A page of a list by its name, with the place of the next one as far as there is one: a number or a text, as
/// `write_place` says.
fn page_json(
    name: &str,
    listed: Vec<Value>,
    (from, total): (usize, usize),
    write_place: fn(usize) -> Value,
) -> Value {
    let (next, has_next) = (from + listed.len(), !listed.is_empty());
    let mut page = json!({ name: listed, "total": total });
    if has_next && next < total {
        page["next_token"] = write_place(next);
    }
    page
}

/// The place of a page as a text, where Synapse has it so.
fn place_text(place: usize) -> Value {
    place.to_string().into()
}

/// A pattern for LIKE that finds the text anywhere.
fn pattern_of(text: Option<&str>) -> String {
    let text = text.unwrap_or_default().to_lowercase();
    let text = text.replace('!', "!!").replace('%', "!%").replace('_', "!_");
    format!("%{text}%")
}

/// A user of this server, as a path names them.
fn parse_local(app: &App, user_id: &str) -> MatrixResult<OwnedUserId> {
    let user_id =
        UserId::parse(user_id).map_err(|_| MatrixError::invalid_param("This is not a user ID."))?;
    match user_id.server_name() == app.accounts.server_name() {
        true => Ok(user_id),
        false => Err(MatrixError::bad_request("This is a user of another server.")),
    }
}

/// An account of this server, also a deactivated one.
async fn load_account(app: &App, user_id: &str) -> MatrixResult<Account> {
    let user_id = parse_local(app, user_id)?;
    let account = app.accounts.find_account(&user_id).await?;
    account.ok_or_else(|| MatrixError::not_found("User not found."))
}
