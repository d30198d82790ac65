//! `weft tap SERVICE`: requests as they pass, with secrets masked.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, interval};

use crate::explain::Output;
use crate::insight::request::Passed;
use crate::insight::{Proxies, ProxiesArgs};

/// Which requests are shown.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct TapArgs {
    /// Those of this service, and calls to it; all by default
    pub(crate) service: Option<String>,
    #[command(flatten)]
    pub(crate) proxies: ProxiesArgs,
    /// Only those whose path begins so
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// Only those with this method
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// Only those with this status
    #[arg(long)]
    pub(crate) status: Option<u16>,
    /// Only those that failed or were refused
    #[arg(long)]
    pub(crate) failed: bool,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) seconds: Option<u64>,
}

/// Prints requests until it is interrupted, or for as long as `args` say.
///
/// # Errors
/// No proxy answers any more.
pub(crate) async fn run(args: &TapArgs) -> anyhow::Result<()> {
    let proxies = Proxies::of(&args.proxies).await?;
    let end = args
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut since: HashMap<SocketAddr, u64> = HashMap::new();
    // What was there before is not passing.
    proxies.requests(&mut since).await?;
    let mut ticks = interval(EVERY);
    loop {
        ticks.tick().await;
        let mut text = String::new();
        for passed in proxies.requests(&mut since).await? {
            if args.wants(&passed) {
                text.push_str(&line(&passed, args.proxies.output)?);
                text.push('\n');
            }
        }
        std::io::stdout().write_all(text.as_bytes())?;
        std::io::stdout().flush()?;
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(());
        }
    }
}

impl TapArgs {
    fn wants(&self, passed: &Passed) -> bool {
        let is = |field: &str, wanted: &Option<String>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| passed.text(field).eq_ignore_ascii_case(wanted))
        };
        let path = self
            .path
            .as_ref()
            .is_none_or(|path| passed.text("path").starts_with(path));
        let service = self
            .service
            .as_ref()
            .is_none_or(|service| passed.concerns(service));
        let status = self
            .status
            .is_none_or(|status| passed.text("status") == status.to_string());
        service
            && path
            && status
            && is("method", &self.method)
            && (!self.failed || passed.has_failed())
    }
}

fn line(passed: &Passed, output: Output) -> anyhow::Result<String> {
    Ok(match output {
        Output::Json => serde_json::to_string(passed)?,
        Output::Text => text(passed),
    })
}

/// `12:00:01.123 web -> orders in  GET /orders/7 200 1.2 ms`.
fn text(passed: &Passed) -> String {
    let clock = passed.time().get(11..23).unwrap_or_default().to_owned();
    let (inbound, own) = (
        passed.text("direction") == "inbound",
        passed.text("workload"),
    );
    let called = passed.text("service");
    let called = called.split(['.', ':']).next().unwrap_or_default();
    let (side, from, to) = match inbound {
        true => ("in ", passed.caller(), own.as_str()),
        false => ("out", own.clone(), called),
    };
    let query = Some(passed.text("query")).filter(|query| !query.is_empty());
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let what = match passed.text("protocol").as_str() {
        "tcp" => format!("TCP {} bytes", passed.text("response_bytes")),
        _ => format!("{} {}{query}", passed.text("method"), passed.text("path")),
    };
    let grpc = Some(passed.text("grpc_status")).filter(|code| !code.is_empty());
    let outcome = grpc.map_or_else(|| passed.text("status"), |code| format!("grpc {code}"));
    let mut reasons: Vec<String> = ["reject", "error"]
        .map(|field| passed.text(field))
        .into_iter()
        .filter(|reason| !reason.is_empty())
        .collect();
    if passed
        .number("attempts")
        .is_some_and(|attempts| attempts > 1.0)
    {
        reasons.push(format!("{} attempts", passed.text("attempts")));
    }
    if passed.text("mutual_tls") != "true" {
        reasons.push("plaintext".to_owned());
    }
    let took = passed.text("duration_ms");
    let reasons = reasons.join(", ");
    let trace = passed.text("trace_id");
    format!("{clock} {side} {from} -> {to}  {what}  {outcome}  {took} ms  {reasons}  {trace}")
        .trim_end()
        .to_owned()
}

const EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn passed() -> Passed {
        serde_json::from_value(json!({
            "time": "2026-01-02T12:00:01.123Z", "direction": "inbound", "workload": "orders",
            "caller": "spiffe://cluster.local/ns/shop/sa/web", "protocol": "http", "method": "GET", "path": "/orders/7",
            "query": "token=***", "status": 503, "reject": "denied", "duration_ms": 1.25, "attempts": 1,
            "mutual_tls": true, "service": "orders:80", "trace_id": "abc",
        }))
        .unwrap()
    }

    fn args() -> TapArgs {
        TapArgs {
            service: None,
            proxies: ProxiesArgs {
                proxy: Vec::new(),
                namespace: None,
                output: Output::Text,
            },
            path: None,
            method: None,
            status: None,
            failed: false,
            seconds: None,
        }
    }

    #[test]
    fn a_request_is_one_line() {
        let want =
            "12:00:01.123 in  web -> orders  GET /orders/7?token=***  503  1.25 ms  denied  abc";
        assert_eq!(text(&passed()), want);
    }

    #[test]
    fn filters_let_pass_what_they_name() {
        let rows = [
            (args(), true),
            (
                TapArgs {
                    service: Some("orders".to_owned()),
                    ..args()
                },
                true,
            ),
            (
                TapArgs {
                    service: Some("users".to_owned()),
                    ..args()
                },
                false,
            ),
            (
                TapArgs {
                    path: Some("/orders".to_owned()),
                    ..args()
                },
                true,
            ),
            (
                TapArgs {
                    path: Some("/x".to_owned()),
                    ..args()
                },
                false,
            ),
            (
                TapArgs {
                    method: Some("get".to_owned()),
                    ..args()
                },
                true,
            ),
            (
                TapArgs {
                    status: Some(200),
                    ..args()
                },
                false,
            ),
            (
                TapArgs {
                    failed: true,
                    ..args()
                },
                true,
            ),
        ];
        for (args, want) in rows {
            assert_eq!(args.wants(&passed()), want, "{args:?}");
        }
    }
}
