//! The user directory (Client-Server API, "User Directory"): users of this server whom somebody may
//! know of, because they share a room or are in a room that everybody can enter or read.

use std::sync::Arc;

use ruma::{OwnedUserId, UserId};

use crate::{
    accounts::{Accounts, profiles::Profile},
    rooms::Rooms,
    storage::{StorageError, user_directory},
};

/// Users whose names fit that are looked at; whoever searches for one letter gets no complete list.
const CANDIDATES_MAX: u32 = 500;

/// Users that were found.
#[derive(Clone, Debug)]
pub struct FoundUsers {
    pub users: Vec<(OwnedUserId, Arc<Profile>)>,
    /// Whether there are more.
    pub limited: bool,
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
    if term.is_empty() {
        return Ok(found);
    }
    let pattern = format!("%{}%", escape_pattern(&term));
    let candidates =
        user_directory::list_matching(rooms.database(), &pattern, CANDIDATES_MAX).await?;
    found.limited = candidates.len() >= CANDIDATES_MAX as usize;
    let mut visible = keep_visible(rooms, viewer, candidates).await?;
    visible.sort_by_key(|user_id| {
        let localpart = user_id.localpart();
        (localpart != term, !localpart.starts_with(&term))
    });
    found.limited |= visible.len() > limit;
    visible.truncate(limit);
    for user_id in visible {
        if let Some(profile) = accounts.find_profile(&user_id).await? {
            found.users.push((user_id, profile));
        }
    }
    Ok(found)
}

async fn keep_visible(
    rooms: &Rooms,
    viewer: &UserId,
    candidates: Vec<String>,
) -> Result<Vec<OwnedUserId>, StorageError> {
    let mut users = Vec::new();
    for candidate in candidates.iter().filter(|candidate| *candidate != viewer.as_str()) {
        // Who was never in a room has no number, and nobody knows of them.
        let nid = rooms.keys().find_user(candidate).await?;
        if let (Some(nid), Ok(user_id)) = (nid, UserId::parse(candidate)) {
            users.push((nid, user_id));
        }
    }
    let nids: Vec<_> = users.iter().map(|(nid, _)| *nid).collect();
    let viewer = rooms.keys().find_user(viewer.as_str()).await?;
    let visible = user_directory::list_visible(rooms.database(), viewer, &nids).await?;
    users.retain(|(nid, _)| visible.contains(&nid.0));
    Ok(users.into_iter().map(|(_, user_id)| user_id).collect())
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
