//! One-time and fallback keys of one device and algorithm, in memory: which key is next, and which
//! upload is a repetition. Pure; nothing here is stored (client-server API, "One-time and fallback
//! keys").

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

/// Unclaimed keys that a device may have per algorithm. Clients keep 50 to 100.
pub const ONE_TIME_KEYS_MAX: usize = 5_000;
/// Batches whose keys have all been claimed and that are remembered, so that an upload whose answer
/// was lost is recognised when it is repeated, and no key is given out twice.
const CLAIMED_BATCHES_KEPT: usize = 2;
/// What a key costs in memory beside its text, bytes.
const KEY_BYTES: usize = 48;

/// A key as it was uploaded: its ID (with the algorithm) and its JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneTimeKey {
    pub key_id: Box<str>,
    pub key: Box<str>,
}

/// Keys that were uploaded together; those before `taken` have been claimed.
#[derive(Clone, Debug)]
pub struct Batch {
    pub number: i64,
    pub keys: Vec<OneTimeKey>,
    pub taken: usize,
}

/// The keys of one algorithm, oldest batch first.
#[derive(Clone, Debug, Default)]
pub struct Pool(VecDeque<Batch>);

/// A key that replaces one-time keys when they are exhausted.
#[derive(Clone, Debug)]
pub struct FallbackKey {
    pub key: OneTimeKey,
    /// Whether it was handed out since it was uploaded.
    pub used: bool,
}

/// A key of this ID waits to be claimed, and is another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("One time key {key_id} already exists. Old key: {old}; new key: {new}")]
pub struct KeyConflict {
    pub key_id: String,
    pub old: String,
    pub new: String,
}

impl Pool {
    /// Adds a batch that was read from the store.
    pub fn admit(&mut self, batch: Batch) {
        let at = self.0.partition_point(|known| known.number < batch.number);
        self.0.insert(at, batch);
    }

    /// How many keys can be claimed.
    pub fn count(&self) -> usize {
        self.0.iter().map(|batch| batch.keys.len() - batch.taken).sum()
    }

    /// Those of `keys` that are new. A key that was uploaded before, claimed meanwhile or not, is
    /// left out; another key of the same ID that still waits is an error. Each ID is in `keys` once.
    pub fn select_new(&self, keys: Vec<OneTimeKey>) -> Result<Vec<OneTimeKey>, KeyConflict> {
        let mut is_known = vec![false; keys.len()];
        let by_id: HashMap<&str, usize> =
            keys.iter().enumerate().map(|(at, key)| (&*key.key_id, at)).collect();
        for batch in &self.0 {
            for (index, old) in batch.keys.iter().enumerate() {
                let Some(&at) = by_id.get(&*old.key_id) else { continue };
                if is_same(&old.key, &keys[at].key) {
                    is_known[at] = true;
                } else if index >= batch.taken {
                    return Err(KeyConflict {
                        key_id: old.key_id.to_string(),
                        old: old.key.to_string(),
                        new: keys[at].key.to_string(),
                    });
                }
            }
        }
        let selected = keys.into_iter().zip(is_known).filter(|(_, is_known)| !is_known);
        Ok(selected.map(|(key, _)| key).collect())
    }

    /// Adds a batch; returns its number, and the number below which batches are forgotten now.
    pub fn push(&mut self, keys: Vec<OneTimeKey>) -> (i64, Option<i64>) {
        let number = self.0.back().map_or(1, |batch| batch.number + 1);
        self.0.push_back(Batch { number, keys, taken: 0 });
        let claimed = self.0.iter().take_while(|batch| batch.taken == batch.keys.len()).count();
        let excess = claimed.saturating_sub(CLAIMED_BATCHES_KEPT);
        self.0.drain(..excess);
        let oldest = self.0.front().map(|batch| batch.number);
        (number, oldest.filter(|_| excess > 0))
    }

    /// Takes the next key, with its batch and how many of the batch are taken now.
    pub fn claim(&mut self) -> Option<(OneTimeKey, i64, usize)> {
        let batch = self.0.iter_mut().find(|batch| batch.taken < batch.keys.len())?;
        let key = batch.keys[batch.taken].clone();
        batch.taken += 1;
        Some((key, batch.number, batch.taken))
    }

    /// What it takes in memory, roughly.
    pub fn weigh_bytes(&self) -> usize {
        let keys = self.0.iter().flat_map(|batch| &batch.keys);
        keys.map(|key| KEY_BYTES + key.key_id.len() + key.key.len()).sum()
    }
}

/// Whether two texts are the same JSON.
pub fn is_same(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    parse(one).is_some_and(|one| Some(one) == parse(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, key: &str) -> OneTimeKey {
        OneTimeKey { key_id: id.into(), key: key.into() }
    }

    #[test]
    fn keys_are_claimed_in_the_order_of_their_uploads() {
        let mut pool = Pool::default();
        assert_eq!(pool.push(vec![key("a:1", "1"), key("a:2", "2")]), (1, None));
        assert_eq!(pool.push(vec![key("a:3", "3")]), (2, None));
        let claimed = |pool: &mut Pool| pool.claim().map(|(key, ..)| key.key_id.to_string());
        let claimed: Vec<_> = (0..4).map(|_| claimed(&mut pool)).collect();
        assert_eq!(claimed, [Some("a:1".into()), Some("a:2".into()), Some("a:3".into()), None]);
    }

    #[test]
    fn repeated_upload_brings_no_claimed_key_back() {
        let mut pool = Pool::default();
        let keys = vec![key("a:1", r#"{"key":"x","b":1}"#), key("a:2", "\"y\"")];
        pool.push(keys);
        pool.claim();
        let again = vec![key("a:1", r#"{"b":1, "key":"x"}"#), key("a:2", "\"y\"")];
        assert_eq!(pool.select_new(again), Ok(vec![]));
    }

    #[test]
    fn another_key_of_an_id_that_waits_is_refused() {
        let mut pool = Pool::default();
        pool.push(vec![key("a:1", "\"x\""), key("a:2", "\"y\"")]);
        pool.claim();
        // The first one is gone, so that its ID is free.
        assert_eq!(pool.select_new(vec![key("a:1", "\"z\"")]).map(|keys| keys.len()), Ok(1));
        assert!(pool.select_new(vec![key("a:2", "\"z\"")]).is_err());
    }

    #[test]
    fn numbers_of_batches_rise_when_older_ones_are_forgotten() {
        let mut pool = Pool::default();
        for number in 1..=6 {
            let (pushed, forgotten) = pool.push(vec![key(&format!("a:{number}"), "1")]);
            assert_eq!(pushed, number);
            assert_eq!(forgotten, (number > 3).then_some(number - 2));
            pool.claim();
        }
        assert_eq!(pool.count(), 0);
    }
}
