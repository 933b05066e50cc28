//! Weights of cached things that grow: a cache must be told the same weight when a thing leaves
//! as when it came, so the weight is noted, and changed only where the cache looks on.

use std::{
    borrow::Borrow,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{
    Equivalent, Weighter,
    sync::{Cache, EntryAction},
};

/// The weight that the cache knows, bytes; 0 before it knows one.
#[derive(Debug, Default)]
pub struct NotedWeight(AtomicU64);

/// Something whose weight changes while it is cached.
pub trait Weighed {
    fn noted_weight(&self) -> &NotedWeight;

    /// What it weighs now, bytes; more than 0.
    fn weigh_bytes(&self) -> u64;
}

/// Tells a cache the noted weights.
#[derive(Clone, Copy, Debug)]
pub struct NotedWeighter;

impl<K, T: Weighed> Weighter<K, Arc<T>> for NotedWeighter {
    fn weight(&self, _: &K, thing: &Arc<T>) -> u64 {
        let noted = &thing.noted_weight().0;
        let known = noted.load(Ordering::Acquire);
        if known > 0 {
            return known;
        }
        let now = thing.weigh_bytes();
        match noted.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => now,
            Err(noted_meanwhile) => noted_meanwhile,
        }
    }
}

/// Tells the cache what a thing weighs now, if it is there.
pub fn reweigh<K, T, Q>(cache: &Cache<K, Arc<T>, NotedWeighter>, key: &Q)
where
    K: Hash + Eq + Borrow<Q>,
    T: Weighed,
    Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
{
    if cache.peek(key).is_none() {
        return;
    }
    let result = cache.entry(key, None, |_, thing| {
        thing.noted_weight().0.store(thing.weigh_bytes(), Ordering::Release);
        EntryAction::Retain(())
    });
    drop(result);
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Growing(NotedWeight, Mutex<u64>);

    impl Weighed for Growing {
        fn noted_weight(&self) -> &NotedWeight {
            &self.0
        }

        fn weigh_bytes(&self) -> u64 {
            *self.1.lock()
        }
    }

    #[test]
    fn caches_learn_of_growth_when_they_are_told() {
        let cache: Cache<i64, Arc<Growing>, _> = Cache::with_weighter(10, 1000, NotedWeighter);
        let thing = Arc::new(Growing(NotedWeight::default(), Mutex::new(10)));
        cache.insert(1, Arc::clone(&thing));
        *thing.1.lock() = 50;
        assert_eq!(cache.weight(), 10);
        reweigh(&cache, &1);
        assert_eq!(cache.weight(), 50);
        *thing.1.lock() = 70;
        cache.remove(&1);
        assert_eq!(cache.weight(), 0);
    }
}
