//! A request as its JSON has it (MSC4186 as clients of the unstable endpoint write it).

use std::{collections::BTreeMap, time::Duration};

use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Deserializer};

use super::Position;

/// Lists of one request (MSC4186, "Request Body").
pub const LISTS_MAX: usize = 100;
/// Bytes of a list's name.
const LIST_NAME_BYTES_MAX: usize = 64;
/// Subscriptions of one request: ten times what MSC4186 asks of clients of the stable endpoint.
const SUBSCRIPTIONS_MAX: usize = 1_000;
/// Pairs of one `required_state`.
const REQUIRED_STATE_MAX: usize = 1_000;
/// Ranges of one list; MSC4186 has one.
const RANGES_MAX: usize = 100;
/// Bytes of a connection's name.
const CONN_ID_BYTES_MAX: usize = 255;

/// One request, parsed.
#[derive(Clone, Debug)]
pub struct SlidingRequest {
    pub user_id: OwnedUserId,
    pub device_id: String,
    /// None begins a new connection.
    pub pos: Option<Position>,
    pub timeout: Duration,
    pub body: SlidingBody,
}

/// The body of a request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SlidingBody {
    #[serde(deserialize_with = "null_is_default")]
    pub conn_id: String,
    pub txn_id: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub lists: BTreeMap<String, ListRequest>,
    /// By room ID; what is none names no room.
    #[serde(deserialize_with = "null_is_default")]
    pub room_subscriptions: BTreeMap<String, RoomRequest>,
    #[serde(deserialize_with = "null_is_default")]
    pub extensions: Extensions,
}

/// A list: rooms that pass the filters, of which the ranges are looked at.
#[derive(Clone, Debug, Deserialize)]
pub struct ListRequest {
    /// First and last place, from 0. None, or none at all: the whole list.
    #[serde(default)]
    pub ranges: Option<Vec<(u64, u64)>>,
    #[serde(default)]
    pub slow_get_all_rooms: Option<bool>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub filters: Filters,
    #[serde(flatten)]
    pub room: RoomRequest,
}

/// What is wanted of a room.
#[derive(Clone, Debug, Deserialize)]
pub struct RoomRequest {
    #[serde(default)]
    pub required_state: Vec<(String, String)>,
    pub timeline_limit: u64,
}

/// Which rooms a list holds; what is absent passes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Filters {
    pub is_dm: Option<bool>,
    pub spaces: Option<Vec<OwnedRoomId>>,
    pub is_encrypted: Option<bool>,
    #[serde(alias = "is_invited")]
    pub is_invite: Option<bool>,
    pub room_types: Option<Vec<Option<String>>>,
    pub not_room_types: Option<Vec<Option<String>>>,
    pub room_name_like: Option<String>,
    pub tags: Option<Vec<String>>,
    pub not_tags: Option<Vec<String>>,
}

/// What is wanted beside the rooms. Unknown extensions are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Extensions {
    pub to_device: Option<ToDevice>,
    pub e2ee: Option<Switch>,
    pub account_data: Option<RoomExtension>,
    pub receipts: Option<RoomExtension>,
    pub typing: Option<RoomExtension>,
    #[serde(rename = "io.element.msc4308.thread_subscriptions")]
    pub thread_subscriptions: Option<ThreadSubscriptions>,
    #[serde(rename = "org.matrix.msc4354.sticky_events")]
    pub sticky_events: Option<StickyEvents>,
}

/// An extension without parameters.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Switch {
    pub enabled: Option<bool>,
}

/// Messages to this device (MSC3885).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToDevice {
    pub enabled: Option<bool>,
    pub limit: Option<u64>,
    /// `next_batch` of an earlier answer: what is older has arrived.
    pub since: Option<String>,
}

/// Changes of subscriptions to threads (MSC4308).
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ThreadSubscriptions {
    pub enabled: Option<bool>,
    pub limit: Option<u64>,
}

/// Events that stick to rooms (MSC4480).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StickyEvents {
    pub enabled: Option<bool>,
    pub limit: Option<u64>,
    /// `next_batch` of an earlier answer: what is older has arrived.
    pub since: Option<String>,
}

/// An extension that follows rooms (MSC3959, MSC3960, MSC3961, MSC4508): those of the named lists'
/// ranges and of the named subscriptions, of all when absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomExtension {
    enabled: Option<bool>,
    lists: Option<Vec<String>>,
    rooms: Option<Vec<String>>,
}

impl SlidingBody {
    /// A sentence about what is wrong, if something is.
    pub fn find_problem(&self) -> Option<&'static str> {
        if self.conn_id.len() > CONN_ID_BYTES_MAX {
            return Some("`conn_id` is too long.");
        }
        if self.lists.len() > LISTS_MAX {
            return Some("There are more than 100 lists.");
        }
        if self.lists.keys().any(|name| name.len() > LIST_NAME_BYTES_MAX) {
            return Some("The name of a list is longer than 64 bytes.");
        }
        if self.room_subscriptions.len() > SUBSCRIPTIONS_MAX {
            return Some("There are too many room subscriptions.");
        }
        let rooms = self.lists.values().map(|list| &list.room);
        let mut rooms = rooms.chain(self.room_subscriptions.values());
        if rooms.any(|room| room.required_state.len() > REQUIRED_STATE_MAX) {
            return Some("A `required_state` has too many entries.");
        }
        if self.extensions.to_device.as_ref().is_some_and(|one| one.seen_upto().is_none()) {
            return Some("`since` of `to_device` is no token of mine.");
        }
        let sticky = self.extensions.sticky_events.as_ref();
        if sticky.is_some_and(|one| one.since.is_some() && one.since_position().is_none()) {
            return Some("`since` of the sticky events is no token of mine.");
        }
        let mut ranges = self.lists.values().filter_map(|list| list.ranges.as_ref());
        if ranges.any(|ranges| ranges.len() > RANGES_MAX || ranges.iter().any(|(a, b)| a > b)) {
            return Some("A list's `ranges` end before they begin, or are too many.");
        }
        None
    }
}

impl ToDevice {
    /// The position up to which the device has its messages; None for a token that is not ours.
    pub fn seen_upto(&self) -> Option<i64> {
        let Some(since) = &self.since else { return Some(0) };
        since.parse().ok().filter(|position| *position >= 0)
    }
}

impl StickyEvents {
    /// The position up to which the client has its events, if it says so; None for a token that is not ours.
    pub fn since_position(&self) -> Option<i64> {
        self.since.as_ref()?.parse().ok().filter(|position| *position >= 0)
    }
}

impl ListRequest {
    /// Whether the place in the list is looked at.
    pub fn covers(&self, place: usize) -> bool {
        let all = self.slow_get_all_rooms == Some(true);
        let ranges = self.ranges.as_deref().filter(|ranges| !all && !ranges.is_empty());
        let within = |(first, last): &(u64, u64)| (*first..=*last).contains(&(place as u64));
        ranges.is_none_or(|ranges| ranges.iter().any(within))
    }
}

impl RoomExtension {
    pub fn is_enabled(&self) -> bool {
        self.enabled == Some(true)
    }

    /// Whether the extension follows a room that is in these lists' ranges, or subscribed to.
    pub fn follows(&self, room_id: &str, lists: &[&str], is_subscribed: bool) -> bool {
        let named = |names: &Option<Vec<String>>, name: &str| {
            names.as_ref().is_none_or(|names| names.iter().any(|one| one == "*" || one == name))
        };
        lists.iter().any(|list| named(&self.lists, list))
            || is_subscribed && named(&self.rooms, room_id)
    }
}

/// Some clients write `null` for what they do not want.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
