//! The public directory of rooms (client-server API, "Published room directory").

use std::fmt;

use super::{registry::Rooms, room::Room};
use crate::storage::{
    RoomNid, StorageError, WriteTx,
    directory::{self, DirectoryPlace, DirectoryRow},
};

/// Rooms in one answer.
pub const DIRECTORY_PAGE_MAX: usize = 500;
/// Rooms read at once.
const STEP: usize = 500;
/// Rooms that one request looks at, however few of them match.
const SCANNED_ROOMS_MAX: usize = 20_000;

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct DirectoryFilter {
    /// In names, topics and aliases, in any case.
    pub search_term: Option<String>,
    /// Types of rooms; None among them stands for rooms without a type.
    pub room_types: Option<Vec<Option<String>>>,
}

/// Where a page begins, and in which direction it goes: `n` (next) or `p` (previous) with the size
/// and number of the room at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryToken {
    backwards: bool,
    place: DirectoryPlace,
}

/// A page of the directory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryPage {
    pub rooms: Vec<DirectoryRow>,
    pub next: Option<DirectoryToken>,
    pub prev: Option<DirectoryToken>,
    /// How many rooms there are, filters aside.
    pub total: i64,
}

impl DirectoryToken {
    const START: Self = Self {
        backwards: false,
        place: DirectoryPlace { joined_count: i64::MAX, room: RoomNid(-1) },
    };

    pub fn parse(text: &str) -> Option<Self> {
        let backwards = match text.as_bytes().first()? {
            b'n' => false,
            b'p' => true,
            _ => return None,
        };
        let (joined_count, room) = text[1..].split_once('_')?;
        let (joined_count, room) = (joined_count.parse().ok()?, RoomNid(room.parse().ok()?));
        Some(Self { backwards, place: DirectoryPlace { joined_count, room } })
    }

    fn at(row: &DirectoryRow, backwards: bool) -> Self {
        let DirectoryRow { joined_count, room, .. } = *row;
        Self { backwards, place: DirectoryPlace { joined_count, room } }
    }
}

impl fmt::Display for DirectoryToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.backwards { 'p' } else { 'n' };
        write!(formatter, "{direction}{}_{}", self.place.joined_count, self.place.room.0)
    }
}

impl DirectoryFilter {
    /// Whether a room is among those looked for.
    pub fn takes(&self, row: &DirectoryRow) -> bool {
        let summary = &row.summary;
        let right_type =
            self.room_types.as_ref().is_none_or(|types| types.contains(&summary.room_type));
        let Some(term) = self.search_term.as_deref().filter(|_| right_type) else {
            return right_type;
        };
        let term = term.to_lowercase();
        let texts = [&summary.name, &summary.topic, &summary.canonical_alias];
        texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&term))
    }
}

impl Rooms {
    pub async fn is_published(&self, room: &Room) -> Result<bool, StorageError> {
        directory::is_published(self.database(), room.nid).await
    }

    /// Lists the room in the directory, or takes it out.
    pub async fn publish(&self, room: &Room, published: bool) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        match published {
            true => directory::publish(&mut tx, room.nid),
            false => directory::withdraw(&mut tx, room.nid),
        }
        self.writer().commit(tx).await.map(drop)
    }

    /// The rooms behind (or before) a place, the largest first.
    pub async fn list_directory(
        &self,
        since: Option<DirectoryToken>,
        limit: usize,
        filter: &DirectoryFilter,
    ) -> Result<DirectoryPage, StorageError> {
        let from = since.unwrap_or(DirectoryToken::START);
        let mut place = from.place;
        let mut rooms = Vec::new();
        let (mut scanned, mut has_more) = (0, true);
        while has_more && rooms.len() <= limit && scanned < SCANNED_ROOMS_MAX {
            let rows = match from.backwards {
                false => directory::list_after(self.database(), place, STEP).await?,
                true => directory::list_before(self.database(), place, STEP).await?,
            };
            has_more = rows.len() == STEP;
            scanned += rows.len();
            if let Some(last) = rows.last() {
                place = DirectoryToken::at(last, false).place;
            }
            rooms.extend(rows.into_iter().filter(|row| filter.takes(row)));
        }
        let goes_on = rooms.len() > limit || has_more;
        rooms.truncate(limit);
        if from.backwards {
            rooms.reverse();
        }
        let behind = if from.backwards { true } else { goes_on };
        let before = if from.backwards { goes_on } else { since.is_some() };
        Ok(DirectoryPage {
            next: rooms.last().filter(|_| behind).map(|row| DirectoryToken::at(row, false)),
            prev: rooms.first().filter(|_| before).map(|row| DirectoryToken::at(row, true)),
            total: directory::count(self.database()).await?,
            rooms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back() {
        for backwards in [false, true] {
            let place = DirectoryPlace { joined_count: 17, room: RoomNid(4) };
            let token = DirectoryToken { backwards, place };
            assert_eq!(DirectoryToken::parse(&token.to_string()), Some(token));
        }
        for text in ["", "n", "x1_1", "n1", "n_1", "p1_", "é1_1"] {
            assert_eq!(DirectoryToken::parse(text), None, "{text}");
        }
    }
}
