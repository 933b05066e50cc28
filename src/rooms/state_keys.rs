//! Numbers for pairs of event type and state key, given out in memory and written with the
//! first event that needs them.

use std::{
    collections::HashMap,
    convert::Infallible,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use quick_cache::{Weighter, sync::Cache};

use crate::{
    cache_figures::CacheFigures,
    storage::{self, Database, StateKeyNid, StorageError, UserNid, WriteTx},
};

/// What a cached pair costs beside its text, bytes.
const ENTRY_BYTES: u64 = 160;

/// Pairs looked up by one query.
const PRELOAD_STEP: usize = 500;

/// The type of membership events.
pub const MEMBER: &str = "m.room.member";

/// A pair and its number.
#[derive(Debug)]
pub struct StateKey {
    pub nid: StateKeyNid,
    pub kind: Box<str>,
    pub state_key: Box<str>,
    /// Whether somebody uses the number. Until then it says that the pair is not in the database.
    given: AtomicBool,
    /// Whether the row is known to be committed.
    stored: AtomicBool,
    unstored: Arc<Unstored>,
}

/// Numbers that were given out and are not committed yet. They must be found while anybody holds
/// them, whatever the cache throws out, since one pair must not get two numbers.
#[derive(Debug, Default)]
struct Unstored {
    keys: Mutex<HashMap<Pair, Weak<StateKey>>>,
    /// One rises with every number that commits: what the database was not found to hold before,
    /// it may hold now. Many, each for some of the pairs, so that few look twice.
    epochs: [AtomicU64; EPOCHS],
}

/// Epochs that pairs are spread over.
const EPOCHS: usize = 32;

type Pair = (Box<str>, Box<str>);

#[derive(Clone)]
struct PairWeighter;

impl Weighter<Pair, Arc<StateKey>> for PairWeighter {
    fn weight(&self, (kind, state_key): &Pair, _: &Arc<StateKey>) -> u64 {
        ENTRY_BYTES + 2 * (kind.len() + state_key.len()) as u64
    }
}

/// All pairs, as far as they are in use. Clones share them.
#[derive(Clone)]
pub struct StateKeys {
    database: Database,
    known: Arc<Cache<Pair, Arc<StateKey>, PairWeighter>>,
    unstored: Arc<Unstored>,
    next: Arc<AtomicI64>,
}

/// The pair as the cache looks it up, without copying it.
#[derive(Hash, PartialEq, Eq)]
struct PairRef<'a>(&'a str, &'a str);

impl quick_cache::Equivalent<Pair> for PairRef<'_> {
    fn equivalent(&self, (kind, state_key): &Pair) -> bool {
        self.0 == &**kind && self.1 == &**state_key
    }
}

impl StateKeys {
    pub fn cache_figures(&self) -> CacheFigures {
        CacheFigures::of("state_keys", &self.known)
    }

    /// `memory_bytes` bounds the cache.
    pub async fn load(database: Database, memory_bytes: u64) -> Result<Self, StorageError> {
        let newest = storage::state_keys::load_newest(&database).await?;
        let estimate = (memory_bytes / ENTRY_BYTES).max(64) as usize;
        let known = Arc::new(Cache::with_weighter(estimate, memory_bytes, PairWeighter));
        // Numbers rise by two, so that the lowest bit can tell memberships.
        let next = Arc::new(AtomicI64::new((newest.0 | 1) + 1));
        Ok(Self { database, known, unstored: Arc::default(), next })
    }

    /// The number of a pair that has one.
    pub async fn find(
        &self,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StateKey>>, StorageError> {
        let epoch = self.unstored.epoch(kind, state_key);
        let key = self.look_up(kind, state_key, epoch).await?;
        Ok(key.filter(|key| key.given.load(Ordering::Acquire)))
    }

    /// The number of a pair that was looked up not long ago; never reads the database.
    pub fn find_cached(&self, kind: &str, state_key: &str) -> Option<Arc<StateKey>> {
        let key = self.known.get(&PairRef(kind, state_key));
        key.filter(|key| key.given.load(Ordering::Acquire))
    }

    /// The number of a pair, a new one if need be; see [`StateKey::store`].
    pub async fn intern(&self, kind: &str, state_key: &str) -> Result<Arc<StateKey>, StorageError> {
        loop {
            let epoch = self.unstored.epoch(kind, state_key);
            if let Some(key) = self.look_up(kind, state_key, epoch).await?
                && let Some(given) = self.unstored.give(key, epoch)
            {
                return Ok(given);
            }
        }
    }

    /// The number of a user's membership, which stands for the user.
    pub async fn find_user(&self, user: &str) -> Result<Option<UserNid>, StorageError> {
        Ok(self.find(MEMBER, user).await?.map(|key| key.nid))
    }

    /// What is known of a pair, which may be that nobody has used it (a number that is not given
    /// to anybody). `None` when numbers committed meanwhile, so that nobody knows.
    async fn look_up(
        &self,
        kind: &str,
        state_key: &str,
        epoch: u64,
    ) -> Result<Option<Arc<StateKey>>, StorageError> {
        let pair = PairRef(kind, state_key);
        if let Some(known) = self.known.get(&pair).or_else(|| self.unstored.get(kind, state_key)) {
            return Ok(Some(known));
        }
        let found = storage::state_keys::find(&self.database, kind, state_key).await?;
        if found.is_none() && self.unstored.epoch(kind, state_key) != epoch {
            return Ok(None);
        }
        Ok(Some(self.remember(kind, state_key, found)))
    }

    /// Looks many pairs up together, so that [`StateKeys::intern`] finds them at hand.
    pub(super) async fn preload(&self, pairs: &[(&str, &str)]) -> Result<(), StorageError> {
        let is_unknown = |(kind, state_key): &&(&str, &str)| {
            self.known.peek(&PairRef(kind, state_key)).is_none()
                && self.unstored.get(kind, state_key).is_none()
        };
        let unknown: Vec<_> = pairs.iter().filter(is_unknown).copied().collect();
        for chunk in unknown.chunks(PRELOAD_STEP) {
            let epochs: Vec<_> = chunk.iter().map(|(k, s)| self.unstored.epoch(k, s)).collect();
            let rows = storage::state_keys::list(&self.database, chunk).await?;
            let rows: HashMap<(&[u8], &[u8]), StateKeyNid> =
                rows.iter().map(|(nid, kind, key)| ((&**kind, &**key), *nid)).collect();
            for ((kind, state_key), epoch) in chunk.iter().zip(epochs) {
                let found = rows.get(&(kind.as_bytes(), state_key.as_bytes())).copied();
                if found.is_some() || self.unstored.epoch(kind, state_key) == epoch {
                    self.remember(kind, state_key, found);
                }
            }
        }
        Ok(())
    }

    /// Keeps what the database holds of a pair; the first of several that were made at once stays.
    fn remember(&self, kind: &str, state_key: &str, found: Option<StateKeyNid>) -> Arc<StateKey> {
        let make = || {
            let fresh = || self.next.fetch_add(2, Ordering::Relaxed) + i64::from(kind == MEMBER);
            let key = StateKey {
                nid: found.unwrap_or_else(|| StateKeyNid(fresh())),
                kind: kind.into(),
                state_key: state_key.into(),
                given: found.is_some().into(),
                stored: found.is_some().into(),
                unstored: Arc::clone(&self.unstored),
            };
            Ok::<_, Infallible>(Arc::new(key))
        };
        let pair = (Box::from(kind), Box::from(state_key));
        let Ok(key) = self.known.get_or_insert_with(&pair, make);
        key
    }
}

impl Unstored {
    fn epoch(&self, kind: &str, state_key: &str) -> u64 {
        self.epoch_of(kind, state_key).load(Ordering::SeqCst)
    }

    fn epoch_of(&self, kind: &str, state_key: &str) -> &AtomicU64 {
        let mut hasher = DefaultHasher::new();
        (kind, state_key).hash(&mut hasher);
        &self.epochs[hasher.finish() as usize % EPOCHS]
    }

    fn get(&self, kind: &str, state_key: &str) -> Option<Arc<StateKey>> {
        let pair = (Box::from(kind), Box::from(state_key));
        self.keys.lock().get(&pair).and_then(Weak::upgrade)
    }

    /// Gives a number to whoever asks first, and the same one to all others. `None` when the
    /// database may hold another one since `epoch`.
    fn give(&self, key: Arc<StateKey>, epoch: u64) -> Option<Arc<StateKey>> {
        if key.given.load(Ordering::Acquire) {
            return Some(key);
        }
        let mut keys = self.keys.lock();
        let pair = (key.kind.clone(), key.state_key.clone());
        if let Some(given) = keys.get(&pair).and_then(Weak::upgrade) {
            return Some(given);
        }
        if self.epoch(&key.kind, &key.state_key) != epoch {
            return None;
        }
        if keys.len() == keys.capacity() {
            keys.retain(|_, key| key.strong_count() > 0);
        }
        keys.insert(pair, Arc::downgrade(&key));
        key.given.store(true, Ordering::Release);
        Some(key)
    }

    fn note_stored(&self, key: &StateKey) {
        let mut keys = self.keys.lock();
        self.epoch_of(&key.kind, &key.state_key).fetch_add(1, Ordering::SeqCst);
        keys.remove(&(key.kind.clone(), key.state_key.clone()));
    }
}

impl StateKey {
    /// Adds the row to a write that needs it, unless it is committed already.
    pub fn store(self: &Arc<Self>, tx: &mut WriteTx) {
        if self.stored.load(Ordering::Acquire) {
            return;
        }
        storage::state_keys::insert(tx, self.nid, &self.kind, &self.state_key);
        let key = Arc::clone(self);
        tx.after_commit(move |_| {
            if !key.stored.swap(true, Ordering::AcqRel) {
                key.unstored.note_stored(&key);
            }
        });
    }
}
