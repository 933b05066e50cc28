//! The state of a room at one point: a persistent map in memory, a chain of deltas on disk.
//!
//! The chain of a state after n changes has the shape of a Fenwick tree (Fenwick 1994): the
//! snapshot at height h holds the changes since h less its lowest set bit. Reading takes
//! O(log n) rows, and writing an amortised O(log n) pairs a change.

use std::sync::Arc;

use super::{
    recent::{NO_EVENT, StateChange},
    snapshot::Snapshot,
};
use crate::storage::{
    EventNid, StateKeyNid, StateNid, StorageError, WriteTx,
    snapshots::{self, DeltaReader, SnapshotRow},
};

/// State keys and the events that hold them. Clones share structure.
pub(super) type StateMap = imbl::OrdMap<StateKeyNid, EventNid>;

/// In a delta: the key has no event any more.
const REMOVED: EventNid = EventNid(0);

/// What a delta says of a key.
type Pair = (StateKeyNid, EventNid);

/// One difference between two states: the key, and its event in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub key: StateKeyNid,
    pub old: Option<EventNid>,
    pub new: Option<EventNid>,
}

impl Difference {
    /// The change as it is told.
    pub fn told(&self) -> StateChange {
        (self.key, self.new.unwrap_or(NO_EVENT))
    }
}

/// Which event holds each state key. Clones share structure.
#[derive(Clone, Debug, Default)]
pub struct State {
    map: StateMap,
    /// The snapshots from the root to here, by rising height.
    chain: Vec<Arc<Snapshot>>,
}

impl State {
    /// The snapshot that holds this state; [`StateNid::EMPTY`] for no state at all.
    pub fn nid(&self) -> StateNid {
        self.chain.last().map_or(StateNid::EMPTY, |snapshot| snapshot.nid)
    }

    pub fn get(&self, key: StateKeyNid) -> Option<EventNid> {
        self.map.get(&key).copied()
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (StateKeyNid, EventNid)> + '_ {
        self.map.iter().map(|(key, event)| (*key, *event))
    }

    /// The memberships.
    pub fn members(&self) -> impl Iterator<Item = (StateKeyNid, EventNid)> + '_ {
        self.iter().filter(|(key, _)| key.is_membership())
    }

    /// What differs from `older`: pairs that are new or changed here.
    pub fn changed_since(&self, older: &Self) -> Vec<(StateKeyNid, EventNid)> {
        let change = |item: imbl::ordmap::DiffItem<'_, '_, StateKeyNid, EventNid>| match item {
            imbl::ordmap::DiffItem::Add(key, event) => Some((*key, *event)),
            imbl::ordmap::DiffItem::Update { new: (key, event), .. } => Some((*key, *event)),
            imbl::ordmap::DiffItem::Remove(..) => None,
        };
        older.map.diff(&self.map).filter_map(change).collect()
    }

    /// The rows that it is read from, and the bytes of their deltas.
    pub(super) fn measure_chain(&self) -> (usize, usize) {
        (self.chain.len(), self.chain.iter().map(|snapshot| snapshot.delta.len()).sum())
    }

    pub(super) fn map(&self) -> &StateMap {
        &self.map
    }

    /// The snapshots that it is read from.
    pub(super) fn chain_nids(&self) -> impl Iterator<Item = StateNid> + '_ {
        self.chain.iter().map(|snapshot| snapshot.nid)
    }

    /// Whether it holds just this.
    pub(super) fn holds(&self, map: &StateMap) -> bool {
        self.map.ptr_eq(map) || self.map.diff(map).next().is_none()
    }

    /// The same state with a map that holds the same and shares structure with others.
    pub(super) fn with_map(self, map: StateMap) -> Self {
        Self { map, ..self }
    }

    /// The state that a row makes of this one, its parent.
    pub(super) fn with_row(&self, row: SnapshotRow) -> Result<Self, StorageError> {
        self.with_snapshots(&[Arc::new(Snapshot::new(row))])
    }

    /// The state that snapshots make of this one, which is the parent of the first of them. It shares with this
    /// one what they leave alone.
    pub(super) fn with_snapshots(&self, snapshots: &[Arc<Snapshot>]) -> Result<Self, StorageError> {
        let (mut map, mut chain) = (self.map.clone(), self.chain.clone());
        for snapshot in snapshots {
            for (key, event) in snapshots::decode_delta(&snapshot.delta)? {
                apply_change(&mut map, key, event);
            }
            chain.push(Arc::clone(snapshot));
        }
        Ok(Self { map, chain })
    }

    /// Whether both hold the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.nid() == other.nid() || self.map.diff(&other.map).next().is_none()
    }

    /// The state after one more change, whose snapshot `nid` is added to the write.
    pub fn with(
        &self,
        change: (StateKeyNid, EventNid),
        nid: StateNid,
        tx: &mut WriteTx,
    ) -> Result<Self, StorageError> {
        let (key, event) = change;
        let (state, row) = self.with_changes(&[(key, Some(event))], nid)?;
        snapshots::insert(tx, &row);
        Ok(state)
    }

    /// The state after several changes at once, and the row of its snapshot `nid`. None removes a key.
    pub(super) fn with_changes(
        &self,
        changes: &[(StateKeyNid, Option<EventNid>)],
        nid: StateNid,
    ) -> Result<(Self, SnapshotRow), StorageError> {
        let height = self.chain.last().map_or(0, |snapshot| snapshot.height) + 1;
        let floor = height - (height & -height);
        let mut chain = self.chain.clone();
        let newest: StateMap =
            changes.iter().map(|(key, event)| (*key, event.unwrap_or(REMOVED))).collect();
        let mut pairs: Vec<Pair> = newest.into_iter().collect();
        while let Some(snapshot) = chain.pop_if(|snapshot| snapshot.height > floor) {
            pairs = merge(pairs, &snapshot.delta)?;
        }
        let delta = snapshots::encode_delta(&pairs);
        let parent = chain.last().map_or(StateNid::EMPTY, |snapshot| snapshot.nid);
        let row = SnapshotRow { nid, parent, height, delta };
        chain.push(Arc::new(Snapshot::new(row.clone())));
        let mut map = self.map.clone();
        for (key, event) in changes {
            apply_change(&mut map, *key, event.unwrap_or(REMOVED));
        }
        Ok((Self { map, chain }, row))
    }

    /// The state that holds `map`, as changes of whichever of `bases` is closest to it, or on its own
    /// where none is close. Without a row when a base holds the same.
    pub(super) fn near(
        bases: &[&Self],
        map: &StateMap,
        nid: StateNid,
    ) -> Result<(Self, Option<SnapshotRow>), StorageError> {
        let mut closest: Option<(&Self, Vec<Difference>)> = None;
        for base in bases {
            let differences = differences(&base.map, map);
            if closest.as_ref().is_none_or(|(_, known)| differences.len() < known.len()) {
                closest = Some((base, differences));
            }
        }
        match closest {
            Some((base, differences)) if differences.is_empty() => Ok((Self::clone(base), None)),
            Some((base, differences)) if differences.len() * 2 <= map.len() => {
                let changes: Vec<_> = differences.iter().map(|d| (d.key, d.new)).collect();
                let (state, row) = base.with_changes(&changes, nid)?;
                Ok((state, Some(row)))
            }
            _ if map.is_empty() => Ok((Self::default(), None)),
            _ => {
                let (state, row) = Self::rooted(map.clone(), nid);
                Ok((state, Some(row)))
            }
        }
    }

    /// A state on its own. Its height is a power of two no smaller than the state, so that the changes
    /// that follow do not write all of it anew soon.
    fn rooted(map: StateMap, nid: StateNid) -> (Self, SnapshotRow) {
        let height = (map.len().max(1) as u64).next_power_of_two().cast_signed();
        let pairs: Vec<_> = map.iter().map(|(key, event)| (*key, *event)).collect();
        let delta = snapshots::encode_delta(&pairs);
        let row = SnapshotRow { nid, parent: StateNid::EMPTY, height, delta };
        let chain = vec![Arc::new(Snapshot::new(row.clone()))];
        (Self { map, chain }, row)
    }

    /// Puts the rows of a chain together, oldest first.
    pub fn from_chain(rows: Vec<SnapshotRow>) -> Result<Self, StorageError> {
        Self::of_snapshots(rows.into_iter().map(|row| Arc::new(Snapshot::new(row))).collect())
    }

    /// The same of rows in memory.
    pub(super) fn of_snapshots(chain: Vec<Arc<Snapshot>>) -> Result<Self, StorageError> {
        let mut pairs = Vec::new();
        for snapshot in chain.iter().rev() {
            pairs = merge(pairs, &snapshot.delta)?;
        }
        pairs.retain(|(_, event)| *event != REMOVED);
        Ok(Self { map: pairs.into_iter().collect(), chain })
    }

    /// Roughly what it takes in memory when nothing is shared.
    pub fn weight_bytes(&self) -> u64 {
        let deltas: usize = self.chain.iter().map(|snapshot| snapshot.delta.len() + 64).sum();
        (deltas + self.map.len() * 40 + 256) as u64
    }
}

/// What differs between two states: from `old` to `new`.
pub(super) fn differences(old: &StateMap, new: &StateMap) -> Vec<Difference> {
    let difference = |item: imbl::ordmap::DiffItem<'_, '_, StateKeyNid, EventNid>| match item {
        imbl::ordmap::DiffItem::Add(key, event) => {
            Difference { key: *key, old: None, new: Some(*event) }
        }
        imbl::ordmap::DiffItem::Update { old: (key, old), new: (_, new) } => {
            Difference { key: *key, old: Some(*old), new: Some(*new) }
        }
        imbl::ordmap::DiffItem::Remove(key, event) => {
            Difference { key: *key, old: Some(*event), new: None }
        }
    };
    old.diff(new).map(difference).collect()
}

/// The pairs of a delta under those of newer ones. All are sorted by key, each of which is there once; from the
/// newest delta to the oldest, whose sizes grow, this costs as much as the sizes of all.
fn merge(newer: Vec<Pair>, older: &[u8]) -> Result<Vec<Pair>, StorageError> {
    let mut merged = Vec::with_capacity(newer.len());
    let mut newer = newer.into_iter().peekable();
    for pair in DeltaReader::new(older) {
        let (key, event) = pair?;
        while let Some(first) = newer.next_if(|(first, _)| *first < key) {
            merged.push(first);
        }
        if newer.peek().is_none_or(|(next, _)| *next != key) {
            merged.push((key, event));
        }
    }
    merged.extend(newer);
    Ok(merged)
}

fn apply_change(map: &mut StateMap, key: StateKeyNid, event: EventNid) {
    match event {
        REMOVED => map.remove(&key),
        event => map.insert(key, event),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(changes: i64) -> State {
        let mut tx = WriteTx::new();
        (1..=changes).fold(State::default(), |state, n| {
            let change = (StateKeyNid(n % 100 * 2), EventNid(n));
            state.with(change, StateNid(n), &mut tx).expect("deltas are whole")
        })
    }

    #[test]
    fn chains_hold_the_whole_state_in_few_rows() {
        for changes in [1, 2, 3, 64, 100, 1023, 1024, 1025] {
            let state = grown(changes);
            let rows: Vec<_> = state
                .chain
                .iter()
                .map(|s| SnapshotRow {
                    nid: s.nid,
                    parent: StateNid::EMPTY,
                    height: s.height,
                    delta: s.delta.clone(),
                })
                .collect();
            assert!(rows.len() <= 11, "{} rows for {changes} changes", rows.len());
            let read = State::from_chain(rows).expect("deltas are whole");
            assert_eq!(read.map, state.map, "after {changes} changes");
            assert_eq!(read.nid(), StateNid(changes));
        }
    }

    #[test]
    fn change_in_a_large_room_costs_few_bytes_and_rows() {
        const MEMBERS: i64 = 100_000;
        // What a row takes beside its delta, with its place in the index: more than either database needs.
        const ROW_BYTES: usize = 100;
        let (mut state, mut seed, mut bytes, mut rows) = (State::default(), 42_u64, 0, 0);
        for n in 1..=2 * MEMBERS {
            // First all come in, then they change in an order of no meaning.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let anybody = (seed >> 33).cast_signed() % MEMBERS + 1;
            let member = if n <= MEMBERS { n } else { anybody };
            let change = (StateKeyNid(2 * member + 1), Some(EventNid(n)));
            let (next, row) = state.with_changes(&[change], StateNid(n)).expect("deltas are whole");
            state = next;
            rows = rows.max(state.chain.len());
            if n > MEMBERS {
                bytes += row.delta.len() + ROW_BYTES;
            }
        }
        assert_eq!(state.len(), 100_000);
        assert!(rows <= 20, "a state is read from {rows} rows");
        let each = bytes / 100_000;
        println!("{each} bytes a change, at most {rows} rows");
        assert!(each <= 200, "a change takes {each} bytes");
    }

    #[test]
    fn differences_are_what_changed() {
        let older = grown(50);
        let mut tx = WriteTx::new();
        let change = (StateKeyNid(2), EventNid(99));
        let newer = older.with(change, StateNid(51), &mut tx).expect("deltas are whole");
        assert_eq!(newer.changed_since(&older), vec![change]);
    }
}
