use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use weft_policy::rate_limit::Rate;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn gcra(count: u32, burst: u32) -> Gcra {
    let rate = Rate {
        count: NonZeroU32::new(count).unwrap(),
        per: Duration::from_secs(1),
    };
    Gcra::new(rate, NonZeroU32::new(burst).unwrap())
}

/// Spreads small numbers as a hash would.
fn key(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[test]
fn keys_are_counted_apart() {
    let (table, gcra) = (Table::default(), gcra(1, 5));
    for number in 0..2000 {
        let passed = (0..20).filter(|_| table.take(key(number), 1, gcra).is_ok());
        assert_eq!(passed.count(), 5, "key {number}");
    }
}

#[test]
fn inventing_keys_is_bounded_and_frees_nobody() {
    let (table, gcra) = (Table::with_segments(1), gcra(1, 5));
    while table.take(key(0), 1, gcra).is_ok() {}
    let flood = (1..100_000).filter(|number| table.take(key(*number), 2, gcra).is_ok());
    let most = (SETS * WAYS + SETS) * 5;
    assert!(flood.count() <= most);
    assert!(table.take(key(0), 3, gcra).is_err());
    // When the flood has ended, keys have their own buckets again.
    let later = 60 * SECOND;
    for number in 0..20 {
        let passed = (0..20).filter(|_| table.take(key(number), later, gcra).is_ok());
        assert_eq!(passed.count(), 5, "key {number}");
    }
}

#[test]
fn what_is_handed_back_can_be_taken_again_once() {
    let (table, gcra) = (Table::default(), gcra(1, 3));
    let taken = table.take(key(1), 1, gcra).unwrap();
    taken.give_back(gcra);
    assert_eq!(
        (0..9)
            .filter(|_| table.take(key(1), 1, gcra).is_ok())
            .count(),
        3
    );
}

#[test]
fn threads_that_race_for_new_keys_pass_no_more_than_the_limit() {
    let (table, gcra) = (Table::with_segments(1), gcra(1, 7));
    let race = || {
        let passed = |number: u64| {
            (0..20)
                .filter(|_| table.take(key(number), 1, gcra).is_ok())
                .count()
        };
        (0..100).map(passed).collect::<Vec<_>>()
    };
    let counts: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for number in 0..100 {
        let passed: usize = counts.iter().map(|thread| thread[number]).sum();
        assert_eq!(passed, 7, "key {number}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn each_key_keeps_its_limit_however_full_the_table_is(
        requests in prop::collection::vec((0..600_u64, prop_oneof![Just(0), 0..5_000_000_u64, 0..SECOND]), 1..3000),
    ) {
        let (table, gcra) = (Table::with_segments(1), gcra(10, 3));
        let (mut now, mut passed) = (1, HashMap::<u64, Vec<u64>>::new());
        for (number, gap) in requests {
            now += gap;
            if table.take(key(number), now, gcra).is_ok() {
                passed.entry(number).or_default().push(now);
            }
        }
        for times in passed.values() {
            for (first, begin) in times.iter().enumerate() {
                for (last, end) in times.iter().enumerate().skip(first) {
                    let allowed = 3 + (end - begin) * 10 / SECOND;
                    prop_assert!((last - first + 1) as u64 <= allowed);
                }
            }
        }
    }
}
