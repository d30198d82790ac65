//! Counts the frames that make us work for nothing, and ends the connection before they cost much.
//!
//! SETTINGS and PING must be answered (RFC 9113 sections 6.5 and 6.7), RST_STREAM after HEADERS is the rapid reset of
//! CVE-2023-44487, empty DATA and CONTINUATION are CVE-2019-9518 and CVE-2024-27316. A connection earns such frames by
//! useful ones in either direction: a gRPC client asks for a PING now and then while it is sent messages, and gives credit for
//! them; and time earns some, for the pings of a connection on which little happens. One that only sends them is told
//! `ENHANCE_YOUR_CALM` and closed.

use tokio::time::{Duration, Instant};

/// The frame type, RFC 9113 section 11.2.
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const WINDOW_UPDATE: u8 = 0x8;

/// The flood budget of one connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Meter {
    incoming: Frames,
    outgoing: Frames,
    budget: u32,
    /// Of WINDOW_UPDATE, of which a download needs many.
    credit: u32,
    /// When time last earned something.
    refilled: Instant,
}

/// Too many frames came that carry nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HTTP/2 frame flood")]
pub(crate) struct Flood;

impl Meter {
    /// Of a client's connection to us, whose preface (RFC 9113 section 3.4) is still to come.
    pub(crate) fn of_client(now: Instant) -> Self {
        Self {
            incoming: Frames::after(PREFACE),
            ..Self::of_server(now)
        }
    }

    /// Of our connection to a server. Our own preface passes for a frame or two, which spoils nothing but the count of them.
    pub(crate) fn of_server(now: Instant) -> Self {
        Self {
            incoming: Frames::after(0),
            outgoing: Frames::after(0),
            budget: MAX_BUDGET,
            credit: MAX_CREDIT,
            refilled: now,
        }
    }

    /// Looks at the next bytes that came. The clock is read only when a budget is used up.
    ///
    /// # Errors
    /// Too many frames that carry nothing.
    pub(crate) fn see(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        while let Some((kind, length)) = self.incoming.next(&mut bytes) {
            match kind {
                DATA if length > 0 => self.earn(0),
                HEADERS => self.earn(0),
                WINDOW_UPDATE => {
                    if self.credit == 0 {
                        self.refill(now());
                    }
                    self.credit = self.credit.checked_sub(1).ok_or(Flood)?;
                }
                RST_STREAM => self.spend(RESET_COST, &now)?,
                _ => self.spend(1, &now)?,
            }
        }
        Ok(())
    }

    /// Looks at the next bytes that are sent.
    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some((kind, length)) = self.outgoing.next(&mut bytes) {
            match kind {
                DATA if length > 0 => self.earn(length),
                HEADERS => self.earn(0),
                _ => {}
            }
        }
    }

    /// For a useful frame, of which so many bytes were sent.
    fn earn(&mut self, sent: u32) {
        self.budget = (self.budget + EARNED).min(MAX_BUDGET);
        self.credit = (self.credit + CREDIT_A_FRAME + sent / CREDIT_BYTES).min(MAX_CREDIT);
    }

    /// What time has earned since the last time.
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        let earned = passed.as_millis() / EARNED_EACH.as_millis();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.refilled = now;
            self.budget = self.budget.saturating_add(earned).min(MAX_BUDGET);
            self.credit = self.credit.saturating_add(earned).min(MAX_CREDIT);
        }
    }

    fn spend(&mut self, cost: u32, now: &impl Fn() -> Instant) -> Result<(), Flood> {
        if self.budget < cost {
            self.refill(now());
        }
        self.budget = self.budget.checked_sub(cost).ok_or(Flood)?;
        Ok(())
    }
}

/// Finds the frames in bytes that come in any pieces.
#[derive(Debug, PartialEq, Eq)]
struct Frames {
    /// Bytes left of the preface, then of the frame's payload.
    skip: usize,
    /// A frame header that came in pieces.
    partial: [u8; FRAME_HEADER],
    have: usize,
}

impl Frames {
    fn after(skip: usize) -> Self {
        Self {
            skip,
            partial: [0; FRAME_HEADER],
            have: 0,
        }
    }

    /// Kind and length of the next frame whose header is there; `None` when `bytes` are used up.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<(u8, u32)> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            *bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return None;
            }
            let wanted = FRAME_HEADER - self.have;
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            if let Some(space) = self.partial.get_mut(self.have..self.have + now.len()) {
                space.copy_from_slice(now);
            }
            self.have += now.len();
            *bytes = rest;
            if self.have == FRAME_HEADER {
                self.have = 0;
                let [high, middle, low, kind, ..] = self.partial;
                let length = u32::from_be_bytes([0, high, middle, low]);
                self.skip = length as usize;
                return Some((kind, length));
            }
        }
    }
}

const FRAME_HEADER: usize = 9;
const PREFACE: usize = 24;
/// Frames that may come for nothing.
const MAX_BUDGET: u32 = 1000;
/// How long it takes to earn one by waiting.
const EARNED_EACH: Duration = Duration::from_millis(100);
/// What one useful frame earns.
const EARNED: u32 = 1;
/// A request that does nothing but be reset costs more than it earned; one with a body breaks even.
const RESET_COST: u32 = 2;
/// Updates of windows that may come for nothing.
const MAX_CREDIT: u32 = 4000;
/// Updates that a frame earns, and those for each so many bytes of ours: two, of stream and connection, for each 512.
const CREDIT_A_FRAME: u32 = 4;
const CREDIT_BYTES: u32 = 256;

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
            ("credit for nothing", vec![frame(8, 4)], true),
            (
                "uploads",
                vec![frame(0, 20), frame(8, 4), frame(6, 8)],
                false,
            ),
        ];
        for (name, pattern, cut) in rows {
            let start = Instant::now();
            let mut meter = Meter::of_client(start);
            let mut see = |bytes: &[u8]| meter.see(bytes, || start);
            see(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
            let ended = (0..5000).any(|_| pattern.iter().any(|bytes| see(bytes).is_err()));
            assert_eq!(ended, *cut, "{name}");
        }
    }

    #[test]
    fn what_we_send_earns_the_answers_to_it() {
        let rows: &[(&str, Vec<u8>, Vec<u8>, bool)] = &[
            (
                "messages, each with a ping",
                frame(0, 20),
                frame(6, 8),
                false,
            ),
            (
                "messages, each with credit",
                frame(0, 20),
                frame(8, 4),
                false,
            ),
            ("answers to pings", frame(6, 8), frame(6, 8), true),
            ("answers to settings", frame(4, 0), frame(4, 0), true),
        ];
        for (name, sent, came, cut) in rows {
            let start = Instant::now();
            let mut meter = Meter::of_server(start);
            let ended = (0..5000).any(|_| {
                meter.sent(sent);
                meter.see(came, || start).is_err()
            });
            assert_eq!(ended, *cut, "{name}");
        }
    }

    #[test]
    fn a_ping_now_and_then_is_no_flood() {
        let start = Instant::now();
        for (each, cut) in [(1000, false), (100, false), (10, true)] {
            let mut meter = Meter::of_server(start);
            let ended = (0..5000_u64).any(|number| {
                let now = start + Duration::from_millis(number * each);
                meter.see(&frame(6, 8), || now).is_err()
            });
            assert_eq!(ended, cut, "one each {each} ms");
        }
    }

    #[test]
    fn frames_may_come_in_any_pieces() {
        let mut whole = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        (0..3).for_each(|_| whole.extend(frame(6, 8)));
        for size in 1..whole.len() {
            let start = Instant::now();
            let mut meter = Meter::of_client(start);
            whole
                .chunks(size)
                .for_each(|piece| meter.see(piece, || start).unwrap());
            assert_eq!(meter.budget, MAX_BUDGET - 3, "pieces of {size}");
        }
    }
}
