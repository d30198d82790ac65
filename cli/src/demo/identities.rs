//! Who the demo's apps are: what Kubernetes would give each pod, a service-account token.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use weft_ca::token::mint::TokenIssuer;

use crate::app::AppName;

/// Makes a new key to sign the tokens of one run; it is never written anywhere.
///
/// # Errors
/// The system has no randomness.
pub(crate) fn token_issuer() -> anyhow::Result<TokenIssuer> {
    TokenIssuer::generate(ISSUER).context("make the key that signs tokens")
}

/// Signs the token that a pod of `app`'s service account would have, valid for a day from `now`.
///
/// # Errors
/// The key does not sign.
pub(crate) fn token(issuer: &TokenIssuer, app: AppName, now: SystemTime) -> anyhow::Result<String> {
    let account = (NAMESPACE, app.as_str());
    issuer
        .token(account, AUDIENCE, now, LIFETIME)
        .context("sign a token")
}

/// Returns the identity the mesh gives `app`.
pub(crate) fn identity(app: AppName) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{}", app.as_str())
}

/// The namespace all apps of the shop are in.
pub(crate) const NAMESPACE: &str = "shop";
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";
pub(crate) const ISSUER: &str = "https://tokens.weft.demo";
pub(crate) const AUDIENCE: &str = "istio-ca";
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
