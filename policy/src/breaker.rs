//! `breaker`: when an endpoint is left out, and for how long.

use std::time::Duration;

use crate::units::Share;

/// The breaker of each endpoint of a service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// Opens at this share of failures within `window`, once there were `min_requests`.
    pub ratio: Option<Share>,
    /// Over which `ratio` is taken.
    pub window: Duration,
    /// Fewer decide nothing.
    pub min_requests: u32,
    /// Opens at so many failures in a row.
    pub consecutive: Option<u32>,
    /// How long it stays open the first time; doubles each time it opens again, with jitter.
    pub open_for: Duration,
    /// The longest it stays open.
    pub max_open_for: Duration,
    /// The largest share of a service's endpoints that may be open at once.
    pub max_ejected: Share,
    /// Whether the only endpoint of a service may open too.
    pub lone: bool,
}

impl Breaker {
    /// What holds where an operator writes nothing: 5 failures in a row, 10 s to 5 m, at most half, a lone endpoint never.
    pub const UNWRITTEN: Self = Self {
        ratio: None,
        window: Duration::from_secs(10),
        min_requests: 5,
        consecutive: Some(5),
        open_for: Duration::from_secs(10),
        max_open_for: Duration::from_secs(300),
        max_ejected: Share::HALF,
        lone: false,
    };
    /// What an operator's own words start from.
    pub const WRITTEN: Self = Self {
        consecutive: None,
        max_ejected: Share::ALL,
        lone: true,
        ..Self::UNWRITTEN
    };
}

impl Default for Breaker {
    fn default() -> Self {
        Self::UNWRITTEN
    }
}
