//! Makes trouble on purpose: delays, then aborts, a share of requests. Inbound by `fault`, outbound by a route's.
//!
//! A delayed request is a sleeping task: it holds its stream, no worker, and ends when its caller goes away.

use http::Request;
use tokio::time::sleep;
use weft_policy::fault::{Abort, Fault};
use weft_policy::units::Share;

use super::matches::matches;
use crate::cx::Cx;
use crate::http::body::Body;
use crate::http::grpc;
use crate::reject::Reject;

/// Does to `request` what each of `faults` that speaks of it says, in their order.
///
/// # Errors
/// It is aborted.
pub(crate) async fn inject(
    cx: &Cx,
    faults: &[Fault],
    request: &Request<Body>,
) -> Result<(), Reject> {
    for fault in faults {
        if matches(&fault.matches, request) {
            one(cx, fault).await?;
        }
    }
    Ok(())
}

async fn one(cx: &Cx, fault: &Fault) -> Result<(), Reject> {
    let metrics = cx.worker.telemetry.metrics();
    if let Some((length, share)) = fault.delay
        && falls_in(share)
    {
        metrics.fault("delay");
        sleep(length).await;
    }
    match fault.abort {
        Some((abort, share)) if falls_in(share) => {
            metrics.fault("abort");
            Err(reject(abort))
        }
        _ => Ok(()),
    }
}

fn reject(abort: Abort) -> Reject {
    let (status, grpc) = match abort {
        Abort::Status(status) => (status, grpc::code_of(status)),
        Abort::Grpc(code) => (grpc::status_of(code.0), code.0),
    };
    Reject::FaultAbort { status, grpc }
}

fn falls_in(share: Share) -> bool {
    fastrand::u32(0..Share::ALL.millionths()) < share.millionths()
}

#[cfg(test)]
mod tests {
    use weft_policy::status::GrpcCode;

    use super::*;
    use crate::reject::Caller;

    #[test]
    fn shares_are_kept() {
        for (share, want) in [(Share::NONE, 0), (Share::FIFTH, 2000), (Share::ALL, 10_000)] {
            let count = (0..10_000).filter(|_| falls_in(share)).count();
            assert!(count.abs_diff(want) < 300, "{share}: {count}");
            assert!(want % 10_000 != 0 || count == want, "{share}: {count}");
        }
    }

    #[test]
    fn an_abort_is_a_status_to_one_caller_and_a_code_to_the_other() {
        let rows = [
            (
                Abort::Status(http::StatusCode::SERVICE_UNAVAILABLE),
                503,
                14,
            ),
            (Abort::Status(http::StatusCode::NOT_FOUND), 404, 12),
            (Abort::Status(http::StatusCode::IM_A_TEAPOT), 418, 2),
            (Abort::Grpc(GrpcCode(8)), 429, 8),
            (Abort::Grpc(GrpcCode(4)), 504, 4),
            (Abort::Grpc(GrpcCode(99)), 500, 99),
        ];
        for (abort, status, code) in rows {
            let http = reject(abort).response(Caller::Http);
            assert_eq!(http.status(), status, "{abort:?}");
            assert_eq!(http.headers()["x-weft-reject"], "fault_abort");
            let grpc = reject(abort).response(Caller::Grpc);
            assert_eq!(
                grpc.headers()["grpc-status"],
                code.to_string().as_str(),
                "{abort:?}"
            );
        }
    }
}
