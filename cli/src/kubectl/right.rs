//! Which right is missing, read from what the API server says when it refuses.
//!
//! Whoever may not look at something must not be told that it is not there.

use std::collections::BTreeSet;
use std::fmt;

/// A right that whoever asks does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Right {
    verb: String,
    resource: String,
    /// None: of the whole cluster.
    namespace: Option<String>,
}

impl Right {
    /// All that are named in what kubectl says; none where it failed for another reason.
    ///
    /// Kubernetes writes these sentences in `forbiddenMessage` (k8s.io/apiserver, `endpoints/handlers/responsewriters/errors.go`):
    /// `User "a" cannot list resource "b" in API group "c" in the namespace "d"`, or `at the cluster scope`.
    pub(crate) fn missing(said: &str) -> BTreeSet<Self> {
        said.lines().filter_map(Self::read).collect()
    }

    fn read(line: &str) -> Option<Self> {
        let (_, refused) = line.split_once("User \"")?;
        let (verb, rest) = refused
            .split_once("\" cannot ")?
            .1
            .split_once(" resource \"")?;
        let (resource, rest) = rest.split_once("\" in API group \"")?;
        let (group, place) = rest.split_once('"')?;
        let resource = match (group, resource.split_once('/')) {
            ("", _) => resource.to_owned(),
            (group, Some((kind, part))) => format!("{kind}.{group}/{part}"),
            (group, None) => format!("{resource}.{group}"),
        };
        let namespace = place.trim_start().strip_prefix("in the namespace \"");
        let namespace = namespace.and_then(|rest| rest.split('"').next());
        Some(Self {
            verb: verb.to_owned(),
            resource,
            namespace: namespace.map(str::to_owned),
        })
    }

    /// How to ask whether one has it.
    pub(crate) fn question(&self) -> String {
        let (verb, resource) = (&self.verb, &self.resource);
        match &self.namespace {
            Some(namespace) => format!("kubectl auth can-i {verb} {resource} -n {namespace}"),
            None => format!("kubectl auth can-i {verb} {resource} --all-namespaces"),
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, resource) = (&self.verb, &self.resource);
        match &self.namespace {
            Some(namespace) => write!(out, "{verb} {resource} in namespace {namespace}"),
            None => write!(out, "{verb} {resource} of the whole cluster"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(said: &str) -> Vec<String> {
        Right::missing(said).iter().map(Right::to_string).collect()
    }

    #[test]
    fn a_refusal_names_the_right() {
        let rows: [(&str, &[&str]); 5] = [
            (
                "Error from server (Forbidden): deployments.apps is forbidden: User \"dev\" cannot list resource \"deployments\" in API group \"apps\" in the namespace \"weft-system\"",
                &["list deployments.apps in namespace weft-system"],
            ),
            (
                "(Forbidden): jobs.batch is forbidden: User \"dev\" cannot list resource \"jobs\" in API group \"batch\" at the cluster scope\n\
                 (Forbidden): pods is forbidden: User \"dev\" cannot list resource \"pods\" in API group \"\" at the cluster scope: RBAC: role not found",
                &[
                    "list jobs.batch of the whole cluster",
                    "list pods of the whole cluster",
                ],
            ),
            (
                "pods \"a\" is forbidden: User \"dev\" cannot get resource \"pods/proxy\" in API group \"\" in the namespace \"shop\"",
                &["get pods/proxy in namespace shop"],
            ),
            ("(NotFound): pods \"a\" not found", &[]),
            (
                "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": User \"1337\"",
                &[],
            ),
        ];
        for (said, want) in rows {
            assert_eq!(told(said), want, "{said}");
        }
    }

    #[test]
    fn the_question_is_the_same_right() {
        let said =
            "User \"dev\" cannot list resource \"pods\" in API group \"\" at the cluster scope";
        let questions: Vec<String> = Right::missing(said).iter().map(Right::question).collect();
        assert_eq!(questions, ["kubectl auth can-i list pods --all-namespaces"]);
    }
}
