//! Who may call: the rules under `allow` and `deny`.

use crate::caller::Caller;
use crate::matcher::{self, PathPattern, RequestMatch};
use crate::node::Kind;
use crate::own;
use crate::read::{At, Item};

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
    /// Reads `allow` or `deny`: callers, rules, or both.
    pub(crate) fn read_list(at: &At<'_>) -> Vec<Self> {
        let items = at.items(MAX_RULES).into_iter();
        items.filter_map(|item| Self::read_item(&item)).collect()
    }

    fn read_item(item: &Item<'_>) -> Option<Self> {
        match item {
            Item::Node(at) if !matches!(at.node.kind, Kind::Text(_)) => Self::read(at),
            Item::Node(_) | Item::Word(..) => {
                let caller = item.parse(|text| Caller::parse(text, item.at().scope()))?;
                let from = Some(vec![caller]);
                Some(Self {
                    from,
                    ..Self::default()
                })
            }
        }
    }

    fn read(at: &At<'_>) -> Option<Self> {
        let keys = &[
            "from", "methods", "paths", "ports", "hosts", "claims", "headers",
        ];
        let fields = at.fields(keys);
        let request = RequestMatch {
            paths: fields
                .get("paths")
                .map(|at| matcher::paths(&at))
                .unwrap_or_default(),
            methods: fields
                .get("methods")
                .map(|at| matcher::methods(&at))
                .unwrap_or_default(),
            hosts: fields
                .get("hosts")
                .map(|at| matcher::hosts(&at))
                .unwrap_or_default(),
            headers: fields
                .get("headers")
                .map(|at| matcher::headers(&at))
                .unwrap_or_default(),
            query: Vec::new(),
        };
        Some(Self {
            from: fields
                .get("from")
                .map(|at| at.some(MAX_RULES, |text| Caller::parse(text, at.scope()))),
            ports: fields
                .get("ports")
                .map(|at| at.some(MAX_PORTS, own::port))
                .unwrap_or_default(),
            request,
            claims: fields
                .get("claims")
                .map(|at| claims(&at))
                .unwrap_or_default(),
        })
    }

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

fn claims(at: &At<'_>) -> Vec<(String, Vec<String>)> {
    let entries = at.entries(MAX_CLAIMS).into_iter();
    let claim = |(name, at): (&str, At<'_>)| {
        let values = at.texts(MAX_RULES, |text| Ok::<_, String>(text.to_owned()));
        (name.to_owned(), values)
    };
    entries.map(claim).collect()
}

impl AuthzMode {
    pub(crate) fn read(at: &At<'_>) -> Self {
        let words = [("enforce", Self::Enforce), ("audit", Self::Audit)];
        at.word(&words).unwrap_or_default()
    }
}

const MAX_RULES: usize = 1000;
const MAX_PORTS: usize = 64;
const MAX_CLAIMS: usize = 32;
