//! `[users]`: passwords.

use serde::{Deserialize, Serialize};

use super::{problems::Problems, units::Size};

/// Passwords.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsersConfig {
    /// The shortest password, in characters.
    pub password_length_min: usize,
    /// What checking a password costs (Argon2id).
    pub argon2: Argon2Config,
}

/// The cost of Argon2id. The defaults are the least that OWASP's password storage cheat sheet asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argon2Config {
    /// Memory for each password being checked.
    pub memory: Size,
    /// Passes over that memory.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl Default for UsersConfig {
    fn default() -> Self {
        Self { password_length_min: 8, argon2: Argon2Config::default() }
    }
}

impl Default for Argon2Config {
    fn default() -> Self {
        Self { memory: Size::mib(19), iterations: 2, parallelism: 1 }
    }
}

impl UsersConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        let Argon2Config { memory, iterations, parallelism } = self.argon2;
        if !(1..=ARGON2_PARALLELISM_MAX).contains(&parallelism) {
            problems.add("users.argon2.parallelism", "must be from 1 to 64");
        }
        if !(1..=ARGON2_ITERATIONS_MAX).contains(&iterations) {
            problems.add("users.argon2.iterations", "must be from 1 to 1000");
        }
        // RFC 9106, section 3.1: at least 8 KiB for each lane.
        if memory < Size::kib(8 * u64::from(parallelism)) || memory > ARGON2_MEMORY_MAX {
            problems.add("users.argon2.memory", "must be from 8 KiB per lane to 4 GiB");
        }
    }
}

/// More would let one login hold a processor for minutes.
const ARGON2_ITERATIONS_MAX: u32 = 1_000;
/// More lanes than processors bring nothing.
const ARGON2_PARALLELISM_MAX: u32 = 64;
/// More would not fit into the machines this server is made for.
const ARGON2_MEMORY_MAX: Size = Size::mib(4096);
