//! Asks DNS for the endpoints of a name: A, AAAA and SRV, through hickory-resolver.
//!
//! Search domains are walked here, not by the resolver: only so is "does not exist" told apart from "one of the servers did
//! not answer", on which depends whether the last good answer stays. Nothing is cached here, that is `cache`'s part.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use hickory_resolver::Hosts;
use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use self::system::Settings;
use crate::discovery::name::address_literal;
use crate::discovery::service::ServiceName;

pub(in crate::discovery) mod system;

/// Which servers are asked.
#[derive(Clone, Debug)]
pub(crate) enum DnsSource {
    /// Those of `/etc/resolv.conf`, after `/etc/hosts`; changes of both are followed.
    System,
    /// These, without a hosts file and search domains.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "tests name servers of their own")
    )]
    Servers(Vec<SocketAddr>),
}

/// What a name leads to.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::discovery) struct Answer {
    pub(in crate::discovery) targets: Vec<Target>,
    /// How long it may be used, as DNS says; not bounded yet.
    pub(in crate::discovery) ttl: Duration,
}

/// One address that a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::discovery) struct Target {
    pub(in crate::discovery) address: SocketAddr,
    pub(in crate::discovery) weight: u32,
    /// Lower is preferred.
    pub(in crate::discovery) priority: u32,
}

/// Why there is no answer.
#[derive(Debug)]
pub(in crate::discovery) enum Failure {
    /// The name does not exist, or has no addresses; how long that holds, as DNS says.
    NotFound { ttl: Option<Duration> },
    /// Nobody could tell.
    Unanswered(NetError),
}

/// The servers, hosts file and search domains of one moment.
#[derive(Debug)]
pub(in crate::discovery) struct Upstream {
    resolver: TokioResolver,
    hosts: Hosts,
    search: Vec<Name>,
    /// Dots from which on a name is tried as it is before it is searched for (resolv.conf(5)).
    ndots: usize,
}

impl Upstream {
    fn new(settings: Settings) -> Result<Self, NetError> {
        let Settings {
            resolver,
            hosts,
            search,
            ndots,
        } = settings;
        Ok(Self {
            resolver: resolver.build()?,
            hosts,
            search,
            ndots,
        })
    }

    /// Looks `service` up: an SRV name (`_http._tcp.example.com`) by its SRV records, any other by its addresses.
    pub(in crate::discovery) async fn resolve(
        &self,
        service: &ServiceName,
    ) -> Result<Answer, Failure> {
        if let Some(ip) = address_literal(&service.host) {
            let target = Target {
                address: (ip, service.port).into(),
                weight: 1,
                priority: 0,
            };
            return Ok(Answer {
                targets: vec![target],
                ttl: Duration::MAX,
            });
        }
        let mut outcome = Failure::NotFound { ttl: None };
        for name in self.candidates(&service.host)? {
            let found = if is_srv(&service.host) {
                self.srv(name).await
            } else {
                self.addresses(name, service.port).await
            };
            match found {
                Ok(answer) => return Ok(answer),
                Err(Failure::NotFound { ttl }) => outcome = outcome.after_not_found(ttl),
                // A server that fails for one domain may serve the next one, as with glibc; but one that is away is away.
                Err(Failure::Unanswered(error @ NetError::Dns(_))) => {
                    outcome = Failure::Unanswered(error);
                }
                Err(unanswered) => return Err(unanswered),
            }
        }
        Err(outcome)
    }

    /// The full names that `host` may stand for, in the order in which they are tried.
    fn candidates(&self, host: &str) -> Result<Vec<Name>, Failure> {
        let relative = Name::from_ascii(host).map_err(|error| Failure::Unanswered(error.into()))?;
        let mut absolute = relative.clone();
        absolute.set_fqdn(true);
        // "Name resolution APIs SHOULD NOT send queries for localhost names" (RFC 6761 section 6.3).
        if absolute.is_localhost() || self.in_hosts(&absolute) {
            return Ok(vec![absolute]);
        }
        let mut names: Vec<Name> = self
            .search
            .iter()
            .take(MAX_SEARCH)
            .filter_map(|domain| relative.clone().append_domain(domain).ok())
            .collect();
        let searched_first = host.matches('.').count() < self.ndots;
        names.insert(if searched_first { names.len() } else { 0 }, absolute);
        Ok(names)
    }

    fn in_hosts(&self, name: &Name) -> bool {
        let listed = |kind| {
            self.hosts
                .lookup_static_host(&Query::query(name.clone(), kind))
                .is_some()
        };
        listed(RecordType::A) || listed(RecordType::AAAA)
    }

    /// The addresses of a full name. IPv4 is preferred: both families mostly lead to the same hosts, and where IPv6 has
    /// addresses but no route, every other request would fail first.
    async fn addresses(&self, name: Name, port: u16) -> Result<Answer, Failure> {
        let v4 = std::pin::pin!(self.records(name.clone(), RecordType::A));
        let v6 = std::pin::pin!(self.records(name, RecordType::AAAA));
        let (v4, v6) = match select(v4, v6).await {
            Either::Left((Ok(v4), v6)) => {
                let late = Err(Failure::Unanswered(NetError::Timeout));
                (Ok(v4), timeout(RESOLUTION_DELAY, v6).await.unwrap_or(late))
            }
            Either::Left((v4, v6)) => (v4, v6.await),
            Either::Right((v6, v4)) => (v4.await, v6),
        };
        let (v4, v6) = match (v4, v6) {
            (Ok(v4), Ok(v6)) => (Some(v4), Some(v6)),
            (Ok(v4), Err(_)) => (Some(v4), None),
            (Err(_), Ok(v6)) => (None, Some(v6)),
            (Err(one), Err(other)) => return Err(one.or(other)),
        };
        let lookups = || v4.iter().chain(&v6);
        let ips = lookups()
            .flat_map(Lookup::answers)
            .filter_map(|record| address(&record.data));
        let target = |ip: IpAddr| Target {
            address: (ip, port).into(),
            weight: 1,
            priority: u32::from(ip.is_ipv6()),
        };
        Ok(Answer {
            targets: ips.take(MAX_TARGETS).map(target).collect(),
            ttl: lookups().map(ttl).min().unwrap_or_default(),
        })
    }

    /// The targets of the SRV records of a full name, each with its own port, priority and weight (RFC 2782).
    async fn srv(&self, name: Name) -> Result<Answer, Failure> {
        let lookup = self.records(name, RecordType::SRV).await?;
        let records = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv),
                _ => None,
            });
        // "A Target of "." means that the service is decidedly not available at this domain" (RFC 2782).
        let records: Vec<&SRV> = records
            .filter(|srv| !srv.target.is_root())
            .take(MAX_TARGETS)
            .collect();
        let weighted = records.iter().any(|srv| srv.weight > 0);
        let answers = join_all(
            records
                .into_iter()
                .map(|srv| self.srv_target(srv, weighted)),
        )
        .await;
        let mut whole = Answer {
            targets: Vec::new(),
            ttl: ttl(&lookup),
        };
        let mut failure = Failure::NotFound {
            ttl: Some(ttl(&lookup)),
        };
        for answer in answers {
            match answer {
                Ok(part) => {
                    whole.targets.extend(part.targets);
                    whole.ttl = whole.ttl.min(part.ttl);
                }
                Err(error) => failure = failure.or(error),
            }
        }
        whole.targets.truncate(MAX_TARGETS);
        if whole.targets.is_empty() {
            Err(failure)
        } else {
            Ok(whole)
        }
    }

    async fn srv_target(&self, srv: &SRV, weighted: bool) -> Result<Answer, Failure> {
        let mut target = srv.target.clone();
        target.set_fqdn(true);
        let mut answer = self.addresses(target, srv.port).await?;
        for target in &mut answer.targets {
            target.priority += 2 * u32::from(srv.priority);
            // "In the presence of records containing weights greater than 0, records with weight 0 should have a very small
            // chance of being selected" (RFC 2782); our weight 0 has none.
            target.weight = if weighted {
                (100 * u32::from(srv.weight)).max(1)
            } else {
                1
            };
        }
        Ok(answer)
    }

    async fn records(&self, name: Name, kind: RecordType) -> Result<Lookup, Failure> {
        let listed = |kind| {
            self.hosts
                .lookup_static_host(&Query::query(name.clone(), kind))
        };
        // A host that is listed with one family has no address of the other, whatever DNS says.
        if self.in_hosts(&name) {
            return listed(kind).ok_or(Failure::NotFound { ttl: None });
        }
        let lookup = self.resolver.lookup(name, kind).await?;
        // A chain of CNAMEs that ends nowhere has answers, but not of the kind.
        let answered = lookup
            .answers()
            .iter()
            .any(|record| record.record_type() == kind);
        if answered {
            Ok(lookup)
        } else {
            Err(Failure::NotFound {
                ttl: Some(ttl(&lookup)),
            })
        }
    }
}

impl Failure {
    /// Two questions for the same name failed: it does not exist only if both say so.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::NotFound { ttl }, Self::NotFound { ttl: other }) => Self::NotFound {
                ttl: ttl.into_iter().chain(other).min(),
            },
            (unanswered @ Self::Unanswered(_), _) | (_, unanswered) => unanswered,
        }
    }

    fn after_not_found(self, ttl: Option<Duration>) -> Self {
        self.or(Self::NotFound { ttl })
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => Self::NotFound {
                ttl: none.negative_ttl.map(|ttl| Duration::from_secs(ttl.into())),
            },
            unanswered => Self::Unanswered(unanswered),
        }
    }
}

fn ttl(lookup: &Lookup) -> Duration {
    let seconds = lookup
        .answers()
        .iter()
        .map(|record| record.ttl)
        .min()
        .unwrap_or(0);
    Duration::from_secs(seconds.into())
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(v4) => Some(IpAddr::V4(v4.0)),
        RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
        _ => None,
    }
}

/// Whether `host` has the form `_service._protocol.name` of RFC 2782.
fn is_srv(host: &str) -> bool {
    let mut labels = host.split('.');
    labels
        .next()
        .is_some_and(|service| service.starts_with('_'))
        && labels
            .next()
            .is_some_and(|protocol| protocol.starts_with('_'))
        && labels.next().is_some()
}

/// How long an answer for IPv4 waits for the one for IPv6 (RFC 8305 section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Endpoints of one name; bounds what a hostile zone can make us hold.
const MAX_TARGETS: usize = 256;

/// Search domains that are tried.
const MAX_SEARCH: usize = 8;

#[cfg(test)]
mod tests;
