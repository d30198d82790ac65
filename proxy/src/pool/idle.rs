//! Kept HTTP/1 connections: one is given to one request at a time, and comes back when its answer has been read.
//!
//! What the other side has closed must not be given out; how long an endpoint keeps an idle connection is learnt.

use std::mem::MaybeUninit;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::time::{Duration, Instant, timeout};

use super::{Lane, Open};
use crate::connect::{ConnectError, Connected, accepted};
use crate::http::h1;
use crate::http::h1::body::Home;
use crate::http::h1::conn::{Conn, Shared};
use crate::telemetry::metrics::OpenGauge;
use crate::tls::Speaks;

/// A kept HTTP/1 connection.
pub(super) struct Idle {
    conn: Shared,
    since: Instant,
    _counted: OpenGauge,
}

/// What came of waiting.
enum Found {
    Kept(Shared),
    Opened(Box<(Connected, Open)>),
}

impl Lane {
    /// A connection for one HTTP/1 request: a kept one, or with `fresh` always a new one.
    ///
    /// # Errors
    /// None is kept and none could be opened.
    pub(crate) async fn http1(
        self: &Rc<Self>,
        fresh: bool,
    ) -> Result<h1::client::Client, ConnectError> {
        let now = Instant::now();
        self.used.set(now);
        let home: Rc<dyn Home> = Rc::<Self>::clone(self);
        if let Some(conn) = self.take_idle(now).filter(|_| !fresh) {
            return Ok(h1::client::Client {
                conn,
                reused: true,
                home: Some(home),
                limits: self.config.limits,
                tasks: self.tasks.clone(),
            });
        }
        let (connected, open) = match self.open(Speaks::Http1).await {
            // On the heap, for it is rare.
            Err(ConnectError::Full { .. }) => match Box::pin(self.wait(now)).await? {
                Found::Kept(conn) => {
                    return Ok(h1::client::Client {
                        conn,
                        reused: true,
                        home: Some(home),
                        limits: self.config.limits,
                        tasks: self.tasks.clone(),
                    });
                }
                Found::Opened(opened) => *opened,
            },
            opened => opened?,
        };
        if fresh {
            self.accepted(&connected).await?;
        }
        let mut conn = Conn::new(connected.io, BytesMut::new());
        conn.expires = connected.expires;
        conn.open = Some(open);
        Ok(h1::client::Client {
            conn: Shared::new(conn.into()),
            reused: false,
            home: Some(home),
            limits: self.config.limits,
            tasks: self.tasks.clone(),
        })
    }

    /// Where a kept connection failed or is not trusted the other side may be leaving: a new one is used once it is accepted.
    pub(super) async fn accepted(&self, connected: &Connected) -> Result<(), ConnectError> {
        if connected.io.secure() {
            return Ok(());
        }
        let waited = accepted::wait(connected.io.socket()).await;
        waited.map_err(|source| ConnectError::Tcp {
            endpoint: self.target.address,
            source,
        })
    }

    /// Waits for a connection of an endpoint that has as many as it may, in a queue no longer than policy says.
    async fn wait(&self, since: Instant) -> Result<Found, ConnectError> {
        let limit = self.connect_limit();
        let full = || ConnectError::Full {
            endpoint: self.target.address,
            limit: self.most(),
        };
        let Some(endpoint) = &self.target.endpoint else {
            return Err(full());
        };
        let _place = endpoint
            .uses
            .wait(self.rule.get().pool.pending)
            .ok_or_else(full)?;
        loop {
            // Another worker's connection may have ended, which nobody tells us.
            let _told = timeout(ASK_AGAIN, self.freed.notified()).await;
            let now = Instant::now();
            if let Some(conn) = self.take_idle(now) {
                return Ok(Found::Kept(conn));
            }
            match self.open(Speaks::Http1).await {
                Err(ConnectError::Full { .. }) if now.saturating_duration_since(since) < limit => {}
                opened => return opened.map(|opened| Found::Opened(Box::new(opened))),
            }
        }
    }

    fn take_idle(&self, now: Instant) -> Option<Shared> {
        loop {
            let Idle { conn, since, .. } = self.idle.borrow_mut().pop()?;
            let idle = now.saturating_duration_since(since);
            if idle < self.idle_limit(now) && still_open(&conn, idle, now) {
                return Some(conn);
            }
        }
    }

    /// The configured limit, or most of what the endpoint itself was seen to allow.
    fn idle_limit(&self, now: Instant) -> Duration {
        match self.learned.get() {
            Some((limit, seen)) if now.saturating_duration_since(seen) < FORGET_LIMIT => {
                self.idle_allowed().min(limit.mul_f32(SAFE_SHARE))
            }
            Some(_) | None => self.idle_allowed(),
        }
    }

    /// Looks at every idle connection; drops those that have ended, learning from it, or been kept for long enough.
    pub(super) fn sweep_idle(&self, cx: &mut Context<'_>, now: Instant) {
        let limit = self.idle_limit(now);
        let mut shortest: Option<Duration> = None;
        self.idle.borrow_mut().retain(|Idle { conn, since, .. }| {
            let idle = now.saturating_duration_since(*since);
            let conn = &mut *conn.borrow_mut();
            let ended = conn.poll_gone(cx).is_ready() || conn.eof || !conn.input.is_empty();
            if ended && conn.eof {
                shortest = Some(shortest.map_or(idle, |other| other.min(idle)));
            }
            !ended && idle < limit
        });
        if let Some(closed_after) = shortest.filter(|idle| *idle >= MIN_LEARNED) {
            let known = self
                .learned
                .get()
                .map_or(closed_after, |(limit, _)| limit.min(closed_after));
            self.learned.set(Some((known, now)));
        }
    }
}

impl Home for Lane {
    fn take_back(self: Rc<Self>, conn: Shared) {
        let now = Instant::now();
        {
            let conn = &mut *conn.borrow_mut();
            conn.release_input();
            let janitor = self.janitor.borrow();
            // Registers the janitor for what the connection says while it is idle.
            let gone = conn
                .poll_gone(&mut Context::from_waker(&janitor))
                .is_ready();
            conn.served = conn.served.saturating_add(1);
            let most = self.rule.get().pool.requests_per_connection;
            if gone
                || most.is_some_and(|most| conn.served >= most.get())
                || conn.eof
                || !conn.input.is_empty()
                || conn.expires.is_some_and(|at| now >= at)
            {
                return;
            }
        }
        let _counted = self.kept.open();
        self.idle.borrow_mut().push(Idle {
            conn,
            since: now,
            _counted,
        });
        self.freed.notify_one();
    }
}

/// Asks the reactor first and then the kernel: what has arrived in this turn is known there only.
fn still_open(conn: &Shared, idle: Duration, now: Instant) -> bool {
    let mut conn = conn.borrow_mut();
    let said = conn.poll_gone(&mut Context::from_waker(Waker::noop()));
    let ended = said.is_ready() || conn.eof || !conn.input.is_empty();
    if ended || conn.expires.is_some_and(|at| now >= at) {
        return false;
    }
    if idle < JUST_USED {
        return true;
    }
    let mut byte = [MaybeUninit::uninit()];
    match SockRef::from(conn.io().socket()).peek(&mut byte) {
        Ok(0) => false,
        // Session tickets are readable on an idle TLS connection; on a plain one nothing may be.
        Ok(_) => conn.io().secure(),
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

/// How often a request that waits for a connection looks whether there is one.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// The share of an endpoint's own idle limit after which we no longer trust a connection.
const SAFE_SHARE: f32 = 0.8;

/// A close sooner than this says nothing about idling.
const MIN_LEARNED: Duration = Duration::from_millis(100);

/// A learned limit is tried again after this.
const FORGET_LIMIT: Duration = Duration::from_secs(600);

/// A connection used this recently is used again without asking the kernel.
const JUST_USED: Duration = Duration::from_millis(20);
