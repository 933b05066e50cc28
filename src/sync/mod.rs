//! What a client has not seen: `GET /sync` (client-server API, "Syncing"). One file per section
//! of the answer. Reads everything, decides nothing about rooms.

mod account_data;
mod device_lists;
mod filter;
mod invited;
mod joined;
mod lazy_members;
mod left;
mod room_state;
pub mod sliding;
mod sticky;
mod summary;
mod timeline;
mod to_device;
mod token;
mod wait;

use std::{sync::Arc, time::Duration};

use filter::KnownFilters;
pub use filter::SyncFilter;
use lazy_members::SentMembers;
use ruma::OwnedUserId;
use sticky::StickyNews;
pub use token::SyncToken;

use crate::{
    accounts::Accounts, encryption::Encryption, ephemeral::Ephemeral, push::Counts, rooms::Rooms,
    storage::StorageError,
};

/// What bounds a sync; from the section `sync` of the configuration.
#[derive(Clone, Debug)]
pub struct SyncSettings {
    pub timeline_limit_default: usize,
    pub timeline_limit_max: usize,
    pub long_poll_max: Duration,
    /// For remembering which members a device was sent, bytes.
    pub memory_bytes: u64,
}

/// One request, parsed.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    pub user_id: OwnedUserId,
    pub device_id: String,
    /// None for an initial sync.
    pub since: Option<SyncToken>,
    pub filter: Arc<SyncFilter>,
    pub full_state: bool,
    /// By which name the client wants `state_after` in place of `state` (MSC4222).
    pub state_after: Option<&'static str>,
    pub timeout: Duration,
}

/// Builds answers. Clones share it.
#[derive(Clone)]
pub struct Sync(Arc<Parts>);

struct Parts {
    rooms: Rooms,
    accounts: Arc<Accounts>,
    ephemeral: Ephemeral,
    encryption: Encryption,
    counts: Counts,
    sent_members: SentMembers,
    filters: KnownFilters,
    settings: SyncSettings,
}

impl Sync {
    pub fn new(
        rooms: Rooms,
        accounts: Arc<Accounts>,
        (ephemeral, encryption): (Ephemeral, Encryption),
        counts: Counts,
        settings: SyncSettings,
    ) -> Self {
        let sent_members = SentMembers::new(settings.memory_bytes);
        let filters = KnownFilters::default();
        Self(Arc::new(Parts {
            rooms,
            accounts,
            ephemeral,
            encryption,
            counts,
            sent_members,
            filters,
            settings,
        }))
    }
}

/// One answer being built: everything above `since` up to `upto`.
struct Answer<'a> {
    parts: &'a Parts,
    request: &'a SyncRequest,
    /// 0 for an initial sync.
    since: i64,
    /// The stream position that this answer reaches.
    upto: i64,
    now_ms: u64,
    ignored_users: Arc<std::collections::HashSet<OwnedUserId>>,
    sticky: StickyNews,
}

/// A list in JSON: writes the commas.
struct JsonList {
    is_empty: bool,
}

impl JsonList {
    fn begin(out: &mut String, opening: &str) -> Self {
        out.push_str(opening);
        Self { is_empty: true }
    }

    fn next(&mut self, out: &mut String) {
        if !self.is_empty {
            out.push(',');
        }
        self.is_empty = false;
    }
}

type Result<T, E = StorageError> = std::result::Result<T, E>;
