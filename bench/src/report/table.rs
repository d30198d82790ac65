//! The report as a person reads it: a table for each protocol, chains first, then ratios, then the goals.

use std::fmt::{Display, Formatter, Result};

use super::{Ratio, Report, Results, Summary, goal};

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (machine, method) = (&self.machine, &self.method);
        writeln!(
            f,
            "{}, {} cores, Linux {}, load average {} before the run",
            machine.cpu, machine.cores, machine.kernel, machine.load_average_before
        )?;
        writeln!(
            f,
            "two proxies in a row, mTLS between them, one worker each; {} concurrent requests in a closed loop, {} byte body; \
             medians of {} rounds of {} s",
            method.concurrent_requests, method.body_bytes, method.rounds, method.round_seconds,
        )?;
        for peer in &self.peers {
            writeln!(f, "{:<10}{}", peer.name, peer.version)?;
        }
        for absent in &self.missing {
            writeln!(f, "{:<10}not measured: {}", absent.name, absent.reason)?;
        }
        self.results
            .iter()
            .try_for_each(|results| write!(f, "\n{results}"))
    }
}

impl Display for Results {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let title = format!(
            "{} {}x{}",
            self.protocol.title(),
            self.connections,
            self.streams
        );
        writeln!(f, "{title:<20}{HEAD}")?;
        self.summaries
            .iter()
            .try_for_each(|summary| writeln!(f, "{summary}"))?;
        self.not_spoken
            .iter()
            .try_for_each(|name| writeln!(f, "{name:<20}{:>8}", "n/a"))?;
        for failed in &self.failed {
            writeln!(
                f,
                "{:<20}failed: {}",
                failed.name,
                failed.reason.lines().next().unwrap_or_default()
            )?;
        }
        self.ratios
            .iter()
            .try_for_each(|ratio| writeln!(f, "{ratio}"))?;
        goal::reached(self)
            .iter()
            .try_for_each(|goal| writeln!(f, "{goal}"))
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "{:<20}{:>8.1} {:>15}{:>10.0}{:>9.2}{:>9.2}{:>9.1} {:>13}{:>9.1} {:>13}",
            self.name,
            self.cpu_micros_per_request,
            sum_of(&self.cpu_micros_per_request_each),
            self.requests_per_second,
            self.p50_millis,
            self.p99_millis,
            self.idle_rss_mib,
            sum_of(&self.idle_rss_mib_each),
            self.loaded_rss_mib,
            sum_of(&self.loaded_rss_mib_each),
        )?;
        if let Some(instructions) = self.instructions_per_request {
            write!(f, "  {instructions:.0} instructions a request")?;
        }
        match self.errors {
            0 => Ok(()),
            errors => write!(f, "  {errors} errors"),
        }
    }
}

impl Display for Ratio {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "{:<20}{:>8.2} {:>15}{:>10.2}{:>9.2}{:>9.2}{:>9.2} {:>13}{:>9.2}",
            format!("{} / {}", self.of, self.to),
            self.cpu,
            self.cpu_interval
                .map_or_else(String::new, |[low, high]| format!("{low:.2} to {high:.2}")),
            self.requests_per_second,
            self.p50,
            self.p99,
            self.idle_rss,
            "",
            self.loaded_rss,
        )?;
        match self.instructions {
            Some(instructions) => write!(f, "  instructions {instructions:.4}"),
            None => Ok(()),
        }
    }
}

fn sum_of(values: &[f64]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{value:.1}")).collect();
    values.join(" + ")
}

/// As wide as the rows' columns.
const HEAD: &str = "  CPU us client+app side     req/s   p50 ms   p99 ms idle MiB          each load MiB          each";
