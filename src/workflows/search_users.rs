//! The user directory (Client-Server API, "User Directory"): users whom somebody may know of, because they
//! share a room or are in a room that everybody can enter or read, whoever searches included; of other servers
//! as well, by what their memberships here say. Other servers are not asked.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    accounts::{Accounts, profiles::Profile},
    rooms::Rooms,
    storage::{StorageError, UserNid, user_directory},
};

/// Users of this server whose names fit that are looked at; whoever searches for one letter gets no
/// complete list.
const CANDIDATES_MAX: usize = 500;
/// Memberships that are looked through for users of other servers, and those in which the text stands.
const MEMBERSHIPS_MAX: usize = 50_000;
const MEMBER_EVENTS_MAX: usize = 1000;

/// Users that were found.
#[derive(Clone, Debug)]
pub struct FoundUsers {
    pub users: Vec<(OwnedUserId, Arc<Profile>)>,
    /// Whether there are more.
    pub limited: bool,
}

/// What is read of a member event.
#[derive(Deserialize)]
struct Member {
    state_key: OwnedUserId,
    #[serde(default)]
    content: MemberProfile,
}

#[derive(Default, Deserialize)]
struct MemberProfile {
    displayname: Option<Value>,
    avatar_url: Option<Value>,
}

/// Searches for users whose localpart or display name contains `term`; exact names come first.
pub async fn search_users(
    (accounts, rooms): (&Accounts, &Rooms),
    viewer: &UserId,
    term: &str,
    limit: usize,
) -> Result<FoundUsers, StorageError> {
    let mut found = FoundUsers { users: Vec::new(), limited: false };
    let term = normalize_term(term);
    // No name holds U+0000, and PostgreSQL takes none.
    if term.is_empty() || term.contains('\0') {
        return Ok(found);
    }
    let pattern = format!("%{}%", escape_pattern(&term));
    let viewer_nid = rooms.keys().find_user(viewer.as_str()).await?;
    let database = rooms.database();
    let local = user_directory::list_local(database, viewer_nid, &pattern, CANDIDATES_MAX).await?;
    found.limited = local.len() >= CANDIDATES_MAX;
    let mut fitting: Vec<(OwnedUserId, Option<Arc<Profile>>)> =
        local.iter().filter_map(|user| Some((UserId::parse(user).ok()?, None))).collect();
    let remote = find_remote(rooms, viewer_nid, (&term, &pattern)).await?;
    fitting.extend(remote.into_iter().map(|(user, profile)| (user, Some(Arc::new(profile)))));
    fitting.sort_by_key(|(user_id, _)| {
        let localpart = user_id.localpart();
        (localpart != term, !localpart.starts_with(&term))
    });
    found.limited |= fitting.len() > limit;
    fitting.truncate(limit);
    for (user_id, profile) in fitting {
        let profile = match profile {
            Some(profile) => Some(profile),
            None => accounts.find_profile(&user_id).await?,
        };
        found.users.extend(profile.map(|profile| (user_id, profile)));
    }
    Ok(found)
}

/// Users of other servers whose names fit, with the profile of one of their memberships.
async fn find_remote(
    rooms: &Rooms,
    viewer: Option<UserNid>,
    (term, pattern): (&str, &str),
) -> Result<BTreeMap<OwnedUserId, Profile>, StorageError> {
    let limits = (MEMBERSHIPS_MAX, MEMBER_EVENTS_MAX);
    let database = rooms.database();
    let events = user_directory::list_member_events(database, viewer, pattern, limits).await?;
    let mut found = BTreeMap::new();
    for json in events {
        let Ok(Member { state_key: user, content }) = serde_json::from_str(&json) else { continue };
        let name = content.displayname.filter(Value::is_string);
        let holds_term = |text: &str| text.to_lowercase().contains(term);
        let fits = holds_term(user.localpart())
            || name.as_ref().and_then(Value::as_str).is_some_and(holds_term);
        if fits && user.server_name() != rooms.server_name() {
            let avatar = content.avatar_url.filter(Value::is_string);
            let fields = [("displayname", name), ("avatar_url", avatar)].into_iter();
            let fields = fields.filter_map(|(field, value)| Some((field.to_owned(), value?)));
            found.insert(user, Profile(fields.collect()));
        }
    }
    Ok(found)
}

/// People type names in any case, and paste whole user IDs.
fn normalize_term(term: &str) -> String {
    let term = term.trim().to_lowercase();
    match term.strip_prefix('@') {
        Some(user_id) => user_id.split(':').next().unwrap_or_default().to_owned(),
        None => term,
    }
}

fn escape_pattern(term: &str) -> String {
    term.replace('!', "!!").replace('%', "!%").replace('_', "!_")
}
