//! The units an operator writes: `250ms`, `64KiB`, `5%`.
//!
//! A unit is always written for durations and shares, so that no number can be taken for another
//! thing; a size without one is in bytes. Bounds are set by whoever asked for the value.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::read::At;

/// Parses a duration of whole numbers with the units `h`, `m`, `s`, `ms`, largest first, each at
/// most once: `250ms`, `2s`, `1m30s`, `1h`.
///
/// # Errors
/// Says what is wrong: no number, no unit or an unknown one, units out of order, too large.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text;
    let mut units = DURATION_UNITS;
    let mut total = Duration::ZERO;
    loop {
        let (number, unit, after) = number_and_unit(rest)?;
        let (millis, smaller) = duration_unit(units, unit, text)?;
        let part = number.checked_mul(millis).ok_or(UnitError::TooLarge)?;
        total = total
            .checked_add(Duration::from_millis(part))
            .ok_or(UnitError::TooLarge)?;
        (rest, units) = (after, smaller);
        if rest.is_empty() {
            return Ok(total);
        }
    }
}

/// Parses a size into bytes: `128`, `64KiB` (x 1024), `10MB` (x 1000 x 1000).
///
/// # Errors
/// Says what is wrong: no number, an unknown unit, too large.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit, rest) = number_and_unit(text)?;
    if !rest.is_empty() {
        return Err(UnitError::Trailing {
            text: rest.to_owned(),
        });
    }
    let known = SIZE_UNITS.iter().find(|known| known.name == unit);
    let known = known.ok_or_else(|| unknown(unit, "B, KB, KiB, MB, MiB, GB, GiB"))?;
    number.checked_mul(known.scale).ok_or(UnitError::TooLarge)
}

/// Parses a share of a whole: `5%`, `0.25%`, from `0%` to `100%` with up to four decimals.
///
/// # Errors
/// Says what is wrong: no number, no per cent sign, too many decimals, more than all.
pub fn parse_share(text: &str) -> Result<Share, UnitError> {
    let number = text
        .strip_suffix('%')
        .ok_or_else(|| no_unit(text, &["%"]))?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if decimals.len() > SHARE_DECIMALS.len() {
        return Err(UnitError::TooPrecise {
            decimals: SHARE_DECIMALS.len(),
        });
    }
    let padded = format!(
        "{decimals}{}",
        SHARE_DECIMALS.get(decimals.len()..).unwrap_or("")
    );
    parse_digits(decimals)?;
    let whole = parse_digits(whole)?
        .checked_mul(MILLIONTHS_PER_CENT)
        .ok_or(UnitError::TooLarge)?;
    let millionths = whole
        .checked_add(parse_digits(&padded)?)
        .ok_or(UnitError::TooLarge)?;
    match u32::try_from(millionths) {
        Ok(millionths) if millionths <= Share::ALL.millionths => Ok(Share { millionths }),
        _ => Err(UnitError::MoreThanAll),
    }
}

/// A share of a whole in steps of a millionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    millionths: u32,
}

impl Share {
    /// Nothing, `0%`.
    pub const NONE: Self = Self { millionths: 0 };
    /// `20%`.
    pub const FIFTH: Self = Self {
        millionths: 200_000,
    };
    /// `50%`.
    pub const HALF: Self = Self {
        millionths: 500_000,
    };
    /// Everything, `100%`.
    pub const ALL: Self = Self {
        millionths: 1_000_000,
    };

    /// Returns the share in millionths, 0 to 1,000,000.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.millionths
    }

    /// Returns the share as a number from 0.0 to 1.0.
    #[must_use]
    pub fn ratio(self) -> f64 {
        f64::from(self.millionths) / f64::from(Self::ALL.millionths)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.millionths / 10_000, self.millionths % 10_000);
        match rest {
            0 => write!(f, "{whole}%"),
            _ => write!(f, "{whole}.{}%", format!("{rest:04}").trim_end_matches('0')),
        }
    }
}

/// Why a value with a unit was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Begins with something else than a digit; signs and spaces included.
    #[error("{text:?} does not begin with a whole number")]
    NoNumber {
        /// What was found instead.
        text: String,
    },
    /// A number alone, where a unit must say what it counts.
    #[error("has no unit; write {write}")]
    NoUnit {
        /// How it can be written.
        write: String,
    },
    /// A unit that is not known here.
    #[error("unknown unit {unit:?}, known are {known}")]
    UnknownUnit {
        /// The unit found.
        unit: String,
        /// The units known.
        known: &'static str,
    },
    /// A known unit after a smaller one, or twice.
    #[error("unit {unit:?} comes too late, write the largest first and each once")]
    UnitOrder {
        /// The unit found.
        unit: String,
    },
    /// Something after a complete value.
    #[error("{text:?} follows after the value")]
    Trailing {
        /// What follows.
        text: String,
    },
    /// Does not fit into 64 bits.
    #[error("is too large")]
    TooLarge,
    /// More decimals than are kept.
    #[error("has more than {decimals} decimals")]
    TooPrecise {
        /// How many are kept.
        decimals: usize,
    },
    /// A share above `100%`.
    #[error("is more than 100%")]
    MoreThanAll,
}

/// Splits `1m30s` into 1, `m` and `30s`.
fn number_and_unit(text: &str) -> Result<(u64, &str, &str), UnitError> {
    let end_of = |text: &str, digit: bool| {
        text.find(|c: char| c.is_ascii_digit() != digit)
            .unwrap_or(text.len())
    };
    let (number, rest) = text.split_at(end_of(text, true));
    if number.is_empty() {
        return Err(UnitError::NoNumber {
            text: text.to_owned(),
        });
    }
    let (unit, rest) = rest.split_at(end_of(rest, false));
    Ok((parse_digits(number)?, unit, rest))
}

/// What was meant, most likely: the same with a unit.
fn no_unit(text: &str, units: &[&str]) -> UnitError {
    let number = if text.starts_with(|c: char| c.is_ascii_digit()) {
        text
    } else {
        "5"
    };
    let words: Vec<String> = units
        .iter()
        .map(|unit| format!("\"{number}{unit}\""))
        .collect();
    UnitError::NoUnit {
        write: words.join(" or "),
    }
}

/// Finds `unit` among `units` and returns its milliseconds and the smaller units that may follow.
fn duration_unit<'a>(
    units: &'a [Unit],
    unit: &str,
    text: &str,
) -> Result<(u64, &'a [Unit]), UnitError> {
    let mut rest = units;
    while let Some((known, smaller)) = rest.split_first() {
        if known.name == unit {
            return Ok((known.scale, smaller));
        }
        rest = smaller;
    }
    if unit.is_empty() {
        return Err(no_unit(text, &["s", "ms"]));
    }
    match DURATION_UNITS.iter().any(|known| known.name == unit) {
        true => Err(UnitError::UnitOrder {
            unit: unit.to_owned(),
        }),
        false => Err(unknown(unit, "h, m, s, ms")),
    }
}

/// A duration that makes sense as a bound.
pub(crate) fn duration(at: &At<'_>) -> Option<Duration> {
    let duration = at.parse(parse_duration)?;
    if !(Duration::from_millis(1)..=MAX_DURATION).contains(&duration) {
        at.refuse("is not from 1ms to 168h; to have none, write null");
    }
    Some(duration)
}

/// A size in bytes among `allowed`.
pub(crate) fn size(at: &At<'_>, allowed: RangeInclusive<u64>) -> Option<u64> {
    let size = at.parse(parse_size)?;
    if !allowed.contains(&size) {
        at.refuse(format!(
            "is not from {} to {} bytes",
            allowed.start(),
            allowed.end()
        ));
    }
    Some(size)
}

fn parse_digits(text: &str) -> Result<u64, UnitError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UnitError::NoNumber {
            text: text.to_owned(),
        });
    }
    // Only digits are left, so the one thing that can be wrong is their number.
    text.parse().or(Err(UnitError::TooLarge))
}

fn unknown(unit: &str, known: &'static str) -> UnitError {
    UnitError::UnknownUnit {
        unit: unit.to_owned(),
        known,
    }
}

struct Unit {
    name: &'static str,
    /// How many milliseconds or bytes one of it is.
    scale: u64,
}

const fn unit(name: &'static str, scale: u64) -> Unit {
    Unit { name, scale }
}

const DURATION_UNITS: &[Unit] = &[
    unit("h", 3_600_000),
    unit("m", 60_000),
    unit("s", 1000),
    unit("ms", 1),
];
const SIZE_UNITS: &[Unit] = &[
    unit("", 1),
    unit("B", 1),
    unit("KB", 1000),
    unit("KiB", 1 << 10),
    unit("MB", 1_000_000),
    unit("MiB", 1 << 20),
    unit("GB", 1_000_000_000),
    unit("GiB", 1 << 30),
];
/// A week: longer is as good as none.
const MAX_DURATION: Duration = Duration::from_secs(168 * 3600);
const SHARE_DECIMALS: &str = "0000";
const MILLIONTHS_PER_CENT: u64 = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_units_largest_first() {
        let rows: &[(&str, Result<u64, UnitError>)] = &[
            ("250ms", Ok(250)),
            ("2s", Ok(2000)),
            ("0s", Ok(0)),
            ("1m30s", Ok(90_000)),
            ("1h", Ok(3_600_000)),
            ("2160h", Ok(7_776_000_000)),
            ("1h2m3s4ms", Ok(3_723_004)),
            (
                "",
                Err(UnitError::NoNumber {
                    text: String::new(),
                }),
            ),
            ("s", Err(UnitError::NoNumber { text: "s".into() })),
            ("-1s", Err(UnitError::NoNumber { text: "-1s".into() })),
            (
                "5",
                Err(UnitError::NoUnit {
                    write: "\"5s\" or \"5ms\"".into(),
                }),
            ),
            (
                "1m30",
                Err(UnitError::NoUnit {
                    write: "\"1m30s\" or \"1m30ms\"".into(),
                }),
            ),
            ("30s1m", Err(UnitError::UnitOrder { unit: "m".into() })),
            ("1s1s", Err(UnitError::UnitOrder { unit: "s".into() })),
            ("1d", Err(unknown("d", "h, m, s, ms"))),
            ("1.5s", Err(unknown(".", "h, m, s, ms"))),
            ("1 s", Err(unknown(" s", "h, m, s, ms"))),
            ("99999999999999999999s", Err(UnitError::TooLarge)),
            ("18446744073709551615h", Err(UnitError::TooLarge)),
        ];
        for (text, want) in rows {
            assert_eq!(
                parse_duration(text),
                want.clone().map(Duration::from_millis),
                "{text:?}"
            );
        }
    }

    #[test]
    fn sizes_are_bytes_unless_a_unit_says_otherwise() {
        let rows: &[(&str, Result<u64, UnitError>)] = &[
            ("128", Ok(128)),
            ("128B", Ok(128)),
            ("64KiB", Ok(65_536)),
            ("10MB", Ok(10_000_000)),
            ("1GiB", Ok(1_073_741_824)),
            (
                "",
                Err(UnitError::NoNumber {
                    text: String::new(),
                }),
            ),
            ("64kib", Err(unknown("kib", "B, KB, KiB, MB, MiB, GB, GiB"))),
            ("64KiB1", Err(UnitError::Trailing { text: "1".into() })),
            ("18446744073709551615KiB", Err(UnitError::TooLarge)),
        ];
        for (text, want) in rows {
            assert_eq!(parse_size(text), *want, "{text:?}");
        }
    }

    #[test]
    fn shares_run_from_nothing_to_all() {
        let rows: &[(&str, Result<u32, UnitError>)] = &[
            ("0%", Ok(0)),
            ("5%", Ok(50_000)),
            ("0.25%", Ok(2500)),
            ("0.0001%", Ok(1)),
            ("100%", Ok(1_000_000)),
            ("100.0001%", Err(UnitError::MoreThanAll)),
            ("0.00001%", Err(UnitError::TooPrecise { decimals: 4 })),
            (
                "5",
                Err(UnitError::NoUnit {
                    write: "\"5%\"".into(),
                }),
            ),
            (
                "5.%",
                Err(UnitError::NoNumber {
                    text: String::new(),
                }),
            ),
            (
                ".5%",
                Err(UnitError::NoNumber {
                    text: String::new(),
                }),
            ),
            ("+5%", Err(UnitError::NoNumber { text: "+5".into() })),
            ("99999999999999999999%", Err(UnitError::TooLarge)),
        ];
        for (text, want) in rows {
            assert_eq!(parse_share(text).map(Share::millionths), *want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn printing_a_share_and_parsing_it_are_inverse(millionths in 0_u32..=1_000_000) {
            let share = Share { millionths };
            prop_assert_eq!(parse_share(&share.to_string()), Ok(share));
        }

        #[test]
        fn a_duration_written_in_parts_is_their_sum(h in 0_u64..9999, m in 0_u64..99, s in 0_u64..99, ms in 0_u64..9999) {
            let want = Duration::from_millis(((h * 60 + m) * 60 + s) * 1000 + ms);
            prop_assert_eq!(parse_duration(&format!("{h}h{m}m{s}s{ms}ms")), Ok(want));
        }

        #[test]
        fn any_text_is_a_value_or_an_error(text in "[0-9.]{0,22}\\PC{0,6}") {
            let _ = (parse_duration(&text), parse_size(&text), parse_share(&text));
        }
    }
}
