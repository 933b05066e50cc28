//! Passwords: Argon2id on a bounded number of blocking threads. Checking the password of a user who
//! does not exist costs the same as a wrong one.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::{Output, ParamsString, SaltString},
};
use tokio::sync::Semaphore;

use crate::{clock::Clock, config::Argon2Config};

/// Bytes of a salt (RFC 9106, section 3.1 recommends 16).
const SALT_BYTES: usize = 16;

/// Hashes and checks passwords. Clones share the threads.
#[derive(Clone)]
pub struct Passwords {
    argon2: Argon2<'static>,
    clock: Clock,
    /// As many at once as there are processors, since each takes one, and its memory.
    permits: Arc<Semaphore>,
    /// What unknown users' passwords are compared with.
    decoy_hash: Arc<str>,
}

impl Passwords {
    pub fn new(config: &Argon2Config, clock: Clock) -> Self {
        let memory_kib = u32::try_from(config.memory.bytes() / 1024).unwrap_or(u32::MAX);
        let params = Params::new(memory_kib, config.iterations, config.parallelism, None)
            .unwrap_or_default();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let decoy_hash = make_decoy(&argon2, &clock).into();
        Self { argon2, clock, permits: Arc::new(Semaphore::new(threads)), decoy_hash }
    }

    /// The hash of a password, in PHC format.
    pub async fn hash(&self, password: String) -> String {
        let Self { argon2, clock, .. } = self.clone();
        self.run(move || hash_with(&argon2, &clock, &password)).await
    }

    /// Whether a password fits; never when there is no hash.
    pub async fn verify(&self, password: String, hash: Option<String>) -> bool {
        let Self { argon2, decoy_hash, .. } = self.clone();
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| decoy_hash.to_string());
        let fits = self.run(move || {
            PasswordHash::new(&hash)
                .is_ok_and(|hash| argon2.verify_password(password.as_bytes(), &hash).is_ok())
        });
        fits.await && exists
    }

    async fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let permit = self.permits.clone().acquire_owned().await;
        let running = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        running.await.expect("hashing does not panic, and nobody aborts it")
    }
}

fn make_salt(clock: &Clock) -> SaltString {
    let mut salt = [0_u8; SALT_BYTES];
    clock.fill_random(&mut salt);
    SaltString::encode_b64(&salt).expect("16 bytes are a valid salt")
}

/// The hash of no password, as dear to compare with as any other; made without hashing, which would
/// take time and memory at every start.
fn make_decoy(argon2: &Argon2<'_>, clock: &Clock) -> String {
    let salt = make_salt(clock);
    let mut output = [0_u8; Params::DEFAULT_OUTPUT_LEN];
    clock.fill_random(&mut output);
    let decoy = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(argon2.params()).expect("Argon2 writes its own parameters"),
        salt: Some(salt.as_salt()),
        hash: Some(Output::new(&output).expect("32 bytes are a valid output")),
    };
    decoy.to_string()
}

fn hash_with(argon2: &Argon2<'_>, clock: &Clock, password: &str) -> String {
    let salt = make_salt(clock);
    let hash = argon2.hash_password(password.as_bytes(), &salt);
    hash.expect("the configuration was checked, and a password is shorter than 4 GiB").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Size;

    #[tokio::test]
    async fn password_fits_its_own_hash_only() {
        let config = Argon2Config { memory: Size::kib(8), iterations: 1, parallelism: 1 };
        let passwords = Passwords::new(&config, Clock::scripted(0, 1));
        let hash = passwords.hash("secret".to_owned()).await;
        assert!(hash.starts_with("$argon2id$"));
        assert!(passwords.verify("secret".to_owned(), Some(hash.clone())).await);
        assert!(!passwords.verify("Secret".to_owned(), Some(hash)).await);
        assert!(!passwords.verify("secret".to_owned(), None).await);
    }

    #[test]
    fn decoy_costs_what_a_password_costs() {
        let config = Argon2Config { memory: Size::kib(16), iterations: 2, parallelism: 1 };
        let clock = Clock::scripted(0, 1);
        let passwords = Passwords::new(&config, clock.clone());
        let real = hash_with(&passwords.argon2, &clock, "secret");
        let parameters = |hash: &str| {
            let hash = PasswordHash::new(hash).unwrap();
            let lengths = (hash.salt.map(|s| s.len()), hash.hash.map(|h| h.len()));
            (hash.algorithm.to_string(), hash.version, hash.params.to_string(), lengths)
        };
        assert_eq!(parameters(&passwords.decoy_hash), parameters(&real));
    }
}
