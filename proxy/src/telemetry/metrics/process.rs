//! The `process_*` metrics that every Prometheus client has, from `/proc/self`.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::table::{CPU, FILES, FILES_LIMIT, MEMORY, MEMORY_LIMIT, Point, STARTED};

/// Reads what the kernel tells; what it does not tell is left out.
pub(super) fn read() -> Vec<(Point, f64)> {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = clock_ticks_per_second() as f64;
    let files = fs::read_dir("/proc/self/fd").map(|entries| entries.count() as f64);
    let limit = getrlimit(Resource::Nofile).current;
    let values = [
        (
            MEMORY.at(&[]),
            resident_pages(&statm).map(|pages| pages * page_size() as f64),
        ),
        (MEMORY_LIMIT.at(&[]), memory_limit()),
        (CPU.at(&[]), cpu_ticks(&stat).map(|spent| spent / ticks)),
        (FILES.at(&[]), files.ok()),
        (FILES_LIMIT.at(&[]), limit.map(|limit| limit as f64)),
        (STARTED.at(&[]), started(&stat, &system, ticks)),
    ];
    values
        .into_iter()
        .filter_map(|(point, value)| Some((point, value?)))
        .collect()
}

/// The smallest of the cgroup's limit (either version) and the machine's memory.
fn memory_limit() -> Option<f64> {
    let files = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let number = |path| fs::read_to_string(path).ok()?.trim().parse::<f64>().ok();
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let limits = files.into_iter().filter_map(number);
    limits.chain(machine_memory(&machine)).reduce(f64::min)
}

/// proc(5), `meminfo`: `MemTotal:       16384000 kB`.
fn machine_memory(meminfo: &str) -> Option<f64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// proc(5), `statm`: "size resident shared text lib data dt", in pages.
fn resident_pages(statm: &str) -> Option<f64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// proc(5), `stat`: fields 14 and 15 are `utime` and `stime`.
fn cpu_ticks(stat: &str) -> Option<f64> {
    Some(field(stat, 14)? + field(stat, 15)?)
}

/// proc(5), `stat`: field 22 is the start in ticks after boot; `btime` of `/proc/stat` is when that was.
fn started(stat: &str, system: &str, ticks: f64) -> Option<f64> {
    let boot = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    let boot: f64 = boot.trim().parse().ok()?;
    Some(boot + field(stat, 22)? / ticks)
}

/// Fields count from 1; the second is the program's name in parentheses, which may contain anything.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name
        .split_ascii_whitespace()
        .nth(number - 3)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_moves_no_field() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 1000 999 55";
        assert_eq!(cpu_ticks(stat), Some(200.0));
        assert_eq!(
            started(stat, "cpu 1\nbtime 1700000000\n", 100.0),
            Some(1_700_000_010.0)
        );
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let values = read();
        assert_eq!(values.len(), 6, "{values:?}");
        // No CPU time may have been counted yet.
        let mut some = values.iter().filter(|(point, _)| *point != CPU.at(&[]));
        assert!(some.all(|(_, value)| *value > 0.0), "{values:?}");
    }
}
