//! Which requests are traced: `WEFT_TRACE_SAMPLE`, and OpenTelemetry's own variables over it.

use std::num::NonZeroU32;
use std::time::Duration;

use weft_policy::units::{Share, parse_share};

use super::env::EnvReader;
use super::kind::Kind;
use super::propagators::Propagators;

/// Which requests are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sampling {
    /// Whether a decision that came with the request is kept.
    pub(crate) parent: Parent,
    /// What is decided where none came.
    pub(crate) roots: Roots,
    /// Which headers say it.
    pub(crate) propagators: Propagators,
}

/// What becomes of a decision that came with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    Followed,
    Ignored,
}

/// Which new traces are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    Never,
    Always,
    Share(Share),
    /// At most so many in `per`, for the whole proxy; unused ones do not add up beyond one `per`.
    Rate {
        count: NonZeroU32,
        per: Duration,
    },
}

impl Sampling {
    pub(super) fn read(env: &mut EnvReader<impl Fn(&str) -> Option<String>>) -> Self {
        let roots = env.or("WEFT_TRACE_SAMPLE", "10/s", ROOTS);
        let share = env
            .optional("OTEL_TRACES_SAMPLER_ARG", RATIO)
            .unwrap_or(Share::ALL);
        let sampler = env.optional("OTEL_TRACES_SAMPLER", SAMPLER);
        let propagators = Propagators::read(env);
        let Some((parent, roots)) = sampler.map(|name| named(&name, share)) else {
            return Self {
                parent: Parent::Followed,
                roots,
                propagators,
            };
        };
        Self {
            parent,
            roots,
            propagators,
        }
    }
}

/// From the OpenTelemetry specification, "SDK environment variables"; `SAMPLER` has refused other names.
fn named(name: &str, share: Share) -> (Parent, Roots) {
    let (parent, name) = match name.strip_prefix("parentbased_") {
        Some(name) => (Parent::Followed, name),
        None => (Parent::Ignored, name),
    };
    match name {
        "always_off" => (parent, Roots::Never),
        "traceidratio" => (parent, Roots::Share(share)),
        _ => (parent, Roots::Always),
    }
}

const SAMPLER: Kind<String> = Kind {
    parse: |text| match text.strip_prefix("parentbased_").unwrap_or(text) {
        "always_on" | "always_off" | "traceidratio" => Ok(text.to_owned()),
        _ => Err("is no sampler that we have".to_owned()),
    },
    fix: "write always_on, always_off or traceidratio, each also with parentbased_ in front",
};

const RATIO: Kind<Share> = Kind {
    parse: ratio,
    fix: "write a number from 0 to 1 with up to six decimals, such as 0.01",
};

const ROOTS: Kind<Roots> = Kind {
    parse: roots,
    fix: "write a rate such as 10/s, 100/m or 1000/h, a share such as 5%, always or never",
};

fn roots(text: &str) -> Result<Roots, String> {
    match text {
        "always" => Ok(Roots::Always),
        "never" => Ok(Roots::Never),
        _ if text.ends_with('%') => match parse_share(text).map_err(|error| error.to_string())? {
            Share::NONE => Ok(Roots::Never),
            share => Ok(Roots::Share(share)),
        },
        _ => rate(text),
    }
}

fn rate(text: &str) -> Result<Roots, String> {
    let (count, per) = text.split_once('/').ok_or("is no rate")?;
    let per = match per {
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return Err(format!("has the unknown unit {per:?}")),
    };
    match count.parse::<u32>().map(NonZeroU32::new) {
        Ok(Some(count)) => Ok(Roots::Rate { count, per }),
        Ok(None) => Ok(Roots::Never),
        Err(_unhelpful) => Err(format!("counts {count:?}, which is no whole number")),
    }
}

/// `0.25` is read as `25%`, so that there is one parser of shares.
fn ratio(text: &str) -> Result<Share, String> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.len() <= 6 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || text.len() == whole.len() && whole.is_empty() {
        return Err("is no number from 0 to 1".to_owned());
    }
    let decimals = format!("{decimals:0<6}");
    let (cents, rest) = decimals.split_at(2);
    parse_share(&format!("{whole}{cents}.{rest}%")).map_err(|error| error.to_string())
}
