//! Wakes downloads that wait for an announced upload. Knows media IDs and nothing else.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Who waits for what. An entry lives as long as somebody waits.
#[derive(Debug, Default)]
pub struct Arrivals(Mutex<HashMap<Box<str>, Arc<Notify>>>);

/// Someone who waits for one media ID.
pub struct Waiting<'a> {
    arrivals: &'a Arrivals,
    media_id: &'a str,
    bell: Arc<Notify>,
}

impl Arrivals {
    /// Begins to wait. Subscribe ([`Waiting::arrival`]), then look, then wait.
    pub fn wait_for<'a>(&'a self, media_id: &'a str) -> Waiting<'a> {
        let mut bells = self.0.lock();
        let bell = match bells.get(media_id) {
            Some(bell) => Arc::clone(bell),
            None => Arc::clone(bells.entry(media_id.into()).or_default()),
        };
        Waiting { arrivals: self, media_id, bell }
    }

    /// Wakes all that wait for `media_id`.
    pub fn announce(&self, media_id: &str) {
        if let Some(bell) = self.0.lock().get(media_id) {
            bell.notify_waiters();
        }
    }
}

impl Waiting<'_> {
    /// Resolves at the next announcement after this call returned.
    pub fn arrival(&self) -> std::pin::Pin<Box<tokio::sync::futures::Notified<'_>>> {
        let mut notified = Box::pin(self.bell.notified());
        notified.as_mut().enable();
        notified
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut bells = self.arrivals.0.lock();
        // The map's own and this one.
        if Arc::strong_count(&self.bell) == 2 {
            bells.remove(self.media_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn announcement_between_subscribing_and_waiting_is_heard() {
        let arrivals = Arrivals::default();
        let waiting = arrivals.wait_for("a");
        let arrival = waiting.arrival();
        arrivals.announce("b");
        arrivals.announce("a");
        arrival.await;
    }

    #[test]
    fn nobody_is_remembered_who_has_gone() {
        let arrivals = Arrivals::default();
        let (one, two) = (arrivals.wait_for("a"), arrivals.wait_for("a"));
        drop(one);
        assert_eq!(arrivals.0.lock().len(), 1);
        drop(two);
        assert!(arrivals.0.lock().is_empty());
    }
}
