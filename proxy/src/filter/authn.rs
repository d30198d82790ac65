//! Who the caller's user is: verifies the token that a request carries (`jwt` of the policy).
//!
//! Comes before `authz` and `rate_limit`, which may read the claims. A token is found (`find`), looked up
//! among those that this worker has verified (`cache`), or verified with its issuer's keys (`keys`); then its claims are told to the
//! app (`tell`). Form, signature and contents are judged in `weft_certs::jwt`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Request};
use weft_certs::jwt::claims::{Claims as TokenClaims, Expect};
use weft_certs::jwt::error::JwtError;
use weft_certs::jwt::jws::Jws;
use weft_certs::jwt::keyset::KeySet;
use weft_policy::jwt::JwtRule;

use self::cache::{TokenCache, TokenHash};
use self::find::Sources;
use self::keys::{KeyStore, Keys};
use crate::filter::claims::Claims;
use crate::http::body::Body;
use crate::http::readings::Readings;
use crate::reject::Reject;

pub(crate) mod cache;
mod find;
pub(crate) mod keys;
mod tell;
#[cfg(test)]
mod tests;

/// The `jwt` of one policy, ready to run.
pub(crate) struct Authn {
    issuers: Vec<Arc<Issuer>>,
    sources: Sources,
    /// Headers that only we may write.
    told: Vec<HeaderName>,
    reads_path: bool,
}

/// One issuer whose tokens are taken.
#[derive(Debug)]
pub(crate) struct Issuer {
    rule: JwtRule,
    keys: Arc<Keys>,
}

/// A token that was verified, and what it is good for.
#[derive(Debug)]
pub(crate) struct Verified {
    issuer: Arc<Issuer>,
    /// The keys that it was verified with.
    keys: Arc<KeySet>,
    expires: SystemTime,
    claims: Claims,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Authn {
    /// `None` where no issuer is named.
    pub(crate) fn new(rules: &[JwtRule], store: &KeyStore) -> Option<Self> {
        let issuer = |rule: &JwtRule| {
            Arc::new(Issuer {
                keys: store.keys(rule),
                rule: rule.clone(),
            })
        };
        let told = rules.iter().flat_map(|rule| &rule.claims_to_headers);
        (!rules.is_empty()).then(|| Self {
            issuers: rules.iter().map(issuer).collect(),
            sources: Sources::of(rules),
            told: told.map(|(_, name)| name.clone()).collect(),
            reads_path: rules
                .iter()
                .any(|rule| !rule.paths.is_empty() || !rule.exempt.is_empty()),
        })
    }

    /// Whether requests without a token are refused anywhere: then bytes that cannot be read as requests are, too.
    pub(crate) fn is_required(&self) -> bool {
        self.issuers.iter().any(|issuer| issuer.rule.required)
    }

    /// Verifies the request's token, if it has one, and refuses the request if it needs one. Returns what the token says.
    ///
    /// # Errors
    /// No token where one is required, several, or one that is not good.
    pub(crate) async fn run(
        &self,
        known: &TokenCache,
        request: &mut Request<Body>,
    ) -> Result<Option<Claims>, Reject> {
        tell::remove_copies(request.headers_mut(), &self.told);
        let demanded = self.demanded(request);
        let Some((token, source)) = self.sources.find(request)? else {
            return match demanded {
                true => Err(Reject::JwtMissing),
                false => Ok(None),
            };
        };
        let verified = match self.cached(known, &token, source) {
            Some(verified) => verified,
            None => self.verify(known, &token, source).await?,
        };
        drop(token);
        let rule = &verified.issuer.rule;
        if demanded && self.reads_path && !applies(rule, &Readings::of(request.uri().path())) {
            return Err(Reject::Jwt(JwtError::Issuer));
        }
        if !rule.forward {
            self.sources.remove(source, request);
        }
        tell::tell(request.headers_mut(), &verified.headers);
        Ok(Some(verified.claims.clone()))
    }

    /// Whether a token is required on this path.
    fn demanded(&self, request: &Request<Body>) -> bool {
        if !self.reads_path {
            return self.is_required();
        }
        let path = Readings::of(request.uri().path());
        let mut rules = self.issuers.iter().map(|issuer| &issuer.rule);
        rules.any(|rule| rule.required && applies(rule, &path) && !is_exempt(rule, &path))
    }

    fn cached(&self, known: &TokenCache, token: &str, source: usize) -> Option<Rc<Verified>> {
        let hash = TokenHash::of(token);
        let now = SystemTime::now();
        known.get(&hash, |verified| {
            // The same issuer of the same policy, with the same keys, and still in time.
            now < verified.expires
                && verified.issuer.keys.are(&verified.keys)
                && self
                    .issuers_of(source)
                    .any(|issuer| Arc::ptr_eq(issuer, &verified.issuer))
        })
    }

    async fn verify(
        &self,
        known: &TokenCache,
        token: &str,
        source: usize,
    ) -> Result<Rc<Verified>, Reject> {
        let jws = Jws::parse(token)?;
        let claims = TokenClaims::of(jws.payload())?;
        // An issuer's keys verify this issuer's tokens only (RFC 8725 section 3.8).
        let mut issuers = self.issuers_of(source);
        let issuer = issuers.find(|one| claims.issuer() == Some(&one.rule.issuer));
        let issuer = issuer.ok_or(JwtError::Issuer)?;
        let rule = &issuer.rule;
        if !rule.algorithms.contains(&jws.header.algorithm) {
            return Err(JwtError::Algorithm.into());
        }
        let keys = issuer.keys.for_token(jws.header.kid.as_deref()).await;
        let keys = keys.ok_or(Reject::JwtNoKeys)?;
        keys.verify(&jws)?;
        let expect = Expect {
            issuer: &rule.issuer,
            audiences: &rule.audiences,
            skew: rule.clock_skew,
        };
        let expires = claims.check(&expect, SystemTime::now())?;
        let claims = Claims(Arc::new(claims.into_map()));
        let verified = Rc::new(Verified {
            issuer: Arc::clone(issuer),
            keys,
            expires,
            headers: tell::headers(&claims, &rule.claims_to_headers),
            claims,
        });
        known.put(TokenHash::of(token), Rc::clone(&verified));
        Ok(verified)
    }

    fn issuers_of(&self, source: usize) -> impl Iterator<Item = &Arc<Issuer>> {
        let takes = move |issuer: &&Arc<Issuer>| self.sources.is_of(source, &issuer.rule);
        self.issuers.iter().filter(takes)
    }
}

impl From<JwtError> for Reject {
    fn from(error: JwtError) -> Self {
        Self::Jwt(error)
    }
}

/// A path that could be read as one of `paths` is one.
fn applies(rule: &JwtRule, path: &Readings<'_>) -> bool {
    let is_named = |path: &str| rule.paths.iter().any(|pattern| pattern.matches(path));
    rule.paths.is_empty() || path.any(is_named)
}

/// Only a path that cannot be read as anything else is exempt.
fn is_exempt(rule: &JwtRule, path: &Readings<'_>) -> bool {
    let is_named = |path: &str| rule.exempt.iter().any(|pattern| pattern.matches(path));
    !rule.exempt.is_empty() && path.all(is_named)
}
