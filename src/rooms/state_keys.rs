//! Numbers for pairs of event type and state key, given out in memory and written with the
//! first event that needs them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use quick_cache::{Weighter, sync::Cache};

use crate::storage::{self, Database, StateKeyNid, StorageError, UserNid, WriteTx};

/// What a cached pair costs beside its text, bytes.
const ENTRY_BYTES: u64 = 160;

/// The type of membership events.
pub const MEMBER: &str = "m.room.member";

/// A pair and its number.
#[derive(Debug)]
pub struct StateKey {
    pub nid: StateKeyNid,
    pub kind: Box<str>,
    pub state_key: Box<str>,
    /// Whether the row is known to be committed.
    stored: AtomicBool,
}

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
    /// `memory_bytes` bounds the cache.
    pub async fn load(database: Database, memory_bytes: u64) -> Result<Self, StorageError> {
        let newest = storage::state_keys::load_newest(&database).await?;
        let estimate = (memory_bytes / ENTRY_BYTES).max(64) as usize;
        let known = Arc::new(Cache::with_weighter(estimate, memory_bytes, PairWeighter));
        // Numbers rise by two, so that the lowest bit can tell memberships.
        Ok(Self { database, known, next: Arc::new(AtomicI64::new((newest.0 | 1) + 1)) })
    }

    /// The number of a pair that has one.
    pub async fn find(
        &self,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StateKey>>, StorageError> {
        if let Some(known) = self.known.get(&PairRef(kind, state_key)) {
            return Ok(Some(known));
        }
        let found = storage::state_keys::find(&self.database, kind, state_key).await?;
        Ok(match found {
            Some(nid) => Some(self.remember(nid, kind, state_key, true).await),
            None => None,
        })
    }

    /// The number of a pair that was looked up not long ago; never reads the database.
    pub fn find_cached(&self, kind: &str, state_key: &str) -> Option<Arc<StateKey>> {
        self.known.get(&PairRef(kind, state_key))
    }

    /// The number of a pair, a new one if need be; see [`StateKey::store`].
    pub async fn intern(&self, kind: &str, state_key: &str) -> Result<Arc<StateKey>, StorageError> {
        if let Some(known) = self.find(kind, state_key).await? {
            return Ok(known);
        }
        let nid = self.next.fetch_add(2, Ordering::Relaxed) + i64::from(kind == MEMBER);
        Ok(self.remember(StateKeyNid(nid), kind, state_key, false).await)
    }

    /// The number of a user's membership, which stands for the user.
    pub async fn find_user(&self, user: &str) -> Result<Option<UserNid>, StorageError> {
        Ok(self.find(MEMBER, user).await?.map(|key| key.nid))
    }

    /// Keeps the first of several that were made at once.
    async fn remember(
        &self,
        nid: StateKeyNid,
        kind: &str,
        state_key: &str,
        stored: bool,
    ) -> Arc<StateKey> {
        let pair = (Box::from(kind), Box::from(state_key));
        let made = async {
            let (kind, state_key) = (Box::from(kind), Box::from(state_key));
            Ok::<_, ()>(Arc::new(StateKey { nid, kind, state_key, stored: stored.into() }))
        };
        self.known.get_or_insert_async(&pair, made).await.expect("making it cannot fail")
    }
}

impl StateKey {
    /// Adds the row to a write that needs it, unless it is committed already.
    pub fn store(self: &Arc<Self>, tx: &mut WriteTx) {
        if self.stored.load(Ordering::Acquire) {
            return;
        }
        storage::state_keys::insert(tx, self.nid, &self.kind, &self.state_key);
        let stored = Arc::clone(self);
        tx.after_commit(move |_| stored.stored.store(true, Ordering::Release));
    }
}
