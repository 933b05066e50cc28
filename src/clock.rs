//! Time and randomness, as arguments: real for the server, scripted for tests.
//! Not for timeouts and intervals, which belong to tokio's timer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

/// Characters of opaque identifiers and tokens.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Where time and randomness come from. Clones share their source.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    Real,
    Scripted(Arc<Script>),
}

#[derive(Debug)]
struct Script {
    now_ms: AtomicU64,
    random_state: Mutex<u64>,
}

impl Clock {
    /// The machine's own clock and randomness.
    pub fn real() -> Self {
        Self(Source::Real)
    }

    /// A clock that stands still at `now_ms` until it is moved, with randomness from `seed`.
    pub fn scripted(now_ms: u64, seed: u64) -> Self {
        let script = Script { now_ms: now_ms.into(), random_state: Mutex::new(seed) };
        Self(Source::Scripted(Arc::new(script)))
    }

    /// Milliseconds since the Unix epoch.
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Source::Real => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |elapsed| elapsed.as_millis() as u64),
            Source::Scripted(script) => script.now_ms.load(Ordering::Relaxed),
        }
    }

    /// A point of the monotonic clock, to measure durations with.
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Moves a scripted clock; without effect on the real one.
    pub fn advance_ms(&self, ms: u64) {
        if let Source::Scripted(script) = &self.0 {
            script.now_ms.fetch_add(ms, Ordering::Relaxed);
        }
    }

    /// Fills `bytes` with randomness fit for secrets.
    pub fn fill_random(&self, bytes: &mut [u8]) {
        match &self.0 {
            Source::Real => {
                getrandom::fill(bytes).expect("the operating system gives randomness");
            }
            Source::Scripted(script) => {
                let mut state = script.random_state.lock();
                bytes.fill_with(|| split_mix(&mut state) as u8);
            }
        }
    }

    /// One of `count` things at random, by its number; 0 where there are none.
    pub fn choose(&self, count: usize) -> usize {
        let mut random = [0; 8];
        self.fill_random(&mut random);
        (u64::from_le_bytes(random) as usize).checked_rem(count).unwrap_or(0)
    }

    /// `length` random letters and digits (5.95 bits of randomness each).
    pub fn random_text(&self, length: usize) -> String {
        let mut text = String::with_capacity(length);
        let mut pool = [0_u8; 64];
        while text.len() < length {
            self.fill_random(&mut pool);
            // Bytes above the largest multiple of 62 would favour the first letters.
            let fair = pool.iter().filter(|&&byte| byte < 248);
            let letters = fair.map(|&byte| char::from(ALPHABET[usize::from(byte % 62)]));
            text.extend(letters.take(length - text.len()));
        }
        text
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for tests that repeat.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripted_clocks_repeat_themselves() {
        let (one, two) = (Clock::scripted(5, 1), Clock::scripted(5, 1));
        assert_eq!(one.random_text(30), two.random_text(30));
        one.advance_ms(10);
        assert_eq!(one.now_ms(), 15);
    }

    #[test]
    fn choices_are_of_what_is_there() {
        let clock = Clock::scripted(0, 7);
        assert!((0..100).all(|_| clock.choose(3) < 3));
        assert_eq!(clock.choose(0), 0);
    }

    #[test]
    fn random_text_has_the_length_asked_for() {
        assert_eq!(Clock::real().random_text(43).len(), 43);
    }
}
