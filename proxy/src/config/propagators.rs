//! Which headers carry a trace: `OTEL_PROPAGATORS`.

use super::env::EnvReader;
use super::kind::Kind;

/// The headers that a trace is read from and written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Propagators {
    pub(crate) w3c: Use,
    /// B3 in one header.
    pub(crate) b3: Use,
    /// B3 in several headers.
    pub(crate) b3_multi: Use,
}

/// What is done with one form of headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Passes untouched.
    Ignored,
    /// Read, and rewritten where it was there.
    Read,
    /// Read, and written for the next hop in any case.
    Written,
}

impl Propagators {
    /// Where nothing is said: all are read, and W3C's is written.
    pub(crate) const DEFAULT: Self = Self {
        w3c: Use::Written,
        b3: Use::Read,
        b3_multi: Use::Read,
    };

    pub(super) fn read(env: &mut EnvReader<impl Fn(&str) -> Option<String>>) -> Self {
        env.optional("OTEL_PROPAGATORS", PROPAGATORS)
            .unwrap_or(Self::DEFAULT)
    }
}

/// `baggage` passes in any case.
const PROPAGATORS: Kind<Propagators> = Kind {
    parse: |text| {
        let mut named = Propagators {
            w3c: Use::Ignored,
            b3: Use::Ignored,
            b3_multi: Use::Ignored,
        };
        for name in text.split(',').map(str::trim) {
            match name {
                "tracecontext" => named.w3c = Use::Written,
                "b3" => named.b3 = Use::Written,
                "b3multi" => named.b3_multi = Use::Written,
                "baggage" | "none" | "" => {}
                other => return Err(format!("names {other:?}, which we do not speak")),
            }
        }
        Ok(named)
    },
    fix: "write tracecontext, baggage, b3, b3multi, several separated by commas, or none",
};
