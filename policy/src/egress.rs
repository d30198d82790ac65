//! `egress`: what is not in the mesh.

use crate::matcher::HostPattern;

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
