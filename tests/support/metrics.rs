//! Scrapes a proxy's `/metrics` and finds values in it.

use std::net::SocketAddr;

use crate::client::Http1;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Scrape(String);

impl Scrape {
    /// Scrapes.
    pub async fn of(metrics: SocketAddr) -> Self {
        let answer = Http1::connect(metrics)
            .await
            .get("metrics", "/metrics")
            .await;
        assert_eq!(answer.status, 200);
        Self(answer.text().to_owned())
    }

    /// The sum of all series of `name` whose labels hold each of `labels` (`reason="expired"`).
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '))
            .filter(|(key, _)| key.is_empty() || key.starts_with('{'))
            .filter(|(key, _)| labels.iter().all(|label| key.contains(label)))
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }
}
