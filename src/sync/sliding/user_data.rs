//! A user's account data in memory, for those who sync: what lists filter by (direct chats, tags)
//! and what the extension carries.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use crate::{
    accounts::{
        Accounts,
        account_data::{TAGS_KIND, is_deleted},
    },
    cache_figures::CacheFigures,
    rooms::UserRooms,
    storage::StorageError,
};

/// What a piece takes in memory beside its text, bytes.
const PIECE_BYTES: usize = 128;
const USER_BYTES: u64 = 512;
/// The type under which clients list their direct chats (client-server API, "Direct Messaging").
const DIRECT_KIND: &str = "m.direct";

/// One user's account data as of a position of the stream.
#[derive(Clone, Default)]
pub struct UserData {
    upto: i64,
    pub own: Pieces,
    /// By room ID.
    pub by_room: HashMap<Box<str>, Pieces>,
    /// The IDs of rooms that are direct chats.
    pub direct: Arc<HashSet<Box<str>>>,
}

/// Pieces of account data by type.
#[derive(Clone, Default)]
pub struct Pieces(BTreeMap<Box<str>, Piece>);

#[derive(Clone)]
struct Piece {
    content: Arc<str>,
    position: i64,
}

/// The users whose data are in memory.
pub struct KnownUserData(Cache<OwnedUserId, Arc<UserData>, UserDataWeighter>);

#[derive(Clone)]
struct UserDataWeighter;

impl Weighter<OwnedUserId, Arc<UserData>> for UserDataWeighter {
    fn weight(&self, _: &OwnedUserId, data: &Arc<UserData>) -> u64 {
        let rooms = data.by_room.values();
        let bytes: usize = rooms.chain([&data.own]).map(Pieces::weight_bytes).sum();
        USER_BYTES + bytes as u64
    }
}

impl KnownUserData {
    pub fn new(memory_bytes: u64) -> Self {
        Self(Cache::with_weighter(1024, memory_bytes.max(1 << 16), UserDataWeighter))
    }

    pub fn cache_figures(&self) -> CacheFigures {
        CacheFigures::of("account_data", &self.0)
    }

    /// A user's data as of `upto`; reads what is not in memory.
    pub async fn load(
        &self,
        accounts: &Accounts,
        rooms: &UserRooms,
        upto: i64,
    ) -> Result<Arc<UserData>, StorageError> {
        let user: &UserId = &rooms.user_id;
        let known = self.0.get(user);
        if let Some(known) = known.as_ref().filter(|known| known.upto >= rooms.activity().min(upto))
        {
            return Ok(Arc::clone(known));
        }
        let mut data = known.map(Arc::unwrap_or_clone).unwrap_or_default();
        let rows = accounts.list_data(user, (data.upto, upto)).await?;
        for row in rows {
            let pieces = match row.room_id.is_empty() {
                true => &mut data.own,
                false => data.by_room.entry(row.room_id.into()).or_default(),
            };
            let piece = Piece { content: row.content.into(), position: row.position };
            pieces.0.insert(row.kind.into(), piece);
        }
        data.upto = upto;
        data.direct = Arc::new(parse_direct(data.own.find(DIRECT_KIND)));
        let data = Arc::new(data);
        self.0.insert(user.to_owned(), Arc::clone(&data));
        Ok(data)
    }
}

impl UserData {
    /// Whether the user calls the room a direct chat.
    pub fn is_direct(&self, room_id: &str) -> bool {
        self.direct.contains(room_id)
    }

    /// The tags of a room.
    pub fn tags(&self, room_id: &str) -> Vec<String> {
        let content = self.by_room.get(room_id).and_then(|pieces| pieces.find(TAGS_KIND));
        let content: Option<Value> = content.and_then(|text| serde_json::from_str(text).ok());
        let tags = content.as_ref().and_then(|content| content["tags"].as_object());
        tags.into_iter().flatten().map(|(tag, _)| tag.clone()).collect()
    }
}

impl Pieces {
    fn find(&self, kind: &str) -> Option<&str> {
        self.0.get(kind).map(|piece| &*piece.content)
    }

    /// Types and contents of what changed behind `since`; when it is 0 all that is not deleted.
    pub fn list_since(&self, since: i64) -> impl Iterator<Item = (&str, &str)> {
        let is_news = move |piece: &Piece| match since {
            0 => !is_deleted(&piece.content),
            since => piece.position > since,
        };
        let pieces = self.0.iter().filter(move |(_, piece)| is_news(piece));
        pieces.map(|(kind, piece)| (&**kind, &*piece.content))
    }

    fn weight_bytes(&self) -> usize {
        self.0.iter().map(|(kind, piece)| PIECE_BYTES + kind.len() + piece.content.len()).sum()
    }
}

/// Clients write this list, so what is not understood in it is left out.
fn parse_direct(content: Option<&str>) -> HashSet<Box<str>> {
    let content: Option<Value> = content.and_then(|text| serde_json::from_str(text).ok());
    let by_user = content.as_ref().and_then(Value::as_object);
    let rooms = by_user.into_iter().flatten().filter_map(|(_, rooms)| rooms.as_array());
    rooms.flatten().filter_map(Value::as_str).map(Box::from).collect()
}
