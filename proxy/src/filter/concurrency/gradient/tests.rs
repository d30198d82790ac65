use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

/// An app with `servers` that each take `service` microseconds a request, behind a limiter, under an open load.
struct Simulation {
    gradient: Gradient,
    servers: u32,
    service: u64,
    /// Microseconds between two requests on average.
    gap: u64,
}

#[derive(Debug, Default)]
struct Seen {
    served: u64,
    refused: u64,
    latencies: Vec<u64>,
}

impl Simulation {
    fn new(servers: u32, service: u64, load: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a test's round number"
        )]
        let gap = (service as f64 / f64::from(servers) / load) as u64;
        Self {
            gradient: Gradient::default(),
            servers,
            service,
            gap,
        }
    }

    /// Runs for `seconds`, and tells of the second half.
    fn run(&self, seconds: u64) -> Seen {
        let end = seconds * 1_000_000;
        let random = fastrand::Rng::with_seed(7);
        let mut random = random;
        let (mut running, mut queue) = (
            BinaryHeap::<Reverse<(u64, u64, u32)>>::new(),
            VecDeque::new(),
        );
        let (mut seen, mut now, mut in_flight) = (Seen::default(), 0, 0);
        while now < end {
            now += random.u64(1..2 * self.gap);
            while let Some(Reverse((done, came, among))) = running
                .peek()
                .copied()
                .filter(|Reverse((done, ..))| *done <= now)
            {
                running.pop();
                in_flight -= 1;
                self.gradient.answered(self.at(came), self.at(done), among);
                if done > end / 2 {
                    seen.served += 1;
                    seen.latencies.push(done - came);
                }
                if let Some((came, among)) = queue.pop_front() {
                    running.push(Reverse((done + self.takes(&mut random), came, among)));
                }
            }
            if in_flight >= self.gradient.limit() {
                seen.refused += u64::from(now > end / 2);
                continue;
            }
            in_flight += 1;
            if running.len() < self.servers as usize {
                running.push(Reverse((now + self.takes(&mut random), now, in_flight)));
            } else {
                queue.push_back((now, in_flight));
            }
        }
        seen.latencies.sort_unstable();
        seen
    }

    fn takes(&self, random: &mut fastrand::Rng) -> u64 {
        random.u64(self.service * 8 / 10..self.service * 12 / 10)
    }

    fn at(&self, micros: u64) -> Instant {
        self.gradient.began + Duration::from_micros(micros)
    }
}

#[test]
fn under_three_times_the_load_the_app_stays_busy_and_answers_stay_quick() {
    for (servers, service) in [(10, 10_000), (50, 20_000), (4, 50_000), (200, 5_000)] {
        let seen = Simulation::new(servers, service, 3.0).run(60);
        let capacity = 30_000_000 / service * u64::from(servers);
        let p99 = seen.latencies[seen.latencies.len() * 99 / 100];
        assert!(
            seen.served * 10 >= capacity * 9,
            "{servers} of {service} us: {} of {capacity}",
            seen.served
        );
        assert!(
            p99 <= service * 4,
            "{servers} of {service} us: p99 {p99} us"
        );
        assert!(seen.refused > 0);
    }
}

#[test]
fn below_its_capacity_nothing_is_refused() {
    for (servers, service) in [(10, 10_000), (50, 20_000)] {
        let seen = Simulation::new(servers, service, 0.6).run(60);
        assert_eq!(seen.refused, 0, "{servers} of {service} us");
    }
}

#[test]
fn an_app_that_answers_nobody_in_time_is_given_less() {
    let gradient = Gradient::default();
    let mut now = gradient.began;
    for _ in 0..64 {
        now += Duration::from_millis(5);
        gradient.answered(now - Duration::from_millis(5), now, 10);
    }
    let before = gradient.limit();
    for _ in 0..3000 {
        now += Duration::from_millis(5);
        gradient.given_up(now - Duration::from_secs(1), now, 60);
    }
    assert!(
        gradient.limit() < before / 2,
        "{} of {before}",
        gradient.limit()
    );
}
