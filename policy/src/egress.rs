//! `egress`: what is not in the mesh.

use crate::matcher::HostPattern;
use crate::read::At;

/// Which hosts outside the mesh may be called.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Egress {
    /// All.
    #[default]
    Allow,
    /// None.
    Deny,
    /// These.
    Hosts(Vec<HostPattern>),
}

impl Egress {
    pub(crate) fn read(at: &At<'_>) -> Self {
        match at.node.as_text() {
            Some("allow") => Self::Allow,
            Some("deny") => Self::Deny,
            _ => Self::Hosts(at.list(MAX_HOSTS, HostPattern::parse)),
        }
    }
}

const MAX_HOSTS: usize = 1000;
