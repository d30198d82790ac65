//! Who may call: the rules under `allow` and `deny`.

use crate::caller::Caller;
use crate::matcher::{PathPattern, RequestMatch};

/// One rule of `allow` or `deny`. An empty list does not constrain; all that are written must hold.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Rule {
    /// Who calls; `None` is any caller, also one without an identity.
    pub from: Option<Vec<Caller>>,
    /// Ports of the service.
    pub ports: Vec<u16>,
    /// Methods, paths, hosts, headers: what only HTTP has.
    pub request: RequestMatch,
    /// Claims of the verified token, dotted paths into it, with the values of which one must be there.
    pub claims: Vec<(String, Vec<String>)>,
}

impl Rule {
    /// Whether a field is written that only HTTP has: on TCP such a rule never allows and always denies.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        !self.request.is_any() || !self.claims.is_empty()
    }

    /// The paths it names.
    #[must_use]
    pub fn paths(&self) -> &[PathPattern] {
        &self.request.paths
    }
}

/// What an authorization decision does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AuthzMode {
    /// A refusal is a refusal.
    #[default]
    Enforce,
    /// A refusal is logged and counted, and the request passes.
    Audit,
}
