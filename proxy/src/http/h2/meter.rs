//! Counts the frames that make us work for nothing, and ends the connection before they cost much.
//!
//! SETTINGS and PING must be answered (RFC 9113 sections 6.5 and 6.7), RST_STREAM after HEADERS is the rapid reset of
//! CVE-2023-44487, empty DATA and CONTINUATION are CVE-2019-9518 and CVE-2024-27316. A connection earns such frames by
//! doing something useful; one that only sends them is closed.

use std::io;

/// The frame type, RFC 9113 section 11.2.
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const WINDOW_UPDATE: u8 = 0x8;

/// The flood budget of one connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Meter {
    /// Bytes left of the preface, then of the frame's payload.
    skip: usize,
    /// A frame header that came in pieces.
    partial: [u8; FRAME_HEADER],
    have: usize,
    budget: u32,
}

/// Reads from how a connection ended why we closed it, as a label; `None` where the other side did, or nobody is to blame.
pub(crate) fn blame(error: &h2::Error) -> Option<&'static str> {
    let flood = error.get_io().is_some_and(|io| io.kind() == FLOOD);
    let calm = error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
    match (flood, error.is_go_away() && !error.is_remote()) {
        (true, _) => Some("flood"),
        (false, true) if calm => Some("flood"),
        (false, true) if error.reason() != Some(h2::Reason::NO_ERROR) => Some("http2_protocol"),
        (false, _) => None,
    }
}

impl Meter {
    /// Of a connection whose client preface (RFC 9113 section 3.4) is still to come.
    pub(crate) fn new() -> Self {
        Self {
            skip: 24,
            partial: [0; FRAME_HEADER],
            have: 0,
            budget: MAX_BUDGET,
        }
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// Too many frames that carry nothing.
    pub(crate) fn see(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            let wanted = FRAME_HEADER - self.have;
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            if let Some(space) = self.partial.get_mut(self.have..self.have + now.len()) {
                space.copy_from_slice(now);
            }
            self.have += now.len();
            bytes = rest;
            if self.have == FRAME_HEADER {
                self.have = 0;
                self.frame()?;
            }
        }
    }

    fn frame(&mut self) -> io::Result<()> {
        let [high, middle, low, kind, ..] = self.partial;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.skip = length;
        match kind {
            DATA if length > 0 => self.budget = (self.budget + EARNED).min(MAX_BUDGET),
            HEADERS => self.budget = (self.budget + EARNED).min(MAX_BUDGET),
            // Credit is given for what we send: as many as the answers need.
            WINDOW_UPDATE => {}
            RST_STREAM => self.spend(RESET_COST)?,
            _ => self.spend(1)?,
        }
        Ok(())
    }

    fn spend(&mut self, cost: u32) -> io::Result<()> {
        self.budget = self
            .budget
            .checked_sub(cost)
            .ok_or_else(|| io::Error::new(FLOOD, "HTTP/2 frame flood"))?;
        Ok(())
    }
}

/// How the end of a flooding connection is told from others: sockets never fail like this.
const FLOOD: io::ErrorKind = io::ErrorKind::QuotaExceeded;
const FRAME_HEADER: usize = 9;
/// Frames that may come for nothing.
const MAX_BUDGET: u32 = 1000;
/// What one useful frame earns.
const EARNED: u32 = 1;
/// A request that does nothing but be reset costs more than it earned; one with a body breaks even.
const RESET_COST: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0, 0, u8::try_from(length).unwrap(), kind, 0, 0, 0, 0, 1];
        bytes.extend(std::iter::repeat_n(7, length));
        bytes
    }

    #[test]
    fn a_flood_is_cut_and_traffic_is_not() {
        let rows: &[(&str, Vec<Vec<u8>>, bool)] = &[
            ("pings", vec![frame(6, 8)], true),
            ("settings", vec![frame(4, 0)], true),
            ("empty data", vec![frame(0, 0)], true),
            ("requests", vec![frame(1, 10), frame(0, 20)], false),
            ("rapid reset", vec![frame(1, 10), frame(3, 4)], true),
            (
                "calls that are cancelled",
                vec![frame(1, 10), frame(0, 20), frame(3, 4)],
                false,
            ),
            ("downloads", vec![frame(8, 4)], false),
        ];
        for (name, pattern, cut) in rows {
            let mut meter = Meter::new();
            meter.see(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
            let ended = (0..5000).any(|_| pattern.iter().any(|bytes| meter.see(bytes).is_err()));
            assert_eq!(ended, *cut, "{name}");
        }
    }

    #[test]
    fn frames_may_come_in_any_pieces() {
        let mut whole = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        (0..3).for_each(|_| whole.extend(frame(6, 8)));
        for size in 1..whole.len() {
            let mut meter = Meter::new();
            whole
                .chunks(size)
                .for_each(|piece| meter.see(piece).unwrap());
            assert_eq!(meter.budget, MAX_BUDGET - 3, "pieces of {size}");
        }
    }
}
