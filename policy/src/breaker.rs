//! `breaker`: when an endpoint is left out, and for how long.

use std::time::Duration;

use crate::read::At;
use crate::units::{self, Share};

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

impl Breaker {
    /// Whether anything opens it.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.ratio.is_some() || self.consecutive.is_some()
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::UNWRITTEN
    }
}

impl Breaker {
    /// `off` stands for neither of the two things it opens at.
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields_or(
            "ratio",
            &[
                "ratio",
                "window",
                "min-requests",
                "consecutive",
                "open-for",
                "max-open-for",
                "max-ejected",
            ],
        );
        let base = Self::WRITTEN;
        let duration = |key| fields.get(key).and_then(|at| units::duration(&at));
        let consecutive = match fields.get("consecutive") {
            Some(at) => unless_off(&at, || at.number(1, 1_000_000)),
            // Whoever sets only the time or the cap does not ask for a breaker that never opens.
            None if fields.has("ratio") => None,
            None => Self::UNWRITTEN.consecutive,
        };
        Self {
            ratio: fields
                .get("ratio")
                .and_then(|at| unless_off(&at, || ratio(&at))),
            window: duration("window").unwrap_or(base.window),
            min_requests: fields
                .get("min-requests")
                .and_then(|at| at.number(1, 1_000_000))
                .unwrap_or(base.min_requests),
            consecutive,
            open_for: duration("open-for").unwrap_or(base.open_for),
            max_open_for: duration("max-open-for").unwrap_or(base.max_open_for),
            max_ejected: fields
                .get("max-ejected")
                .and_then(|at| at.parse(units::parse_share))
                .unwrap_or(base.max_ejected),
            lone: base.lone,
        }
    }
}

fn ratio(at: &At<'_>) -> Option<Share> {
    let share = at.parse(units::parse_share)?;
    if share == Share::NONE {
        at.refuse("would open without a failure; write off");
    }
    Some(share)
}

fn unless_off<T>(at: &At<'_>, read: impl FnOnce() -> Option<T>) -> Option<T> {
    match at.node.as_text() {
        Some("off") => None,
        _ => read(),
    }
}
