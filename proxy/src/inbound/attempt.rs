//! One attempt of a request at the app, and what a failure says: whether the app can have seen it.
//!
//! Called by `retry`, which tries again only where a kept connection was stale.

use std::cell::Cell;
use std::pin::pin;

use tokio::time::Duration;

use super::Inbound;
use crate::connect::ConnectError;
use crate::deadline;
use crate::forward::{self, Sent};
use crate::http::failure::Processed;
use crate::http::interim::Interim;
use crate::reject::Reject;
use crate::retry::{Attempt, Failed, Outcome};

impl Inbound {
    pub(super) async fn attempt(
        &self,
        attempt: Attempt<'_>,
        interim: &Interim,
        waited: &Cell<Option<Duration>>,
    ) -> Outcome {
        // An app that ends closes the connections it kept: while we drain, none of them is trusted with a request.
        let fresh = attempt.fresh || self.cx.worker.drain.begun();
        let attempt = Attempt { fresh, ..attempt };
        let until = attempt.until;
        let sending = forward::send(&self.lane, attempt, interim, &self.cx.worker, waited);
        let sent = match deadline::by(until, pin!(sending)).await {
            Ok(sent) => sent,
            Err(reject) => return Outcome::Final(reject),
        };
        match sent {
            Sent::Answer(answer) => Outcome::Answer {
                answer,
                endpoint: None,
            },
            Sent::NotConnected(error) => Outcome::Failed(Failed {
                reject: app_reject(&error),
                // Nobody else can serve this app: there is no endpoint to go to.
                processed: Processed::Maybe,
                reused: false,
                endpoint: None,
            }),
            Sent::Failed(failed) if failed.processed == Processed::Maybe && !failed.reused => {
                Outcome::Final(failed.reject)
            }
            Sent::Failed(failed) => Outcome::Failed(failed),
        }
    }
}

/// A refused connection means that the app does not listen: nothing has seen the request.
fn app_reject(error: &ConnectError) -> Reject {
    match error {
        ConnectError::Tcp { .. } => Reject::AppGone,
        ConnectError::Timeout { .. }
        | ConnectError::NoIdentity { .. }
        | ConnectError::Handshake { .. }
        | ConnectError::Loop { .. }
        | ConnectError::Full { .. } => error.reject(),
    }
}
