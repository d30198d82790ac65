//! Metrics as Prometheus' text format has them, as far as `check` asks.

/// One answer of `/metrics`.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    /// As written between the braces.
    labels: String,
    value: f64,
}

impl Samples {
    /// Reads it; what is no sample is passed over.
    pub(super) fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(sample).collect())
    }

    /// The sum of a metric's samples that have all these labels, written `name="value"`; none if there is no such sample.
    pub(super) fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let fits = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|label| sample.labels.contains(label))
        };
        let values = self.0.iter().filter(fits).map(|sample| sample.value);
        values.reduce(|sum, value| sum + value)
    }

    /// The value of a label of a metric's first sample.
    pub(super) fn label(&self, name: &str, label: &str) -> Option<&str> {
        let sample = self.0.iter().find(|sample| sample.name == name)?;
        let (_, rest) = sample.labels.split_once(&format!("{label}=\""))?;
        rest.split('"').next()
    }
}

/// `name{labels} value`.
fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.trim().rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some(Sample {
        name: name.to_owned(),
        labels: labels.trim_end_matches('}').to_owned(),
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_their_labels() {
        let text = "# HELP a b\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\na{x=\"2\"} 5\nb 1.5\nc{v=\"0.1.0\"} 1\n";
        let samples = Samples::parse(text);
        assert_eq!(samples.sum("a", &[]), Some(12.0));
        assert_eq!(samples.sum("a", &["x=\"1\""]), Some(7.0));
        assert_eq!(samples.sum("a", &["x=\"1\"", "y=\"3\""]), Some(4.0));
        assert_eq!(samples.sum("b", &[]), Some(1.5));
        assert_eq!(samples.sum("d", &[]), None);
        assert_eq!(samples.label("c", "v"), Some("0.1.0"));
    }
}
