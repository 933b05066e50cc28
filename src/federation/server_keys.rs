//! The keys of other servers: from memory, from the database, from the servers themselves, and from
//! notaries where those do not answer (server-server API, "Retrieving server keys").

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, future, stream};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    key_document::{KeyDocument, to_text},
    peers::{PeerError, PeerRequest, Peers, path},
};
use crate::{
    cache_figures::CacheFigures,
    clock::Clock,
    outbound::Limits,
    protocol::{
        event_signatures::KeyLookup,
        room_version::RoomRules,
        signing::{VerifyKey, list_signature_key_ids, verify_json},
    },
    storage::{
        Database, StorageError, WriteTx, Writer,
        server_keys::{self, KeyAnswerRow, ServerKeyRow},
    },
};

/// Servers whose keys are kept in memory.
const CACHED_SERVERS_MAX: usize = 4096;
/// Servers that are asked for their keys at the same time for one purpose.
const FETCHES_AT_ONCE_MAX: usize = 32;
/// A server that did not help is asked again after this, doubled with every failure …
const RETRY_MS_MIN: u64 = 30 * 1000;
/// … up to this.
const RETRY_MS_MAX: u64 = 60 * 60 * 1000;
/// A server that answered, but not with the key, is not asked sooner than after this.
const REFETCH_MS_MIN: u64 = 60 * 1000;
const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body_bytes_max: 256 * 1024 };
/// Answers of notaries hold several documents.
const NOTARY_LIMITS: Limits = Limits { timeout: Duration::from_secs(15), body_bytes_max: 4 << 20 };

/// Finds keys. Clones share them.
#[derive(Clone)]
pub struct ServerKeys(Arc<Inner>);

struct Inner {
    peers: Peers,
    clock: Clock,
    database: Database,
    writer: Writer,
    notaries: Vec<OwnedServerName>,
    known: Cache<OwnedServerName, Arc<KnownKeys>>,
    attempts: Cache<OwnedServerName, Attempt>,
    fetching: Mutex<HashMap<OwnedServerName, Weak<tokio::sync::Mutex<()>>>>,
}

#[derive(Clone, Copy, Default)]
struct Attempt {
    at_ms: u64,
    failures: u32,
}

/// The keys of one server.
type KnownKeys = BTreeMap<String, KnownKey>;

/// A key, and when it signs.
#[derive(Clone, Debug)]
struct KnownKey {
    key: VerifyKey,
    valid_until_ts: i64,
    expired_ts: Option<i64>,
}

/// Keys that are wanted: a key of a server, for something that was signed at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WantedKey {
    pub server: OwnedServerName,
    pub key_id: String,
    /// Milliseconds since the epoch.
    pub signed_ts: i64,
}

/// Keys at hand, to check events with.
#[derive(Clone, Debug, Default)]
pub struct KeyRing(HashMap<OwnedServerName, Arc<KnownKeys>>);

/// A ring for events of one room version.
pub struct RoomKeys<'a> {
    ring: &'a KeyRing,
    rules: &'static RoomRules,
}

impl KnownKey {
    fn from_row(row: &ServerKeyRow) -> Option<Self> {
        let key = VerifyKey::from_base64(&row.public_key).ok()?;
        Some(Self { key, valid_until_ts: row.valid_until_ts, expired_ts: row.expired_ts })
    }

    /// Whether it may have signed at this time.
    fn signs_at(&self, ts: i64) -> bool {
        self.expired_ts.is_none_or(|expired_ts| ts < expired_ts)
    }

    /// Whether asking the server again could tell more about it.
    fn suffices(&self, ts: i64, now_ts: i64) -> bool {
        self.expired_ts.is_some() || self.valid_until_ts >= ts.min(now_ts)
    }
}

impl KeyRing {
    pub fn for_rules(&self, rules: &'static RoomRules) -> RoomKeys<'_> {
        RoomKeys { ring: self, rules }
    }
}

impl KeyLookup for RoomKeys<'_> {
    fn find(&self, server: &ServerName, key_id: &str, origin_server_ts: i64) -> Option<VerifyKey> {
        let known = self.ring.0.get(server)?.get(key_id)?;
        let is_valid = known.expired_ts.is_some()
            || known.valid_until_ts >= origin_server_ts
            || !self.rules.signing_key_validity;
        (known.signs_at(origin_server_ts) && is_valid).then(|| known.key.clone())
    }
}

impl ServerKeys {
    /// How well the cache does.
    pub fn cache_figures(&self) -> CacheFigures {
        CacheFigures::of("server_keys", &self.0.known)
    }

    pub fn new(
        peers: Peers,
        clock: Clock,
        (database, writer): (Database, Writer),
        notaries: Vec<OwnedServerName>,
    ) -> Self {
        Self(Arc::new(Inner {
            peers,
            clock,
            database,
            writer,
            notaries,
            known: Cache::new(CACHED_SERVERS_MAX),
            attempts: Cache::new(CACHED_SERVERS_MAX),
            fetching: Mutex::default(),
        }))
    }

    /// A key with which the server signs requests now.
    pub async fn find_current(
        &self,
        server: &ServerName,
        key_id: &str,
    ) -> Result<Option<VerifyKey>, StorageError> {
        let now_ts = self.0.clock.now_ms().cast_signed();
        let key_ids = BTreeMap::from([(key_id.to_owned(), now_ts)]);
        let known = self.load_keys(server.to_owned(), key_ids).await?;
        let key = known.get(key_id).filter(|key| key.signs_at(now_ts));
        Ok(key.filter(|key| key.valid_until_ts >= now_ts).map(|key| key.key.clone()))
    }

    /// Brings keys together; those that cannot be found are missing in the ring.
    pub async fn load_ring(
        &self,
        wanted: impl IntoIterator<Item = WantedKey>,
    ) -> Result<KeyRing, StorageError> {
        let mut by_server: BTreeMap<OwnedServerName, BTreeMap<String, i64>> = BTreeMap::new();
        for WantedKey { server, key_id, signed_ts } in wanted {
            let latest = by_server.entry(server).or_default().entry(key_id).or_insert(signed_ts);
            *latest = signed_ts.max(*latest);
        }
        let loads = by_server.into_iter().map(|(server, key_ids)| async move {
            Ok((server.clone(), self.load_keys(server, key_ids).await?))
        });
        let loaded: Vec<Result<_, StorageError>> =
            stream::iter(loads).buffer_unordered(FETCHES_AT_ONCE_MAX).collect().await;
        Ok(KeyRing(loaded.into_iter().collect::<Result<_, _>>()?))
    }

    /// The last signed document of a server, for a client of this notary: fetched when it does not
    /// reach to `minimum_valid_until_ts`, or is past half of its lifetime.
    pub async fn find_answer(
        &self,
        server: &ServerName,
        minimum_valid_until_ts: i64,
    ) -> Result<Option<String>, StorageError> {
        let now_ts = self.0.clock.now_ms().cast_signed();
        let stored = server_keys::find_answer(&self.0.database, server.as_str()).await?;
        if let Some(row) = &stored {
            let middle_ts = row.fetched_ts + (row.valid_until_ts - row.fetched_ts) / 2;
            if row.valid_until_ts >= minimum_valid_until_ts && now_ts < middle_ts {
                return Ok(stored.map(|row| row.answer));
            }
        }
        if self.fetch_directly(server).await?.is_some() {
            let row = server_keys::find_answer(&self.0.database, server.as_str()).await?;
            return Ok(row.map(|row| row.answer));
        }
        Ok(stored.map(|row| row.answer))
    }

    /// The server's keys, fetched when one of the wanted ones is missing or too old.
    async fn load_keys(
        &self,
        server: OwnedServerName,
        key_ids: BTreeMap<String, i64>,
    ) -> Result<Arc<KnownKeys>, StorageError> {
        if server == self.0.peers.server_name() {
            return Ok(Arc::new(self.own_keys()));
        }
        let now_ts = self.0.clock.now_ms().cast_signed();
        let has_all = |known: &KnownKeys| {
            let has = |(id, ts): (&String, &i64)| {
                known.get(id).is_some_and(|key| key.suffices(*ts, now_ts))
            };
            key_ids.iter().all(has)
        };
        let known = self.load_known(&server).await?;
        if has_all(&known) {
            return Ok(known);
        }
        // One at a time for one server: the others find what the first one has fetched.
        let lock = self.fetch_lock(&server);
        let _guard = lock.lock().await;
        let known = self.load_known(&server).await?;
        if has_all(&known) || !self.may_fetch(&server) {
            return Ok(known);
        }
        let direct = self.fetch_directly(&server).await?;
        let known = self.load_known(&server).await?;
        if direct.is_none() || !has_all(&known) {
            self.ask_notaries(&server, &key_ids).await?;
        }
        let known = self.load_known(&server).await?;
        self.note_attempt(&server, has_all(&known));
        Ok(known)
    }

    fn own_keys(&self) -> KnownKeys {
        let key = self.0.peers.signing_key();
        let current = (key.verify_key(), None);
        let old = self.0.peers.own_key().list_old().into_iter().filter_map(|row| {
            let key = VerifyKey::from_base64(&row.public_key).ok()?;
            Some((row.key_id, (key, Some(row.expired_ts))))
        });
        let known =
            |(id, (key, expired_ts))| (id, KnownKey { key, valid_until_ts: i64::MAX, expired_ts });
        old.chain([(key.key_id().to_owned(), current)]).map(known).collect()
    }

    async fn load_known(&self, server: &OwnedServerName) -> Result<Arc<KnownKeys>, StorageError> {
        if let Some(known) = self.0.known.get(server) {
            return Ok(known);
        }
        let rows = server_keys::list(&self.0.database, server.as_str()).await?;
        let keys =
            rows.iter().filter_map(|row| Some((row.key_id.clone(), KnownKey::from_row(row)?)));
        let known = Arc::new(keys.collect::<KnownKeys>());
        self.0.known.insert(server.clone(), Arc::clone(&known));
        Ok(known)
    }

    /// Asks the server itself; `None` when it gives no valid answer.
    async fn fetch_directly(&self, server: &ServerName) -> Result<Option<()>, StorageError> {
        let request =
            PeerRequest { limits: LIMITS, ..PeerRequest::get("/_matrix/key/v2/server".to_owned()) };
        let answer = self.0.peers.ask::<Map<String, Value>>(server, request).await;
        match answer {
            Ok(document) => self.take_document(server, document, true).await,
            Err(error) => {
                tracing::debug!(server.name = %server, %error, "a server does not tell its keys");
                Ok(None)
            }
        }
    }

    async fn take_document(
        &self,
        server: &ServerName,
        document: Map<String, Value>,
        is_direct: bool,
    ) -> Result<Option<()>, StorageError> {
        let now_ms = self.0.clock.now_ms();
        let checked = match KeyDocument::check(&document, server, now_ms) {
            Ok(checked) => checked,
            Err(error) => {
                tracing::debug!(server.name = %server, %error, "a document of keys is not valid");
                return Ok(None);
            }
        };
        let mut tx = WriteTx::new();
        let known = self.load_known(&server.to_owned()).await?;
        // Whoever hands keys on can add some that nobody else tells of, but not take any away.
        let is_trusted = |row: &ServerKeyRow| {
            let same =
                |key: &KnownKey| row.expired_ts.is_none() && key.key.to_base64() == row.public_key;
            is_direct || known.get(&row.key_id).is_none_or(same)
        };
        for row in checked.keys.iter().filter(|row| is_trusted(row)) {
            server_keys::save_key(&mut tx, server.as_str(), row);
        }
        // What a notary has handed on is not passed on as if it came from the server.
        if is_direct {
            let row = KeyAnswerRow {
                answer: to_text(document),
                fetched_ts: now_ms.cast_signed(),
                valid_until_ts: checked.valid_until_ts,
            };
            server_keys::save_answer(&mut tx, server.as_str(), &row);
        }
        self.0.writer.commit(tx).await?;
        self.0.known.remove(server);
        Ok(Some(()))
    }

    /// Asks all notaries at once.
    async fn ask_notaries(
        &self,
        server: &ServerName,
        key_ids: &BTreeMap<String, i64>,
    ) -> Result<(), StorageError> {
        let is_other =
            |notary: &&OwnedServerName| *notary != server && *notary != self.0.peers.server_name();
        let notaries = self.0.notaries.iter().filter(is_other);
        let asked = notaries.map(|notary| self.ask_notary(notary, server, key_ids));
        for result in future::join_all(asked).await {
            match result {
                Ok(documents) => {
                    for document in documents {
                        self.take_document(server, document, false).await?;
                    }
                }
                Err(error) => tracing::debug!(%error, "a notary does not help"),
            }
        }
        Ok(())
    }

    /// Documents of `server` that the notary has signed.
    async fn ask_notary(
        &self,
        notary: &ServerName,
        server: &ServerName,
        key_ids: &BTreeMap<String, i64>,
    ) -> Result<Vec<Map<String, Value>>, PeerError> {
        #[derive(Deserialize)]
        struct Answer {
            server_keys: Vec<Map<String, Value>>,
        }
        let criteria: Map<String, Value> = key_ids
            .iter()
            .map(|(id, ts)| (id.clone(), json!({ "minimum_valid_until_ts": ts })))
            .collect();
        let body = json!({ "server_keys": { server.as_str(): criteria } });
        let query = path("/_matrix/key/v2/query", [], &[]);
        let request = PeerRequest { limits: NOTARY_LIMITS, ..PeerRequest::post(query, &body) };
        let Answer { server_keys } = self.0.peers.ask(notary, request).await?;
        let key_ids: BTreeSet<String> = server_keys
            .iter()
            .flat_map(|document| list_signature_key_ids(document, notary.as_str()))
            .map(str::to_owned)
            .collect();
        let keys = self.load_notary_keys(notary, &key_ids).await;
        let is_vouched = |document: &Map<String, Value>| {
            keys.iter().any(|(id, key)| verify_json(document, notary.as_str(), id, key).is_ok())
        };
        Ok(server_keys.into_iter().filter(is_vouched).collect())
    }

    /// A notary's own keys come from itself.
    async fn load_notary_keys(
        &self,
        notary: &ServerName,
        key_ids: &BTreeSet<String>,
    ) -> Vec<(String, VerifyKey)> {
        let load = async || -> Result<Arc<KnownKeys>, StorageError> {
            let now_ts = self.0.clock.now_ms().cast_signed();
            let known = self.load_known(&notary.to_owned()).await?;
            let is_fresh =
                |id: &String| known.get(id).is_some_and(|key| key.suffices(now_ts, now_ts));
            if !key_ids.iter().all(is_fresh) {
                self.fetch_directly(notary).await?;
            }
            self.load_known(&notary.to_owned()).await
        };
        let known = load().await.unwrap_or_default();
        let key = |id: &String| Some((id.clone(), known.get(id)?.key.clone()));
        key_ids.iter().filter_map(key).collect()
    }

    fn fetch_lock(&self, server: &OwnedServerName) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.0.fetching.lock();
        if let Some(lock) = fetching.get(server).and_then(Weak::upgrade) {
            return lock;
        }
        fetching.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        fetching.insert(server.clone(), Arc::downgrade(&lock));
        lock
    }

    fn may_fetch(&self, server: &OwnedServerName) -> bool {
        let Some(attempt) = self.0.attempts.get(server) else { return true };
        let pause_ms = match attempt.failures {
            0 => REFETCH_MS_MIN,
            failures => (RETRY_MS_MIN << (failures - 1).min(10)).min(RETRY_MS_MAX),
        };
        self.0.clock.now_ms() >= attempt.at_ms + pause_ms
    }

    fn note_attempt(&self, server: &OwnedServerName, has_helped: bool) {
        let before = self.0.attempts.get(server).unwrap_or_default();
        let failures = if has_helped { 0 } else { before.failures + 1 };
        self.0.attempts.insert(server.clone(), Attempt { at_ms: self.0.clock.now_ms(), failures });
    }
}
