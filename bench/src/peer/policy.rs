//! Weft with policy at work on every request: what `--policy full` measures beside Weft with none.
//!
//! On the way in: mutual TLS only, a token verified, the caller authorized by identity, method and path, a rate limit. On the
//! way out: timeouts, retries, a breaker. Both trace one request in a hundred. The chain beside it carries the same requests, tokens
//! among them, so that what is compared is judging them and not carrying them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use weft_ca::token::mint::TokenIssuer;

use super::weft;
use crate::chain::{Launch, Wiring};
use crate::load::Entry;

pub(super) fn launch(binary: &Path, wiring: &Wiring<'_>) -> anyhow::Result<Launch> {
    let issuer = TokenIssuer::generate(ISSUER)?;
    let keys: Value = serde_json::from_str(&issuer.key_set()?)?;
    let [mut first, mut second] = weft::commands(binary, wiring)?;
    ask(&mut first, wiring, "client", &callers_side())?;
    ask(&mut second, wiring, "app", &services_side(&keys))?;
    carrying(&issuer, wiring, [first, second])
}

/// The same requests where policy asks for nothing.
pub(super) fn unjudged(binary: &Path, wiring: &Wiring<'_>) -> anyhow::Result<Launch> {
    let issuer = TokenIssuer::generate(ISSUER)?;
    carrying(&issuer, wiring, weft::commands(binary, wiring)?)
}

fn carrying(
    issuer: &TokenIssuer,
    wiring: &Wiring<'_>,
    commands: [Command; 2],
) -> anyhow::Result<Launch> {
    let caller = ("bench", "load");
    let token = issuer.token(caller, AUDIENCE, SystemTime::now(), LIFETIME)?;
    Ok(Launch {
        commands: commands.into(),
        entry: Entry {
            token: Some(token),
            ..Entry::at(wiring.entry)
        },
    })
}

fn callers_side() -> Value {
    json!({ "to": { "app": {
        "timeout": { "request": "10s", "try": "5s" },
        "retry": { "attempts": 3, "on": ["connect", "refused-stream", "reset", "gateway-error"] },
        "breaker": "50%",
    }}})
}

fn services_side(keys: &Value) -> Value {
    json!({
        "mtls": "strict",
        "allow": [{ "from": ["client"], "methods": ["GET", "POST"], "paths": ["/bench/*", "/health"] }],
        "jwt": { "issuer": ISSUER, "audiences": [AUDIENCE], "jwks": keys },
        "rate-limit": [{ "rate": "1000000/s", "per": "identity" }],
    })
}

fn ask(
    command: &mut Command,
    wiring: &Wiring<'_>,
    name: &str,
    policy: &Value,
) -> anyhow::Result<()> {
    let file = wiring.dir.join(format!("{name}-policy.yaml"));
    // JSON is YAML too.
    fs::write(&file, policy.to_string())?;
    command
        .env("WEFT_POLICY_FILE", file)
        .env("WEFT_TRACE_SAMPLE", "1%")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", wiring.spans),
        );
    Ok(())
}

const ISSUER: &str = "https://issuer.bench";
const AUDIENCE: &str = "app.bench";
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
