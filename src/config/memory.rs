//! `[memory]`: the one budget of which every cache gets its part.

use serde::{Deserialize, Serialize};

use super::{problems::Problems, units::Size};

/// The one budget of which every cache gets its part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryConfig {
    /// What all caches together may hold. The server itself needs some 20 MiB beside it.
    pub budget: Size,
}

/// A module with caches and its part of the budget. The parts add up to the whole, and each is taken once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheShare {
    /// Events, states, heads and members of rooms, identifiers and their numbers.
    Rooms,
    /// Sessions, profiles and settings of users.
    Accounts,
    /// Push rules and unread counts.
    Push,
    /// Receipts.
    Ephemeral,
    /// Which members clients know, and uploaded filters.
    Sync,
    /// What is known about uploads, not their contents.
    Media,
    /// One-time keys of devices in use, and the latest changes of device lists.
    Encryption,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { budget: Size::mib(64) }
    }
}

impl MemoryConfig {
    /// How many bytes this cache may hold.
    #[must_use]
    pub fn share(&self, cache: CacheShare) -> u64 {
        self.budget.bytes() / 100 * cache.percent()
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.budget < BUDGET_LEAST {
            problems.add("memory.budget", "must be at least 8 MiB");
        }
    }
}

impl CacheShare {
    const fn percent(self) -> u64 {
        match self {
            Self::Rooms => 76,
            Self::Accounts => 6,
            Self::Push => 3,
            Self::Ephemeral => 2,
            Self::Sync => 3,
            Self::Media => 2,
            Self::Encryption => 8,
        }
    }
}

/// With less, every request would read from the disk.
const BUDGET_LEAST: Size = Size::mib(8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole_budget() {
        use CacheShare::{Accounts, Encryption, Ephemeral, Media, Push, Rooms, Sync};
        let sum: u64 = [Rooms, Accounts, Push, Ephemeral, Sync, Media, Encryption]
            .map(CacheShare::percent)
            .iter()
            .sum();
        assert_eq!(sum, 100);
    }
}
