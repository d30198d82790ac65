//! What a value of the environment can be: one constant a kind, with how to write it.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use tracing_subscriber::filter::Targets;
use weft_policy::probe::AppProbes;
use weft_policy::spiffe::{SpiffeId, TrustDomain};
use weft_policy::units::{parse_duration, parse_size};

use super::InboundPort;
use crate::discovery::service::AppProtocol;

/// How a value is read, and what to tell who wrote another.
#[derive(Debug)]
pub(crate) struct Kind<T> {
    /// The reason follows the name of the variable in a sentence: "has no unit".
    pub(crate) parse: fn(&str) -> Result<T, String>,
    /// How to write it, as an instruction.
    pub(crate) fix: &'static str,
}

impl<T> Clone for Kind<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Kind<T> {}

pub(super) const ADDRESS: Kind<SocketAddr> = Kind {
    parse: address,
    fix: "write ip:port, such as 127.0.0.1:15001 or [::]:15006",
};
pub(super) const ADDRESSES: Kind<Vec<SocketAddr>> = Kind {
    parse: |text| list(text, address),
    fix: "write ip:port, several separated by commas: 127.0.0.1:15001,[::1]:15001",
};
pub(super) const INBOUND_PORTS: Kind<Vec<InboundPort>> = Kind {
    parse: inbound_ports,
    fix: "write port=ip:port[/protocol], several separated by commas: 8080=127.0.0.1:3000,9090=127.0.0.1:3001/grpc",
};
pub(super) const APP_PROBES: Kind<AppProbes> = Kind {
    parse: |text| {
        serde_json::from_str(text).map_err(|error| format!("is no map of probes: {error}"))
    },
    fix: "leave it to the injector, which makes it of the pod's probes",
};
pub(super) const PORTS: Kind<Vec<u16>> = Kind {
    parse: ports,
    fix: "write port numbers separated by commas: 25,3306",
};
pub(super) const PATH: Kind<PathBuf> = Kind {
    parse: |text| utf8(text).map(PathBuf::from),
    fix: "write a path",
};
pub(super) const NAME: Kind<String> = Kind {
    parse: name,
    fix: "write a name of at most 253 letters, digits, '-', '.' and '_'",
};
pub(super) const TRUST_DOMAIN: Kind<TrustDomain> = Kind {
    parse: |text| TrustDomain::parse(text).map_err(|error| error.to_string()),
    fix: "write a trust domain, such as cluster.local",
};
pub(super) const SPIFFE_ID: Kind<SpiffeId> = Kind {
    parse: |text| SpiffeId::parse(text).map_err(|error| error.to_string()),
    fix: "write spiffe://<trust domain>/ns/<namespace>/sa/<service account>",
};
pub(super) const HTTPS_URL: Kind<String> = Kind {
    parse: |text| url(text, &["https"]),
    fix: "write https://host:port",
};
pub(super) const HTTP_URL: Kind<String> = Kind {
    parse: |text| url(text, &["http", "https"]),
    fix: "write http://host:port or https://host:port",
};
pub(super) const DURATION: Kind<Duration> = Kind {
    parse: |text| match duration(text)? {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        some => Ok(some),
    },
    fix: "write a duration, such as 250ms, 2s, 1m30s or 1h",
};
pub(super) const DURATION_OR_ZERO: Kind<Duration> = Kind {
    parse: duration,
    fix: "write a duration, such as 0s, 250ms, 2s, 1m30s or 1h",
};
/// OpenTelemetry's way to write a duration.
pub(super) const MILLISECONDS: Kind<Duration> = Kind {
    parse: |text| count(text).map(|count| Duration::from_millis(count as u64)),
    fix: "write milliseconds as a whole number above 0, without a unit",
};
pub(super) const COUNT: Kind<usize> = Kind {
    parse: count,
    fix: "write a whole number above 0",
};
pub(super) const WORKERS: Kind<usize> = Kind {
    parse: |text| at_most(count(text)?, 1024),
    fix: "write a whole number from 1 to 1024",
};
pub(super) const STREAMS: Kind<u32> = Kind {
    parse: |text| {
        let count = at_most(count(text)?, 1_000_000)?;
        u32::try_from(count).map_err(|error| error.to_string())
    },
    fix: "write a whole number from 1 to 1000000",
};
/// What one request's head may be: every client sends more than 1 KiB at times, and no server takes more than 1 MiB.
pub(super) const HEADER_BYTES: Kind<usize> = Kind {
    parse: |text| {
        let bytes = parse_size(text).map_err(|error| error.to_string())?;
        match usize::try_from(bytes) {
            Ok(bytes @ 1024..=1_048_576) => Ok(bytes),
            Ok(_) | Err(_) => Err("is out of range".to_owned()),
        }
    },
    fix: "write a size from 1KiB to 1MiB",
};
/// Checked here, so that a mistake does not show only once logging starts.
pub(super) const FILTER: Kind<String> = Kind {
    parse: |text| match text.parse::<Targets>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    },
    fix: "write a level or a list of targets with levels: info,weft_proxy=debug",
};

fn address(text: &str) -> Result<SocketAddr, String> {
    SocketAddr::from_str(text).map_err(|_unhelpful| format!("{text:?} is no ip:port"))
}

fn inbound_ports(text: &str) -> Result<Vec<InboundPort>, String> {
    let ports = if text.is_empty() {
        Vec::new()
    } else {
        list(text, inbound_port)?
    };
    let mut seen = std::collections::BTreeSet::new();
    match ports.iter().find(|one| !seen.insert(one.port)) {
        Some(twice) => Err(format!("names port {} twice", twice.port)),
        None => Ok(ports),
    }
}

fn inbound_port(text: &str) -> Result<InboundPort, String> {
    let (port, rest) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} has no '='"))?;
    let (app, protocol) = match rest.split_once('/') {
        Some((app, protocol)) => (app, Some(protocol)),
        None => (rest, None),
    };
    let protocol = protocol.map(AppProtocol::from_str).transpose();
    Ok(InboundPort {
        port: self::port(port)?,
        app: address(app)?,
        protocol: protocol.map_err(|error| format!("{text:?} names a protocol, but {error}"))?,
    })
}

fn ports(text: &str) -> Result<Vec<u16>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut ports = list(text, port)?;
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is no port")),
        Ok(port) => Ok(port),
    }
}

fn list<T>(text: &str, one: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(|item| one(item.trim())).collect()
}

fn utf8(text: &str) -> Result<&str, String> {
    match text.contains(char::REPLACEMENT_CHARACTER) {
        true => Err("is not UTF-8".to_owned()),
        false => Ok(text),
    }
}

/// What Kubernetes allows in names and labels, which is what ends up here.
fn name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(format!("contains {c:?}")),
        None if text.len() > 253 => Err(format!("is {} characters long", text.len())),
        None => Ok(text.to_owned()),
    }
}

fn url(text: &str, schemes: &[&str]) -> Result<String, String> {
    let uri = Uri::from_str(text).map_err(|error| error.to_string())?;
    match (uri.scheme_str(), uri.host()) {
        (Some(scheme), Some(host)) if schemes.contains(&scheme) && !host.is_empty() => {
            Ok(text.to_owned())
        }
        (Some(scheme), Some(_)) => Err(format!("has the scheme {scheme:?}")),
        (None | Some(_), _) => Err("is no URL".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text).map_err(|error| error.to_string())? {
        long if long > MAX_DURATION => Err("is longer than ten years".to_owned()),
        duration => Ok(duration),
    }
}

fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().map(NonZeroUsize::get);
    count.map_err(|_unhelpful| "is no whole number above 0".to_owned())
}

fn at_most(count: usize, limit: usize) -> Result<usize, String> {
    match count > limit {
        true => Err(format!("is more than {limit}")),
        false => Ok(count),
    }
}

/// Far from where adding to a point in time overflows.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
