//! What a refusal looks like: all problems at once, a line each (POLICY: "What a mistake looks like").

use std::fmt;

use weft_policy::problem::Problem as PolicyProblem;

/// Why an object is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// `pod orders-7d9f`.
    pub subject: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// With an annotation, or with several together.
    Annotation(PolicyProblem),
    /// With the pod itself.
    Pod(String),
}

impl Problem {
    /// One line about `weft.dev/<path>`.
    pub(crate) fn annotation(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Annotation(PolicyProblem {
            path: path.into(),
            value: None,
            reason: reason.into(),
            line: 0,
        })
    }
}

impl From<PolicyProblem> for Problem {
    fn from(problem: PolicyProblem) -> Self {
        Self::Annotation(problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Annotation(problem) => problem.fmt(f),
            Self::Pod(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let is_annotation = |problem: &Problem| matches!(problem, Problem::Annotation(_));
        let all = self.problems.iter().all(is_annotation);
        let noun = if count == 1 { "problem" } else { "problems" };
        let place = if all { "in the annotations of" } else { "in" };
        write!(f, "{count} {noun} {place} {}", self.subject)?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_lists_everything() {
        let refusal = |problems| Refusal {
            subject: "pod orders-7d9f".to_owned(),
            problems,
        };
        let key = || {
            Problem::annotation(
                "retry.attemps",
                "unknown key; did you mean weft.dev/retry.attempts?",
            )
        };
        assert_eq!(
            refusal(vec![key()]).to_string(),
            "1 problem in the annotations of pod orders-7d9f\n  \
             weft.dev/retry.attemps: unknown key; did you mean weft.dev/retry.attempts?"
        );
        let port = Problem::Pod("port 15001 is the proxy's".to_owned());
        let text = refusal(vec![key(), port]).to_string();
        assert!(
            text.starts_with("2 problems in pod orders-7d9f\n  weft.dev/"),
            "{text}"
        );
        assert!(text.ends_with("\n  port 15001 is the proxy's"), "{text}");
    }
}
