//! The tokens that one worker has verified: found by hash, so that none is kept.
//!
//! Bounded by two halves: what is asked for moves into the young one, and when that is full the old one goes. An attacker who shows many
//! good tokens pushes out others, which are verified again; tokens that are no good never get in.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;
use std::rc::Rc;

use super::Verified;

/// SHA-256 of a token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) fn of(token: &str) -> Self {
        Self(weft_certs::jwt::digest(token.as_bytes()))
    }
}

/// Verified tokens of one worker.
#[derive(Default)]
pub(crate) struct TokenCache(RefCell<Halves>);

#[derive(Default)]
struct Halves {
    young: HashMap<TokenHash, Rc<Verified>>,
    old: HashMap<TokenHash, Rc<Verified>>,
}

impl TokenCache {
    /// The token, if it is known and still good; one that is not is forgotten.
    pub(crate) fn get(
        &self,
        hash: &TokenHash,
        is_good: impl Fn(&Verified) -> bool,
    ) -> Option<Rc<Verified>> {
        let mut halves = self.0.borrow_mut();
        if let Some(known) = halves.young.get(hash) {
            if is_good(known) {
                return Some(Rc::clone(known));
            }
            halves.young.remove(hash);
            return None;
        }
        let known = halves.old.remove(hash).filter(|known| is_good(known))?;
        halves.put(hash.clone(), Rc::clone(&known));
        Some(known)
    }

    pub(crate) fn put(&self, hash: TokenHash, verified: Rc<Verified>) {
        self.0.borrow_mut().put(hash, verified);
    }
}

impl Halves {
    fn put(&mut self, hash: TokenHash, verified: Rc<Verified>) {
        if self.young.len() >= HALF {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(hash, verified);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
impl TokenCache {
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// Tokens in a half; claims are a few hundred bytes.
const HALF: usize = 1024;
