//! Service-account tokens before the API server (TokenReview), which also knows whether the pod of a token is still there.
//!
//! Callers wait for a turn, so that a mesh which starts at once is not a storm for the API server, and no address has more than its share of
//! the turns. What cannot be a good token by its own words is not asked about. What was said of a token is remembered for a moment by the
//! token's hash: a node's proxy asks with one token for all of its pods.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use weft_certs::jwt::claims::Claims;
use weft_certs::jwt::digest;
use weft_certs::jwt::error::JwtError;
use weft_policy::spiffe::{SpiffeId, TrustDomain};

use crate::metrics::Metrics;
use crate::token::{CLOCK_SKEW, Caller, PodRef, TokenError};

/// Asks the API server who holds a token.
pub struct Reviewer {
    reviews: Api<TokenReview>,
    trust_domain: TrustDomain,
    audiences: Vec<String>,
    metrics: Metrics,
    turns: Semaphore,
    /// How many turns each address has or waits for.
    asking: Mutex<HashMap<IpAddr, usize>>,
    /// By the hash of a token: the token itself is kept nowhere.
    known: Mutex<HashMap<[u8; 32], Answer>>,
}

/// What was said of a good token.
struct Answer {
    at: Instant,
    caller: Caller,
}

impl Reviewer {
    /// Takes tokens that are meant for one of `audiences`.
    pub(crate) fn new(
        client: Client,
        trust_domain: TrustDomain,
        audiences: impl IntoIterator<Item = String>,
        metrics: Metrics,
    ) -> Self {
        Self {
            reviews: Api::all(client),
            trust_domain,
            audiences: audiences.into_iter().collect(),
            metrics,
            turns: Semaphore::new(MAX_ASKED),
            asking: Mutex::default(),
            known: Mutex::default(),
        }
    }

    pub(crate) async fn authenticate(
        &self,
        token: &str,
        peer: IpAddr,
    ) -> Result<Caller, TokenError> {
        plausible(token, &self.audiences, SystemTime::now()).map_err(TokenError::Implausible)?;
        let hash = digest(token.as_bytes());
        if let Some(known) = self.remembered(&hash) {
            self.metrics.reviewed("remembered");
            return Ok(known);
        }
        let status = self.review(token, peer).await;
        let status = status.inspect_err(|_| self.metrics.reviewed("failed"))?;
        let caller = self.read(status);
        let result = if caller.is_ok() { "good" } else { "refused" };
        self.metrics.reviewed(result);
        // Refusals are not remembered: they would push out those who are good.
        if let Ok(caller) = &caller {
            self.remember(hash, caller.clone());
        }
        caller
    }

    async fn review(&self, token: &str, peer: IpAddr) -> Result<TokenReviewStatus, Unreviewed> {
        let _share = Share::of(&self.asking, peer).ok_or(Unreviewed::Busy)?;
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(self.audiences.clone()),
            },
            ..TokenReview::default()
        };
        let turn = timeout(TURN_LIMIT, self.turns.acquire()).await;
        let _turn = turn.map_err(|_late| Unreviewed::Busy)?;
        let params = PostParams::default();
        let asked = timeout(ANSWER_LIMIT, self.reviews.create(&params, &review)).await;
        let answer = asked.map_err(|_late| Unreviewed::Slow)?;
        let answer = answer.map_err(|error| Unreviewed::Call(Box::new(error)))?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Who it is, if the answer is one that we may believe.
    fn read(&self, status: TokenReviewStatus) -> Result<Caller, TokenError> {
        if status.authenticated != Some(true) {
            let reason = status.error.unwrap_or_default();
            return Err(TokenError::Refused { reason });
        }
        // "A client of the TokenReview API that sets the spec.audiences field should validate that a compatible audience identifier is returned
        // in the status.audiences field to ensure that the TokenReview server is audience aware" (authentication.k8s.io/v1).
        let audiences = status.audiences.unwrap_or_default();
        if !audiences.iter().any(|one| self.audiences.contains(one)) {
            return Err(TokenError::Audience { audiences });
        }
        let user = status.user.unwrap_or_default();
        let (namespace, account) = service_account(&user).ok_or(TokenError::NotServiceAccount)?;
        let id = SpiffeId::workload(&self.trust_domain, namespace, account)
            .map_err(TokenError::Names)?;
        let pod = pod(&user).ok_or(TokenError::Unbound)?;
        Ok(Caller { id, pod: Some(pod) })
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Caller> {
        let known = self.known.lock();
        let answer = known.get(hash)?;
        (answer.at.elapsed() < REMEMBER).then(|| answer.caller.clone())
    }

    fn remember(&self, hash: [u8; 32], caller: Caller) {
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, answer| answer.at.elapsed() < REMEMBER);
        }
        if known.len() < MAX_KNOWN {
            let at = Instant::now();
            known.insert(hash, Answer { at, caller });
        }
    }
}

/// One of the turns that an address may have at a time.
struct Share<'a> {
    asking: &'a Mutex<HashMap<IpAddr, usize>>,
    peer: IpAddr,
}

impl<'a> Share<'a> {
    fn of(asking: &'a Mutex<HashMap<IpAddr, usize>>, peer: IpAddr) -> Option<Self> {
        let mut all = asking.lock();
        let count = all.entry(peer).or_default();
        if *count >= MAX_ASKED_BY_ONE {
            return None;
        }
        *count += 1;
        Some(Self { asking, peer })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut all = self.asking.lock();
        match all.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(all.remove(&self.peer)),
        }
    }
}

/// Whether the API server could find a token good, by what the token says of itself: whose, for whom, until when. Nothing is believed of it.
fn plausible(token: &str, audiences: &[String], now: SystemTime) -> Result<(), JwtError> {
    if !has_form_of_jwt(token) {
        return Err(JwtError::Malformed);
    }
    let payload = token.split('.').nth(1).unwrap_or_default();
    let payload = URL_SAFE_NO_PAD
        .decode(payload)
        .or(Err(JwtError::Malformed))?;
    let claims = Claims::of(&payload)?;
    claims.check_use(audiences, CLOCK_SKEW, now)?;
    let subject = claims.get("sub").and_then(Value::as_str);
    match subject.is_some_and(|subject| subject.starts_with(ACCOUNT)) {
        true => Ok(()),
        false => Err(JwtError::Claims),
    }
}

/// Three parts of base64url (RFC 7515 section 7.1).
fn has_form_of_jwt(token: &str) -> bool {
    let is_part = |part: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !part.is_empty() && part.bytes().all(fits)
    };
    token.len() <= MAX_TOKEN_BYTES && token.split('.').count() == 3 && token.split('.').all(is_part)
}

/// Namespace and name from `system:serviceaccount:<namespace>:<name>`, of a user who is in the group of all service accounts.
fn service_account(user: &UserInfo) -> Option<(&str, &str)> {
    let groups = user.groups.as_deref().unwrap_or_default();
    let names = user.username.as_deref()?;
    let names = names.strip_prefix(ACCOUNT)?;
    let (namespace, account) = names.split_once(':')?;
    let belongs = groups.iter().any(|group| group == ALL_ACCOUNTS);
    (belongs && !account.contains(':')).then_some((namespace, account))
}

fn pod(user: &UserInfo) -> Option<PodRef> {
    let extra = |name: &str| {
        let values = user.extra.as_ref()?.get(name)?;
        values.first().filter(|value| !value.is_empty()).cloned()
    };
    Some(PodRef {
        name: extra("authentication.kubernetes.io/pod-name")?,
        uid: extra("authentication.kubernetes.io/pod-uid")?,
        node: extra("authentication.kubernetes.io/node-name"),
    })
}

/// Why the API server did not say whether a token is good.
#[derive(Debug, thiserror::Error)]
pub enum Unreviewed {
    /// Others wait, too.
    #[error("no turn within {TURN_LIMIT:?}")]
    Busy,
    /// No answer.
    #[error("no answer of the API server within {ANSWER_LIMIT:?}")]
    Slow,
    /// No connection, or no right to ask.
    #[error("the API server could not be asked")]
    Call(#[source] Box<kube::Error>),
}

const ACCOUNT: &str = "system:serviceaccount:";
const ALL_ACCOUNTS: &str = "system:serviceaccounts";
/// Reviews that are under way at once.
const MAX_ASKED: usize = 32;
/// Of one address: a pod asks once in a while, a node's proxy for all of its pods.
const MAX_ASKED_BY_ONE: usize = 8;
/// Bounds what is remembered, in all.
const MAX_KNOWN: usize = 10_000;
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Also how long a deleted pod is still believed in.
const REMEMBER: Duration = Duration::from_secs(10);
const TURN_LIMIT: Duration = Duration::from_secs(4);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_token_is_asked_about() {
        let long = format!("{}.b.c", "a".repeat(MAX_TOKEN_BYTES));
        let rows = [
            ("eyJh.eyJp.c2ln", true),
            ("a-_0.b.c", true),
            ("a.b", false),
            ("a.b.c.d", false),
            ("a..c", false),
            ("a.b=.c", false),
            ("opaque", false),
            (&long, false),
        ];
        for (token, asked) in rows {
            assert_eq!(has_form_of_jwt(token), asked, "{token}");
        }
    }

    #[test]
    fn what_a_token_says_of_itself_decides_whether_it_is_asked_about() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let rows = [
            (
                r#"{"aud":["istio-ca"],"exp":1000100,"sub":"system:serviceaccount:shop:web"}"#,
                true,
            ),
            (
                r#"{"aud":"istio-ca","exp":999950,"sub":"system:serviceaccount:shop:web"}"#,
                true,
            ),
            (
                r#"{"aud":["api"],"exp":1000100,"sub":"system:serviceaccount:shop:web"}"#,
                false,
            ),
            (
                r#"{"aud":["istio-ca"],"exp":999930,"sub":"system:serviceaccount:shop:web"}"#,
                false,
            ),
            (
                r#"{"aud":["istio-ca"],"sub":"system:serviceaccount:shop:web"}"#,
                false,
            ),
            (
                r#"{"aud":["istio-ca"],"exp":1000100,"sub":"system:node:one"}"#,
                false,
            ),
            (r#"{"aud":["istio-ca"],"exp":1000100}"#, false),
            ("no JSON", false),
        ];
        for (payload, asked) in rows {
            let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
            let told = plausible(&token, &["istio-ca".to_owned()], now);
            assert_eq!(told.is_ok(), asked, "{payload}: {told:?}");
        }
    }

    #[test]
    fn no_address_has_all_the_turns() {
        let asking = Mutex::default();
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let mut shares: Vec<_> = (0..MAX_ASKED_BY_ONE)
            .map(|_| Share::of(&asking, one).unwrap())
            .collect();
        assert!(Share::of(&asking, one).is_none());
        assert!(Share::of(&asking, other).is_some());
        shares.pop();
        assert!(Share::of(&asking, one).is_some());
        drop(shares);
        assert!(asking.lock().is_empty());
    }

    fn user(name: &str, group: &str) -> UserInfo {
        UserInfo {
            username: Some(name.to_owned()),
            groups: Some(vec![group.to_owned()]),
            ..UserInfo::default()
        }
    }

    #[test]
    fn only_service_accounts_are_somebody() {
        let rows = [
            ("system:serviceaccount:shop:web", ALL_ACCOUNTS, true),
            ("system:serviceaccount:shop:web", "system:masters", false),
            ("system:serviceaccount:shop:web:x", ALL_ACCOUNTS, false),
            ("system:node:one", ALL_ACCOUNTS, false),
            ("jane", ALL_ACCOUNTS, false),
        ];
        for (name, group, is) in rows {
            let user = user(name, group);
            assert_eq!(service_account(&user).is_some(), is, "{name} {group}");
        }
    }

    #[test]
    fn a_pod_has_a_name_and_an_id() {
        let with = |names: &[&str]| {
            let extra = names.iter().map(|name| {
                let name = format!("authentication.kubernetes.io/{name}");
                (name, vec!["x".to_owned()])
            });
            UserInfo {
                extra: Some(extra.collect()),
                ..UserInfo::default()
            }
        };
        assert!(pod(&with(&["pod-name", "pod-uid", "node-name"])).is_some());
        assert!(pod(&with(&["pod-name", "pod-uid"])).is_some());
        assert!(pod(&with(&["pod-name"])).is_none());
        assert!(pod(&UserInfo::default()).is_none());
    }
}
