//! What an operator can ask of Weft: pure types and their parsing.
//!
//! No I/O, no runtime, no TLS. The proxy, the certificate authority and the admission webhook share these types, so a value means the
//! same everywhere and a mistake in it is refused with the same words.
//!
//! [`Policy`] is the whole, parsed and merged: what the service's own proxy enforces, what its callers' proxies enforce
//! ([`Calls`]), and how the proxy itself runs.

pub mod annotations;
pub mod downward;
pub mod keys;
pub mod layer;
pub mod node;
pub mod problem;
pub mod scope;

pub mod authz;
pub mod balance;
pub mod breaker;
pub mod caller;
pub mod egress;
pub mod fault;
pub mod headers;
pub mod jwt;
pub mod limits;
pub mod matcher;
pub mod own;
pub mod probe;
pub mod rate_limit;
pub mod retry;
pub mod route;
pub mod secrets;
pub mod spiffe;
pub mod status;
pub mod timeout;
pub mod units;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod read;
mod short;

use std::collections::BTreeMap;
use std::time::Duration;

use self::authz::{AuthzMode, Rule};
use self::balance::{Balance, PoolPolicy};
use self::breaker::Breaker;
use self::caller::Caller;
use self::egress::Egress;
use self::fault::Fault;
use self::headers::HeaderEdits;
use self::jwt::JwtRule;
use self::limits::{Concurrency, Limits};
use self::node::Node;
use self::own::{Log, Mtls, Port, ProxyContainer, Skip, Trace};
use self::problem::Problem;
use self::rate_limit::RateLimit;
use self::read::{At, Cx, Fields, Part};
use self::retry::Retry;
use self::route::{Base, Fallback, Route, ServiceRef};
use self::scope::Scope;
use self::timeout::Timeouts;

/// Everything one service's proxy is asked for: all layers merged, every value parsed.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Policy {
    /// Enforced by the service's own proxy on what comes in.
    pub inbound: Inbound,
    /// How the service's callers shall call it: enforced by theirs.
    pub calls: Calls,
    /// `to`: how this service calls others, over what they ask for.
    pub to: BTreeMap<ServiceRef, Calls>,
    /// `egress`: which hosts outside the mesh this service may call.
    pub egress: Egress,
    /// `trace`.
    pub trace: Trace,
    /// `log`.
    pub log: Log,
    /// `drain`; `None` leaves it to the proxy's configuration.
    pub drain: Option<Duration>,
    /// `inject`; `None` follows the namespace.
    pub inject: Option<bool>,
    /// `skip`.
    pub skip: Skip,
    /// `proxy`.
    pub proxy: ProxyContainer,
}

/// Enforced by the service's own proxy.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Inbound {
    /// `mtls`; `None` leaves it to the proxy's configuration, permissive.
    pub mtls: Option<Mtls>,
    /// `allow`; `None` allows all.
    pub allow: Option<Vec<Rule>>,
    /// `deny` of all layers.
    pub deny: Vec<Rule>,
    /// `authz.mode`.
    pub authz_mode: AuthzMode,
    /// `jwt`, an item an issuer.
    pub jwt: Vec<JwtRule>,
    /// `rate-limit`: a request must pass all that it matches.
    pub rate_limit: Vec<RateLimit>,
    /// `explain`: who may ask why, with `x-weft-explain: 1`.
    pub explain: Vec<Caller>,
    /// `concurrency`.
    pub concurrency: Option<Concurrency>,
    /// `limits`.
    pub limits: Limits,
    /// `headers`.
    pub headers: HeaderEdits,
    /// `fault`.
    pub fault: Vec<Fault>,
    /// `ports`.
    pub ports: BTreeMap<u16, Port>,
}

/// Enforced by the callers' proxies.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Calls {
    /// `timeout`.
    pub timeout: Timeouts,
    /// `retry`.
    pub retry: Retry,
    /// `breaker`.
    pub breaker: Breaker,
    /// `balance`.
    pub balance: Balance,
    /// `pool`.
    pub pool: PoolPolicy,
    /// `routes`.
    pub routes: Vec<Route>,
    /// `fallback`.
    pub fallback: Option<Fallback>,
}

impl Policy {
    /// Reads a whole policy from one YAML document.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str, scope: &Scope) -> Result<Self, Vec<Problem>> {
        let node = Node::parse(text).map_err(|error| vec![Problem::of_text(&error)])?;
        Self::read(&node, scope, Part::Whole)
    }

    fn read(node: &Node, scope: &Scope, part: Part) -> Result<Self, Vec<Problem>> {
        let cx = Cx::new(scope, part);
        let at = At {
            node,
            path: String::new(),
            cx: &cx,
        };
        let policy = Self::read_at(&at);
        match cx.into_problems() {
            problems if problems.is_empty() => Ok(policy),
            problems => Err(problems),
        }
    }

    fn read_at(at: &At<'_>) -> Self {
        let fields = at.fields(KEYS);
        Self {
            inbound: Inbound::read(&fields),
            calls: Calls::read(&fields),
            to: fields
                .get("to")
                .map(|at| Calls::read_map(&at))
                .unwrap_or_default(),
            egress: read(&fields, "egress", Egress::read),
            trace: read(&fields, "trace", Trace::read),
            log: read(&fields, "log", Log::read),
            drain: fields.get("drain").and_then(|at| own::drain(&at)),
            inject: fields.get("inject").and_then(|at| own::inject(&at)),
            skip: read(&fields, "skip", Skip::read),
            proxy: read(&fields, "proxy", ProxyContainer::read),
        }
    }
}

impl Inbound {
    fn read(fields: &Fields<'_>) -> Self {
        let authz = fields.get("authz").map(|at| at.fields(&["mode"]));
        let mode = authz.and_then(|fields| fields.get("mode"));
        let explain = |at: &At<'_>| at.list(MAX_CALLERS, |text| Caller::parse(text, at.scope()));
        Self {
            mtls: fields.get("mtls").and_then(|at| Mtls::read(&at)),
            allow: fields.get("allow").map(|at| Rule::read_list(&at)),
            deny: read(fields, "deny", Rule::read_list),
            authz_mode: mode.map(|at| AuthzMode::read(&at)).unwrap_or_default(),
            jwt: read(fields, "jwt", JwtRule::read_list),
            rate_limit: read(fields, "rate-limit", RateLimit::read_list),
            explain: read(fields, "explain", explain),
            concurrency: fields
                .get("concurrency")
                .and_then(|at| Concurrency::read(&at)),
            limits: read(fields, "limits", Limits::read),
            headers: read(fields, "headers", HeaderEdits::read),
            fault: read(fields, "fault", Fault::read_list),
            ports: read(fields, "ports", Port::read_map),
        }
    }
}

impl Calls {
    fn read(fields: &Fields<'_>) -> Self {
        let timeout = fields.get("timeout");
        let timeout = timeout.map_or(Timeouts::DEFAULT, |at| {
            Timeouts::read(&at, Timeouts::DEFAULT)
        });
        let retry = fields.get("retry");
        let retry = retry.map_or_else(Retry::default, |at| Retry::read(&at, &Retry::default()));
        let base = Base {
            timeout,
            retry: &retry,
        };
        let routes = read(fields, "routes", |at| Route::read_list(at, base));
        Self {
            timeout,
            routes,
            retry,
            breaker: read(fields, "breaker", Breaker::read),
            balance: read(fields, "balance", Balance::read),
            pool: read(fields, "pool", PoolPolicy::read),
            fallback: fields.get("fallback").map(|at| Fallback::read(&at)),
        }
    }

    /// Reads a document of the callers' side alone.
    fn read_node(node: &Node, scope: &Scope) -> Result<Self, Vec<Problem>> {
        let cx = Cx::new(scope, Part::Whole);
        let at = At {
            node,
            path: String::new(),
            cx: &cx,
        };
        let calls = Self::read(&at.fields(CALLS_KEYS));
        match cx.into_problems() {
            problems if problems.is_empty() => Ok(calls),
            problems => Err(problems),
        }
    }

    /// Reads `to`.
    fn read_map(at: &At<'_>) -> BTreeMap<ServiceRef, Self> {
        let mut map = BTreeMap::new();
        for (name, at) in at.entries(MAX_SERVICES) {
            let Some(service) = at.checked(ServiceRef::parse(name, at.scope())) else {
                continue;
            };
            if map
                .insert(service, Self::read(&at.fields(CALLS_KEYS)))
                .is_some()
            {
                at.complain("names a service that is there already");
            }
        }
        map
    }
}

/// What `read` makes of the value under `key`, or what holds where nothing is written.
fn read<T: Default>(fields: &Fields<'_>, key: &'static str, read: impl FnOnce(&At<'_>) -> T) -> T {
    fields.get(key).map(|at| read(&at)).unwrap_or_default()
}

/// The keys of a document.
const KEYS: &[&str] = &[
    "mtls",
    "allow",
    "deny",
    "authz",
    "jwt",
    "rate-limit",
    "concurrency",
    "limits",
    "headers",
    "fault",
    "ports",
    "explain",
    "timeout",
    "retry",
    "breaker",
    "balance",
    "pool",
    "routes",
    "fallback",
    "to",
    "egress",
    "trace",
    "log",
    "drain",
    "inject",
    "skip",
    "proxy",
];
/// Those of the callers' side.
const CALLS_KEYS: &[&str] = &[
    "timeout", "retry", "breaker", "balance", "pool", "routes", "fallback",
];
/// Those that the injector reads when it makes a pod.
const POD_KEYS: &[&str] = &["inject", "skip", "proxy"];
const MAX_CALLERS: usize = 1000;
const MAX_SERVICES: usize = 1000;

#[cfg(test)]
mod tests;
