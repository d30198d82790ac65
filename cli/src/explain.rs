//! `weft explain --proxy ADDR`: the policy a proxy runs with, where each value comes from, and what is wrong.
//!
//! Asked of the proxy's admin listener, so it tells what acts, not what was meant to.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::client;

/// Whom to ask, and how to print.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct ExplainArgs {
    /// The proxy's admin listener
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000")]
    pub(crate) proxy: SocketAddr,
    /// A table for people, or as the proxy answers
    #[arg(long, short, default_value = "text")]
    pub(crate) output: Output,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// What a proxy says of its policy, as `/policy` of its admin listener answers it.
#[derive(Debug, Deserialize)]
struct Explained {
    /// Which change of policy this is, counted from 1.
    version: u64,
    values: Vec<Value>,
    /// Why the newest change was refused; empty when it was not.
    problems: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Value {
    path: String,
    value: String,
    layer: String,
    #[serde(default)]
    object: String,
}

/// Asks the proxy, and says what it answered.
///
/// # Errors
/// It cannot be reached, or does not answer as a Weft proxy does.
pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<String> {
    let proxy = args.proxy;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let host = proxy.to_string();
    let answer = runtime.block_on(client::get(proxy, &host, "/policy", &HeaderMap::new()));
    let answer = answer.with_context(|| {
        format!("ask the proxy at {proxy}; its admin listener is WEFT_ADMIN_LISTEN, 127.0.0.1:15000 unless set")
    })?;
    if answer.status != StatusCode::OK {
        bail!(
            "{proxy} answered {} to /policy: this is not a proxy's admin listener",
            answer.status
        );
    }
    let text = String::from_utf8_lossy(&answer.body);
    match args.output {
        Output::Json => Ok(text.into_owned()),
        Output::Text => {
            let explained = serde_json::from_str(&text).context("read what the proxy answered")?;
            Ok(table(&explained))
        }
    }
}

fn table(explained: &Explained) -> String {
    let mut out = format!("policy version {}\n", explained.version);
    if explained.values.is_empty() {
        out.push_str("nothing is set: every value is its default\n");
    }
    let widest = |of: fn(&Value) -> &str| {
        let lengths = explained
            .values
            .iter()
            .map(|value| of(value).chars().count());
        lengths.max().unwrap_or(0).min(WIDEST)
    };
    let (paths, values) = (widest(|value| &value.path), widest(|value| &value.value));
    for Value {
        path,
        value,
        layer,
        object,
    } in &explained.values
    {
        // Writing to a string does not fail.
        let _infallible = writeln!(
            out,
            "{path:<paths$}  {value:<values$}  {}",
            format!("{layer} {object}").trim_end()
        );
    }
    if !explained.problems.is_empty() {
        let count = explained.problems.len();
        let _infallible = writeln!(
            out,
            "\nthe newest change was refused, the policy above stays; problems: {count}"
        );
        for problem in &explained.problems {
            let _infallible = writeln!(out, "  {problem}");
        }
    }
    out
}

/// Longer values do not push the columns after them further.
const WIDEST: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_shows_where_it_comes_from_and_problems_stand_below() {
        let answer = r#"{"version":3,"values":[
            {"path":"mtls","value":"strict","layer":"namespace","object":"shop"},
            {"path":"rate-limit[0].rate","value":"100/s","layer":"pod"}],
            "problems":["weft.dev/timeout: \"10\" has no unit"]}"#;
        let table = table(&serde_json::from_str(answer).unwrap());
        let want = "policy version 3\n\
            mtls                strict  namespace shop\n\
            rate-limit[0].rate  100/s   pod\n\
            \n\
            the newest change was refused, the policy above stays; problems: 1\n  \
            weft.dev/timeout: \"10\" has no unit\n";
        assert_eq!(table, want);
    }

    #[test]
    fn a_proxy_that_is_not_there_is_named_with_what_to_look_at() {
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let args = ExplainArgs {
            proxy: closed,
            output: Output::Text,
        };
        let error = format!("{:#}", run(&args).unwrap_err());
        assert!(error.contains(&closed.to_string()), "{error}");
        assert!(error.contains("WEFT_ADMIN_LISTEN"), "{error}");
    }
}
