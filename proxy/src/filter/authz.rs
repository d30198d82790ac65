//! Who may do what: the rules under `allow` and `deny`.
//!
//! `deny` is looked at first; with any `allow`, what matches none of it is refused. Comes after `authn`, whose claims it reads. What a
//! rule looks at must have one reading: a header that is there twice, or bytes that are not text, make a request refused, whatever the
//! rule would have said.

use http::{HeaderName, Request};
use tracing::info;
use weft_policy::Inbound;
use weft_policy::authz::{AuthzMode, Rule};
use weft_policy::caller::Caller;
use weft_policy::spiffe::SpiffeId;

use self::facts::{Facts, Unreadable};
use crate::cx::Cx;
use crate::filter::claims::Claims;
use crate::http::body::Body;
use crate::reject::Reject;

mod facts;
#[cfg(test)]
mod tests;

/// The `allow`, `deny` and `authz.mode` of one policy.
pub(crate) struct Authz {
    allow: Option<Vec<Rule>>,
    deny: Vec<Rule>,
    mode: AuthzMode,
    looks: Looks,
}

/// What the rules look at.
#[derive(Debug, Default)]
struct Looks {
    paths: bool,
    hosts: bool,
    query: bool,
    headers: Vec<HeaderName>,
}

/// Which rule let something pass, counted from 0; `None` where nothing is only allowed.
pub(crate) type AllowedBy = Option<usize>;

impl Authz {
    /// `None` where nothing is said.
    pub(crate) fn new(inbound: &Inbound) -> Option<Self> {
        if inbound.allow.is_none() && inbound.deny.is_empty() {
            return None;
        }
        let rules = inbound.deny.iter().chain(inbound.allow.iter().flatten());
        Some(Self {
            looks: Looks::of(rules),
            allow: inbound.allow.clone(),
            deny: inbound.deny.clone(),
            mode: inbound.authz_mode,
        })
    }

    /// Judges a request.
    ///
    /// # Errors
    /// It must not reach the app.
    pub(crate) fn request(&self, cx: &Cx, request: &Request<Body>) -> Result<AllowedBy, Reject> {
        self.enforce(cx, self.judge_request(Who::of(cx), request))
    }

    /// Judges a connection of opaque bytes, by identity and port alone.
    ///
    /// # Errors
    /// It must be closed.
    pub(crate) fn connection(&self, cx: &Cx) -> Result<AllowedBy, Reject> {
        self.enforce(cx, self.judge_connection(Who::of(cx)))
    }

    fn judge_connection(&self, who: Who<'_>) -> Result<AllowedBy, Reject> {
        // "HTTP-only field in an ALLOW rule never matches; in a DENY rule it is treated as match" (Istio, AuthorizationPolicy).
        if self.deny.iter().any(|rule| who.is_meant(rule)) {
            return Err(Reject::AuthzDenied);
        }
        let Some(rules) = &self.allow else {
            return Ok(None);
        };
        let allows = |rule: &Rule| !rule.needs_http() && who.is_meant(rule);
        let found = rules.iter().position(allows);
        found.map(Some).ok_or(Reject::AuthzNotAllowed)
    }

    fn judge_request(&self, who: Who<'_>, request: &Request<Body>) -> Result<AllowedBy, Reject> {
        let facts = Facts::of(request, &self.looks)?;
        let claims = request.extensions().get::<Claims>();
        for rule in &self.deny {
            if who.is_meant(rule) && facts.match_denied(rule) && has_claims(rule, claims)? {
                return Err(Reject::AuthzDenied);
            }
        }
        let Some(rules) = &self.allow else {
            return Ok(None);
        };
        for (at, rule) in rules.iter().enumerate() {
            if who.is_meant(rule) && facts.match_allowed(rule) && has_claims(rule, claims)? {
                return Ok(Some(at));
            }
        }
        Err(Reject::AuthzNotAllowed)
    }

    fn enforce(&self, cx: &Cx, judged: Result<AllowedBy, Reject>) -> Result<AllowedBy, Reject> {
        match (judged, self.mode) {
            (Err(reject), AuthzMode::Audit) => {
                cx.worker.telemetry.metrics().audited(reject.label());
                let caller = cx.facts.peer.as_ref().map(ToString::to_string);
                info!(reason = reject.label(), caller, client = %cx.facts.client, port = cx.port, "authz audit: would be refused");
                Ok(None)
            }
            (judged, _) => judged,
        }
    }
}

impl Looks {
    fn of<'a>(rules: impl Iterator<Item = &'a Rule>) -> Self {
        let mut looks = Self::default();
        for rule in rules {
            looks.paths |= !rule.request.paths.is_empty();
            looks.hosts |= !rule.request.hosts.is_empty();
            looks.query |= !rule.request.query.is_empty();
            for (name, _) in &rule.request.headers {
                if !looks.headers.contains(name) {
                    looks.headers.push(name.clone());
                }
            }
        }
        looks
    }
}

impl From<Unreadable> for Reject {
    fn from(_: Unreadable) -> Self {
        Self::AuthzUnreadable
    }
}

/// Who calls, and where.
#[derive(Clone, Copy)]
struct Who<'a> {
    caller: Option<&'a SpiffeId>,
    port: u16,
}

impl<'a> Who<'a> {
    fn of(cx: &'a Cx) -> Self {
        Self {
            caller: cx.facts.peer.as_ref(),
            port: cx.port,
        }
    }

    fn is_meant(&self, rule: &Rule) -> bool {
        let is_named = |callers: &Vec<Caller>| {
            let mut callers = callers.iter();
            self.caller
                .is_some_and(|caller| callers.any(|one| one.matches(caller)))
        };
        rule.from.as_ref().is_none_or(is_named)
            && (rule.ports.is_empty() || rule.ports.contains(&self.port))
    }
}

/// Whether the verified token says all that the rule asks for.
fn has_claims(rule: &Rule, claims: Option<&Claims>) -> Result<bool, Unreadable> {
    for (path, wanted) in &rule.claims {
        let value = claims.and_then(|claims| claims.get(path));
        let Some(value) = value else { return Ok(false) };
        if !facts::claim_is_one_of(path, value, wanted)? {
            return Ok(false);
        }
    }
    Ok(true)
}
