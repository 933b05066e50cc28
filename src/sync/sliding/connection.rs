//! One connection: what its client was told, and what it may have been told by an answer that it
//! has not confirmed yet. Not for finding connections or keeping them (`connections`).

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{required_state::RoomConfig, sent_room::SentRoom};
use crate::storage::{
    RoomNid, StorageError, WriteTx,
    sliding::{self, ConnectionName, StoredConnection},
};

/// What a room of a connection takes in memory, roughly, and a connection beside its rooms.
const ROOM_BYTES: usize = 224;
const MEMBER_BYTES: usize = 24;
const CONNECTION_BYTES: usize = 1024;
const CONFIG_BYTES: usize = 1024;
/// Configs of rooms that are kept apart from the rooms that have them, so that equal ones are one.
const CONFIGS_MAX: usize = 64;

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    pub user_id: String,
    pub device_id: String,
    pub conn_id: String,
}

/// A connection in memory.
pub struct Connection {
    pub key: ConnectionKey,
    pub nid: i64,
    state: Mutex<ConnectionState>,
    /// Counts requests: an older one ends when a newer one begins.
    turn: AtomicU64,
    superseded: Notify,
}

/// What the client knows besides rooms: stream positions, 0 for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    pub account_data_upto: i64,
    pub device_lists_upto: i64,
    /// Of how many keys of the device were left.
    pub keys_hash: u64,
    pub thread_subscriptions_upto: i64,
    pub sticky_upto: i64,
}

pub type SentRooms = Arc<HashMap<RoomNid, SentRoom>>;

/// What was asked of rooms, each with the number by which rows of rooms name it.
pub type Configs = Vec<(i64, Arc<RoomConfig>)>;

struct ConnectionState {
    generation: i64,
    rooms: SentRooms,
    told: Told,
    /// An answer that went out and is not confirmed by a request with its position yet.
    offered: Option<Offer>,
    /// The latest generation given out.
    generation_max: i64,
    configs: Configs,
    unsaved: HashSet<RoomNid>,
    used_ms: u64,
    saved_used_ms: u64,
}

struct Offer {
    generation: i64,
    rooms: HashMap<RoomNid, SentRoom>,
    told: Told,
}

/// What a request builds upon.
pub struct Resumed {
    pub rooms: SentRooms,
    pub told: Told,
    /// See [`Connection::is_current`].
    pub turn: u64,
}

impl Connection {
    /// A connection that was told nothing.
    pub fn new(key: ConnectionKey, nid: i64, now_ms: u64) -> Self {
        let stored = StoredConnection {
            nid,
            generation: 0,
            configs: String::new(),
            told: String::new(),
            used_ms: 0,
        };
        let connection = Self::restore(key, stored, Vec::new(), Arc::default());
        connection.state.lock().used_ms = now_ms;
        connection
    }

    /// A connection that the store has, with its rooms.
    pub fn from_rows(
        key: ConnectionKey,
        stored: StoredConnection,
        rows: Vec<(RoomNid, String)>,
    ) -> Result<Self, StorageError> {
        let configs: Vec<(i64, RoomConfig)> = serde_json::from_str(&stored.configs)
            .map_err(|error| StorageError::Damaged(format!("a connection's configs: {error}")))?;
        let configs: Configs =
            configs.into_iter().map(|(number, config)| (number, Arc::new(config))).collect();
        let mut rooms = HashMap::with_capacity(rows.len());
        for (room, text) in rows {
            rooms.insert(room, SentRoom::from_text(&text, &configs)?);
        }
        Ok(Self::restore(key, stored, configs, Arc::new(rooms)))
    }

    fn restore(
        key: ConnectionKey,
        stored: StoredConnection,
        configs: Configs,
        rooms: SentRooms,
    ) -> Self {
        let used_ms = stored.used_ms.cast_unsigned();
        let state = ConnectionState {
            generation: stored.generation,
            rooms,
            told: serde_json::from_str(&stored.told).unwrap_or_default(),
            offered: None,
            generation_max: stored.generation,
            configs,
            unsaved: HashSet::new(),
            used_ms,
            saved_used_ms: used_ms,
        };
        let nid = stored.nid;
        Self { key, nid, state: Mutex::new(state), turn: 0.into(), superseded: Notify::new() }
    }

    /// Begins a request: what the client knows at this generation, which confirms the answer that
    /// had it or takes back the one after it; None when it is neither.
    pub fn resume(&self, generation: i64, now_ms: u64) -> Option<Resumed> {
        let mut state = self.state.lock();
        match state.offered.take() {
            Some(offer) if offer.generation == generation => state.confirm(offer),
            Some(offer) if state.generation == generation => {
                state.unsaved.extend(offer.rooms.into_keys());
            }
            offered if state.generation != generation => {
                state.offered = offered;
                return None;
            }
            _ => {}
        }
        state.used_ms = now_ms;
        let turn = self.supersede();
        Some(Resumed { rooms: Arc::clone(&state.rooms), told: state.told, turn })
    }

    /// Ends the request that waits; returns the turn of the next one.
    pub fn supersede(&self) -> u64 {
        let turn = self.turn.fetch_add(1, Ordering::AcqRel) + 1;
        self.superseded.notify_waiters();
        turn
    }

    /// What [`Connection::resume`] said, with what was noted since.
    pub fn look_again(&self, turn: u64) -> Resumed {
        let state = self.state.lock();
        Resumed { rooms: Arc::clone(&state.rooms), told: state.told, turn }
    }

    /// Whether no newer request has begun.
    pub fn is_current(&self, turn: u64) -> bool {
        self.turn.load(Ordering::Acquire) == turn
    }

    /// Resolves when a newer request begins after this call.
    pub fn superseded(&self) -> impl Future<Output = ()> + '_ {
        self.superseded.notified()
    }

    /// Notes what the answer tells; returns the generation that the client confirms it with, or
    /// None when a newer request has begun.
    pub fn offer(&self, turn: u64, rooms: HashMap<RoomNid, SentRoom>, told: Told) -> Option<i64> {
        let mut state = self.state.lock();
        if !self.is_current(turn) {
            return None;
        }
        state.generation_max += 1;
        let generation = state.generation_max;
        state.unsaved.extend(rooms.keys());
        state.offered = Some(Offer { generation, rooms, told });
        Some(generation)
    }

    /// Notes what is true of the client's knowledge without telling it anything. It is saved
    /// together with what is told later.
    pub fn note_silently(&self, turn: u64, rooms: HashMap<RoomNid, SentRoom>, told: Option<Told>) {
        let mut state = self.state.lock();
        if let Some(told) = told.filter(|_| self.is_current(turn)) {
            state.told = told;
        }
        if self.is_current(turn) && !rooms.is_empty() {
            state.unsaved.extend(rooms.keys());
            Arc::make_mut(&mut state.rooms).extend(rooms);
        }
    }

    /// The one of equal configs that the rooms of this connection share.
    pub fn intern(&self, config: RoomConfig) -> Arc<RoomConfig> {
        let mut state = self.state.lock();
        if let Some((_, known)) = state.configs.iter().find(|(_, known)| **known == config) {
            return Arc::clone(known);
        }
        if state.configs.len() >= CONFIGS_MAX {
            state.configs.retain(|(_, known)| Arc::strong_count(known) > 1);
        }
        let config = Arc::new(config);
        let number = state.configs.iter().map(|(number, _)| *number).max().unwrap_or(0) + 1;
        state.configs.push((number, Arc::clone(&config)));
        config
    }

    /// Whether there is something to save, or its use was noted longer ago than `used_ms_max`.
    pub fn must_save(&self, used_ms_max: u64) -> bool {
        let state = self.state.lock();
        !state.unsaved.is_empty() || state.used_ms > state.saved_used_ms + used_ms_max
    }

    /// When it was last used, milliseconds since the epoch.
    pub fn used_ms(&self) -> u64 {
        self.state.lock().used_ms
    }

    /// What it takes in memory, roughly.
    pub fn weight_bytes(&self) -> usize {
        let state = self.state.lock();
        let offered = state.offered.as_ref().map_or(0, |offer| offer.rooms.len());
        let members: usize = state.rooms.values().map(|sent| sent.members.len()).sum();
        CONNECTION_BYTES
            + ROOM_BYTES * (state.rooms.len() + offered)
            + MEMBER_BYTES * members
            + CONFIG_BYTES * state.configs.len()
    }

    /// Adds to a write what has changed since the last one: as if the last answer had arrived.
    pub fn save(&self, tx: &mut WriteTx) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let offer = state.offered.as_ref();
        for room in state.unsaved.drain() {
            let offered = offer.and_then(|offer| offer.rooms.get(&room));
            let Some(sent) = offered.or_else(|| state.rooms.get(&room)) else { continue };
            let config = state.configs.iter().find(|(_, config)| Arc::ptr_eq(config, &sent.config));
            if let Some((number, _)) = config {
                sliding::save_room(tx, self.nid, room, sent.to_text(*number));
            }
        }
        let told = offer.map_or(state.told, |offer| offer.told);
        let configs: Vec<(i64, &RoomConfig)> =
            state.configs.iter().map(|(number, config)| (*number, &**config)).collect();
        let stored = StoredConnection {
            nid: self.nid,
            generation: offer.map_or(state.generation, |offer| offer.generation),
            configs: serde_json::to_string(&configs).expect("texts and numbers are always JSON"),
            told: serde_json::to_string(&told).expect("numbers are always JSON"),
            used_ms: state.used_ms.cast_signed(),
        };
        state.saved_used_ms = state.used_ms;
        let ConnectionKey { user_id, device_id, conn_id } = &self.key;
        sliding::save_connection(tx, ConnectionName { user_id, device_id, conn_id }, &stored);
    }
}

impl ConnectionState {
    fn confirm(&mut self, offer: Offer) {
        self.generation = offer.generation;
        self.told = offer.told;
        if !offer.rooms.is_empty() {
            Arc::make_mut(&mut self.rooms).extend(offer.rooms);
        }
    }
}
