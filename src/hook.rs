//! What a module gives to one below it, to be called from there. The one below holds a handle to
//! the one above, which holds one to it: [`Hook::release`] ends that when the server ends, so that
//! nothing (connections to the database, above all) stays behind. Not for what changes while the
//! server runs.

use std::sync::Arc;

use parking_lot::RwLock;

/// Empty, until somebody registers.
pub struct Hook<T: ?Sized>(RwLock<Option<Arc<T>>>);

impl<T: ?Sized> Hook<T> {
    /// Registers who is called. False when somebody has before; then nothing changes.
    #[must_use]
    pub fn set(&self, called: Arc<T>) -> bool {
        let mut place = self.0.write();
        if place.is_some() {
            return false;
        }
        *place = Some(called);
        true
    }

    /// Registers who is called in place of whoever was.
    pub fn replace(&self, called: Arc<T>) {
        *self.0.write() = Some(called);
    }

    pub fn get(&self) -> Option<Arc<T>> {
        self.0.read().clone()
    }

    /// Lets go of who is called.
    pub fn release(&self) {
        // Dropped outside of the lock: with it, everything above may go.
        let _released = self.0.write().take();
    }
}

impl<T: ?Sized> Default for Hook<T> {
    fn default() -> Self {
        Self(RwLock::new(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stays_until_it_is_released() {
        let hook = Hook::<str>::default();
        assert!(hook.set(Arc::from("one")));
        assert!(!hook.set(Arc::from("two")));
        assert_eq!(hook.get().as_deref(), Some("one"));
        hook.release();
        assert_eq!(hook.get(), None);
    }
}
