//! Findings: what, where, how bad, and what to do.

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Good,
    /// Works, but not as it should, or not for long.
    Warning,
    /// Does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) area: &'static str,
    pub(super) verdict: Verdict,
    /// The object, or nothing where it is the whole.
    #[serde(rename = "where")]
    pub(super) place: String,
    pub(super) what: String,
    #[serde(rename = "do", skip_serializing_if = "String::is_empty")]
    pub(super) remedy: String,
}

/// All of them, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

#[derive(Serialize)]
struct Report<'a> {
    problems: usize,
    warnings: usize,
    findings: &'a [Finding],
}

impl Findings {
    /// It is as it should be.
    pub(super) fn good(&mut self, area: &'static str, place: &str, what: impl Into<String>) {
        self.push(area, Verdict::Good, place, (what.into(), ""));
    }

    /// It is not, and the second text says what to do.
    pub(super) fn warning(&mut self, area: &'static str, place: &str, told: (String, &str)) {
        self.push(area, Verdict::Warning, place, told);
    }

    /// It does not work, and the second text says what to do.
    pub(super) fn problem(&mut self, area: &'static str, place: &str, told: (String, &str)) {
        self.push(area, Verdict::Problem, place, told);
    }

    fn push(&mut self, area: &'static str, verdict: Verdict, place: &str, told: (String, &str)) {
        self.0.push(Finding {
            area,
            verdict,
            place: place.to_owned(),
            what: told.0,
            remedy: told.1.to_owned(),
        });
    }

    /// Whether anything but good was found in this area.
    pub(super) fn bad_in(&self, area: &str) -> bool {
        let mut all = self.0.iter();
        all.any(|one| one.area == area && one.verdict != Verdict::Good)
    }

    /// How many do not work.
    pub(super) fn problems(&self) -> usize {
        self.count(Verdict::Problem)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|one| one.verdict == verdict).count()
    }

    /// For people: by area, with a sum.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut areas: Vec<&str> = Vec::new();
        for finding in &self.0 {
            if !areas.contains(&finding.area) {
                areas.push(finding.area);
            }
        }
        for area in areas {
            let _infallible = writeln!(text, "{area}");
            for finding in self.0.iter().filter(|one| one.area == area) {
                text.push_str(&finding.lines());
            }
        }
        let (problems, warnings) = (self.problems(), self.count(Verdict::Warning));
        let _infallible = match (problems, warnings) {
            (0, 0) => writeln!(text, "\nall well"),
            _ => writeln!(text, "\n{problems} problems, {warnings} warnings"),
        };
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> String {
        let report = Report {
            problems: self.problems(),
            warnings: self.count(Verdict::Warning),
            findings: &self.0,
        };
        // Texts and numbers always can be written.
        serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
    }

    /// Those that are not good, as `verdict place: what`.
    #[cfg(test)]
    pub(super) fn bad(&self) -> Vec<String> {
        let bad = self.0.iter().filter(|one| one.verdict != Verdict::Good);
        bad.map(|one| {
            assert!(!one.remedy.is_empty(), "{one:?} says nothing of what to do");
            format!("{:?} {}: {}", one.verdict, one.place, one.what)
        })
        .collect()
    }
}

impl Finding {
    fn lines(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Good => "ok",
            Verdict::Warning => "warn",
            Verdict::Problem => "FAIL",
        };
        let place = match self.place.as_str() {
            "" => String::new(),
            place => format!("{place}: "),
        };
        let what = self.what.replace('\n', "\n        ");
        match self.remedy.as_str() {
            "" => format!("  {verdict:<4}  {place}{what}\n"),
            remedy => format!("  {verdict:<4}  {place}{what}\n        -> {remedy}\n"),
        }
    }
}

/// The first few of many names, and how many more there are.
pub(super) fn some(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

const SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        let mut findings = Findings::default();
        findings.good("cluster", "", "Kubernetes 1.37");
        findings.warning("pods", "shop/a", ("one\ntwo".to_owned(), "restart it"));
        findings.problem("pods", "shop/b", ("three".to_owned(), "look"));
        findings.good("cluster", "", "again");
        findings
    }

    #[test]
    fn people_read_areas_with_what_to_do_and_a_sum() {
        let want = "cluster\n  ok    Kubernetes 1.37\n  ok    again\npods\n  warn  shop/a: one\n        two\n        -> restart it\n  \
            FAIL  shop/b: three\n        -> look\n\n1 problems, 1 warnings\n";
        assert_eq!(findings().text(), want);
    }

    #[test]
    fn programs_read_the_same() {
        let report: serde_json::Value = serde_json::from_str(&findings().json()).unwrap();
        assert_eq!(report["problems"], 1);
        assert_eq!(report["findings"][1]["verdict"], "warning");
        assert_eq!(report["findings"][1]["where"], "shop/a");
        assert_eq!(report["findings"][2]["do"], "look");
    }

    #[test]
    fn of_many_names_some_are_shown() {
        let names: Vec<String> = (0..7).map(|n| n.to_string()).collect();
        assert_eq!(some(&names), "0, 1, 2, 3, 4 and 2 more");
        assert_eq!(some(&names[..2]), "0, 1");
    }
}
