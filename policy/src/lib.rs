//! What an operator can ask of Weft: pure types and their parsing.
//!
//! No I/O, no runtime, no TLS. The proxy, the certificate authority and the admission webhook share these types, so a value means the
//! same everywhere and a mistake in it is refused with the same words.
//!
//! [`Policy`] is the whole, parsed and merged: what the service's own proxy enforces, what its callers' proxies enforce
//! ([`Calls`]), and how the proxy itself runs.

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
pub mod rate_limit;
pub mod retry;
pub mod route;
pub mod spiffe;
pub mod status;
pub mod timeout;
pub mod units;

use std::collections::BTreeMap;
use std::time::Duration;

use self::authz::{AuthzMode, Rule};
use self::balance::{Balance, PoolPolicy};
use self::breaker::Breaker;
use self::egress::Egress;
use self::fault::Fault;
use self::headers::HeaderEdits;
use self::jwt::JwtRule;
use self::limits::{Concurrency, Limits};
use self::own::{Log, Mtls, Port, ProxyContainer, Skip, Trace};
use self::rate_limit::RateLimit;
use self::retry::Retry;
use self::route::{Fallback, Route, ServiceRef};
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
