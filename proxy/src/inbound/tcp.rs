//! Opaque connections: one connection to the app for one from the caller.
//!
//! Comes after `transport`. What turns out to be HTTP is given back, so that it is read and judged as such.

use tokio::time::Duration;

use super::{Inbound, rules};
use crate::detect::{self, Patience};
use crate::forward::{self, Early};
use crate::io::Io;
use crate::policy::ports::Declared;
use crate::tls::Speaks;

impl Inbound {
    /// Opaque bytes: one connection to the app for one from the caller. Gives back what turns out to be HTTP.
    pub(super) async fn tcp(&self, mut io: Io, early: Early) -> Option<(Io, Speaks)> {
        let destination = self.destination();
        let declared = rules(&self.cx.worker, Some(self.app)).declared;
        let judged = self.cx.worker.policies.current().opaque(&self.cx, declared);
        let http = matches!(declared, Some(Declared::Http | Declared::Http2));
        // Who may not pass unread may still be late with HTTP, which has more to show.
        if http || (judged.is_err() && early == Early::Unknown) {
            match self.listen(&mut io).await {
                Some(speaks) => return Some((io, speaks)),
                // HTTP that is none is answered as such.
                None if http => return Some((io, Speaks::Http1)),
                None => {}
            }
        }
        if let Err(reject) = judged {
            forward::refuse_tcp(&self.cx, &io, destination, reject);
            return None;
        }
        let idle = self.cx.limits.idle_timeout;
        let forwarded = forward::tcp(&self.cx, io, (early, idle), destination, self.lane.opaque());
        match self.expires {
            None => forwarded.await,
            // Opaque bytes have no moment at which to say goodbye: they get a minute after the identities' end.
            Some(at) => {
                let cut = tokio::time::timeout_at(at + EXPIRED_GRACE, forwarded).await;
                cut.ok().flatten()
            }
        }
    }

    /// What the client speaks, if it is HTTP; the app hears nothing of it yet.
    async fn listen(&self, io: &mut Io) -> Option<Speaks> {
        let settings = &self.cx.worker.settings;
        let patience = Patience {
            silence: settings.limits.header_timeout,
            rest: settings.detect_timeout,
        };
        let heard = detect::client_word(io, patience).await;
        heard.ok().and_then(forward::http_of)
    }
}

pub(super) const EXPIRED_GRACE: Duration = Duration::from_secs(60);
