//! Users with passwords, and bearers of tokens.
//!
//! Checking a bcrypt hash costs some fifty milliseconds of a core on purpose. What was found right is therefore remembered, under a hash of
//! its own, and few checks run at the same time, so that wrong guesses cannot take the machine away from those who know.

use model::{env::Spawn, tenant::Tenant};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::Semaphore;

/// Passwords found right that are remembered.
const REMEMBERED_MAX: usize = 1_000;

/// Longer user names and passwords are wrong without a look; bcrypt itself reads only 72 bytes.
const CREDENTIAL_BYTES_MAX: usize = 1_024;

type Sum = [u8; 32];

/// Who may come in.
pub(super) struct Users {
    /// bcrypt hashes by user name.
    passwords: HashMap<String, String>,
    /// Tenants by the hash of their token.
    tokens: HashMap<Sum, Tenant>,
    right: Mutex<HashSet<Sum>>,
    places: Semaphore,
}

impl Users {
    pub(super) fn new(passwords: HashMap<String, String>, tokens: HashMap<Sum, Tenant>) -> Self {
        Self {
            passwords,
            tokens,
            right: Mutex::default(),
            places: Semaphore::new(1),
        }
    }

    /// Whether anybody may come in without credentials.
    pub(super) fn is_empty(&self) -> bool {
        self.passwords.is_empty() && self.tokens.is_empty()
    }

    /// Whether users have passwords here.
    pub(super) fn has_passwords(&self) -> bool {
        !self.passwords.is_empty()
    }

    /// The tenant of a token.
    pub(super) fn bearer(&self, token: &str) -> Option<Tenant> {
        // A map of hashes tells nothing by the time that it takes.
        self.tokens.get(&sum(&[token.as_bytes()])).cloned()
    }

    /// Whether the password is that of the user.
    pub(super) async fn is_right(&self, user: &str, password: &str, spawn: &dyn Spawn) -> bool {
        if user.len() > CREDENTIAL_BYTES_MAX || password.len() > CREDENTIAL_BYTES_MAX {
            return false;
        }
        // An unknown user takes as long as a known one with a wrong password.
        let known = self.passwords.get(user);
        let Some(hash) = known.or_else(|| self.passwords.values().next()).cloned() else {
            return false;
        };
        let key = sum(&[user.as_bytes(), password.as_bytes(), hash.as_bytes()]);
        if known.is_some() && self.right.lock().contains(&key) {
            return true;
        }
        let Ok(_place) = self.places.acquire().await else {
            return false;
        };
        let is_right = Arc::new(Mutex::new(false));
        let (told, password) = (Arc::clone(&is_right), password.to_owned());
        let check = move || *told.lock() = bcrypt::verify(password, &hash).unwrap_or(false);
        spawn.blocking("bcrypt", Box::new(check)).await;
        let is_right = *is_right.lock() && known.is_some();
        if is_right {
            let mut right = self.right.lock();
            if right.len() >= REMEMBERED_MAX {
                right.clear();
            }
            right.insert(key);
        }
        is_right
    }
}

/// A hash of texts, each with its length, so that no two lists of texts meet.
pub(super) fn sum(texts: &[&[u8]]) -> Sum {
    let mut hash = Sha256::new();
    match texts {
        [only] => hash.update(only),
        texts => texts.iter().for_each(|text| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }),
    }
    hash.finalize().into()
}
