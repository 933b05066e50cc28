//! One row of a state in memory: what changed since its parent. Finds single keys without the whole state being
//! put together.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter, sync::Cache};

use super::registry::Engine;
use crate::storage::{
    self, EventNid, StateKeyNid, StateNid, StorageError,
    snapshots::{DeltaReader, SnapshotRow},
};

/// Pairs between two entries of a snapshot's index.
const INDEX_STEP: usize = 64;
/// Snapshots of at least so many bytes get an index.
const INDEXED_BYTES_MIN: usize = 2048;
/// What a snapshot costs beside its delta and index, bytes.
const ENTRY_BYTES: usize = 128;
/// Snapshots that one query reads.
const READ_STEP: usize = 100;

/// What changed since the parent; the pairs are sorted by key.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub nid: StateNid,
    pub parent: StateNid,
    pub height: i64,
    pub delta: Vec<u8>,
    /// Every [`INDEX_STEP`]th key, and where it stands.
    index: OnceLock<Vec<(StateKeyNid, usize)>>,
}

impl Snapshot {
    pub fn new(row: SnapshotRow) -> Self {
        let SnapshotRow { nid, parent, height, delta } = row;
        Self { nid, parent, height, delta, index: OnceLock::new() }
    }

    /// What the delta says of a key, if it says anything; 0 for a key that was removed.
    pub fn find(&self, key: StateKeyNid) -> Result<Option<EventNid>, StorageError> {
        let start = match self.delta.len() < INDEXED_BYTES_MIN {
            true => 0,
            false => {
                let index = self.index.get_or_init(|| index_of(&self.delta));
                let behind = index.partition_point(|(known, _)| *known <= key);
                behind.checked_sub(1).map_or(0, |at| index[at].1)
            }
        };
        for pair in DeltaReader::new(&self.delta[start..]) {
            let (known, event) = pair?;
            if known >= key {
                return Ok((known == key).then_some(event));
            }
        }
        Ok(None)
    }
}

/// What cannot be read ends the index; whoever gets there hears of it.
fn index_of(delta: &[u8]) -> Vec<(StateKeyNid, usize)> {
    let mut reader = DeltaReader::new(delta);
    let mut index = Vec::with_capacity(delta.len() / 6 / INDEX_STEP + 1);
    for number in 0.. {
        let at = delta.len() - reader.rest().len();
        match reader.next() {
            Some(Ok((key, _))) if number % INDEX_STEP == 0 => index.push((key, at)),
            Some(Ok(_)) => {}
            _ => break,
        }
    }
    index
}

#[derive(Clone)]
pub(super) struct SnapshotWeighter;

impl Weighter<StateNid, Arc<Snapshot>> for SnapshotWeighter {
    fn weight(&self, _: &StateNid, snapshot: &Arc<Snapshot>) -> u64 {
        let index = snapshot.delta.len() / 6 / INDEX_STEP * 16;
        (snapshot.delta.len() + index + ENTRY_BYTES) as u64
    }
}

/// Snapshots in memory.
pub(super) type SnapshotCache = Cache<StateNid, Arc<Snapshot>, SnapshotWeighter>;

/// A cache of few big things: in one part, so that one thing may take most of it.
pub(super) fn undivided<K, V, W>(items: usize, bytes: u64, weighter: W) -> Cache<K, V, W>
where
    K: Eq + std::hash::Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let options = OptionsBuilder::new()
        .estimated_items_capacity(items)
        .weight_capacity(bytes)
        .shards(1)
        .build()
        .expect("both capacities are given");
    let (hashes, lifecycle) = (DefaultHashBuilder::default(), Default::default());
    Cache::with_options(options, weighter, hashes, lifecycle)
}

impl Engine {
    /// The rows that make up a state, from the oldest to `nid` itself. What lies in memory is not read
    /// again: states share most of their rows.
    pub async fn load_snapshots(&self, nid: StateNid) -> Result<Vec<Arc<Snapshot>>, StorageError> {
        let mut chain = Vec::new();
        let mut next = nid;
        while next != StateNid::EMPTY {
            if let Some(snapshot) = self.snapshots.get(&next) {
                next = snapshot.parent;
                chain.push(snapshot);
                continue;
            }
            let nids = storage::snapshots::list_lineage(&self.database, next).await?;
            let unknown: Vec<StateNid> =
                nids.iter().copied().filter(|nid| self.snapshots.peek(nid).is_none()).collect();
            let mut read = self.read_snapshots(&unknown).await?;
            for nid in nids {
                let known = read.remove(&nid).or_else(|| self.snapshots.get(&nid));
                let snapshot = match known {
                    Some(snapshot) => snapshot,
                    // Evicted since it was looked for.
                    None => {
                        self.read_snapshots(&[nid]).await?.remove(&nid).ok_or_else(|| lost(nid))?
                    }
                };
                chain.push(snapshot);
            }
            break;
        }
        if chain.last().is_some_and(|root| root.parent != StateNid::EMPTY)
            || nid.0 != 0 && chain.is_empty()
        {
            return Err(lost(nid));
        }
        chain.reverse();
        Ok(chain)
    }

    /// Reads the rows that make up states into memory, for all of these at once.
    pub async fn warm_snapshots(&self, nids: &[StateNid]) -> Result<(), StorageError> {
        let is_unknown = |nid: &StateNid| self.snapshots.peek(nid).is_none();
        let unknown: Vec<StateNid> = nids.iter().copied().filter(is_unknown).collect();
        let lineages = storage::snapshots::list_lineages(&self.database, &unknown).await?;
        let unknown: Vec<StateNid> = lineages.into_iter().filter(is_unknown).collect();
        self.read_snapshots(&unknown).await.map(drop)
    }

    async fn read_snapshots(
        &self,
        nids: &[StateNid],
    ) -> Result<HashMap<StateNid, Arc<Snapshot>>, StorageError> {
        let mut read = HashMap::with_capacity(nids.len());
        for chunk in nids.chunks(READ_STEP) {
            for row in storage::snapshots::list(&self.database, chunk).await? {
                let snapshot = Arc::new(Snapshot::new(row));
                self.snapshots.insert(snapshot.nid, Arc::clone(&snapshot));
                read.insert(snapshot.nid, snapshot);
            }
        }
        Ok(read)
    }

    /// The events that hold these keys in a state of the store, in their order.
    pub async fn find_in_stored(
        &self,
        nid: StateNid,
        keys: &[StateKeyNid],
    ) -> Result<Vec<Option<EventNid>>, StorageError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(state) = self.states.get(&nid) {
            return Ok(keys.iter().map(|key| state.get(*key)).collect());
        }
        let chain = self.load_snapshots(nid).await?;
        keys.iter().map(|key| find_in_chain(&chain, *key)).collect()
    }
}

fn find_in_chain(
    chain: &[Arc<Snapshot>],
    key: StateKeyNid,
) -> Result<Option<EventNid>, StorageError> {
    for snapshot in chain.iter().rev() {
        if let Some(event) = snapshot.find(key)? {
            return Ok(Some(event).filter(|event| event.0 != 0));
        }
    }
    Ok(None)
}

fn lost(nid: StateNid) -> StorageError {
    StorageError::Damaged(format!("state snapshot {} is missing", nid.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::snapshots::encode_delta;

    #[test]
    fn every_key_is_found_and_no_other() {
        for count in [1, 63, 64, 65, 5000] {
            let pairs: Vec<_> = (1..=count).map(|n| (StateKeyNid(n * 3), EventNid(n))).collect();
            let row = SnapshotRow {
                nid: StateNid(1),
                parent: StateNid::EMPTY,
                height: 1,
                delta: encode_delta(&pairs),
            };
            let snapshot = Snapshot::new(row);
            for (key, event) in pairs {
                assert_eq!(snapshot.find(key).expect("is whole"), Some(event));
                let absent = StateKeyNid(key.0 + 1);
                assert_eq!(snapshot.find(absent).expect("is whole"), None);
            }
            assert_eq!(snapshot.find(StateKeyNid(1)).expect("is whole"), None);
        }
    }
}
