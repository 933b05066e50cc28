//! How well the caches do: each owner of caches lists them, and the metrics show them. Not for
//! deciding what is kept.

use std::hash::Hash;

use quick_cache::{Weighter, sync::Cache};

/// One cache, since the start of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFigures {
    /// What it holds, as the metrics call it.
    pub name: &'static str,
    /// Look-ups that found something.
    pub hits: u64,
    /// Look-ups that found nothing.
    pub misses: u64,
    pub entries: u64,
    /// What it holds and what it may hold: bytes, or entries where all weigh the same.
    pub weight: u64,
    pub weight_max: u64,
}

impl CacheFigures {
    /// The figures of `cache` at this moment.
    pub fn of<K, V, W>(name: &'static str, cache: &Cache<K, V, W>) -> Self
    where
        K: Eq + Hash,
        V: Clone,
        W: Weighter<K, V> + Clone,
    {
        Self {
            name,
            hits: cache.hits(),
            misses: cache.misses(),
            entries: cache.len() as u64,
            weight: cache.weight(),
            weight_max: cache.capacity(),
        }
    }
}
