//! How many CPUs this container may use: the limit of its cgroup, rounded up.

use std::fs;
use std::path::{Path, PathBuf};

/// Workers to start: the CPU limit rounded up, at most the CPUs there are; 1 where there is no limit.
pub(super) fn limit() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_in(Path::new("/sys/fs/cgroup"), &groups)
        .unwrap_or(1)
        .min(available)
}

/// The tightest limit among our cgroup and those above it; `root` is where they are mounted, `groups` what
/// `/proc/self/cgroup` says. In a container the path of the host may be missing: then its root is ours.
fn limit_in(root: &Path, groups: &str) -> Option<usize> {
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let v1 = groups.lines().find_map(v1_cpu_path);
    let in_v2 = unified
        .into_iter()
        .flat_map(|path| up(root, path))
        .filter_map(|dir| v2_limit(&dir));
    let cpu = root.join("cpu");
    let in_v1 = v1
        .into_iter()
        .flat_map(|path| up(&cpu, path))
        .filter_map(|dir| v1_limit(&dir));
    in_v2.chain(in_v1).min()
}

/// `path` below `root` and every directory above it, down to `root` itself.
fn up(root: &Path, path: &str) -> Vec<PathBuf> {
    let own = PathBuf::from(path.trim_start_matches('/'));
    own.ancestors().map(|part| root.join(part)).collect()
}

/// `4:cpu,cpuacct:/kubepods/pod1` in version 1.
fn v1_cpu_path(line: &str) -> Option<&str> {
    let mut fields = line.splitn(3, ':').skip(1);
    let controllers = fields.next()?;
    controllers
        .split(',')
        .any(|name| name == "cpu")
        .then(|| fields.next())?
}

/// `cpu.max` is `quota period` in microseconds, or `max period`.
fn v2_limit(dir: &Path) -> Option<usize> {
    let text = fs::read_to_string(dir.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    rounded_up(quota, period)
}

fn v1_limit(dir: &Path) -> Option<usize> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    rounded_up(
        read("cpu.cfs_quota_us")?.trim(),
        read("cpu.cfs_period_us")?.trim(),
    )
}

/// `None` for no limit, which is `max` or -1.
fn rounded_up(quota: &str, period: &str) -> Option<usize> {
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| quota.div_ceil(period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_is_rounded_up() {
        let root = std::env::temp_dir().join(format!("weft-cpus-{}", std::process::id()));
        let pod = root.join("kubepods/pod1");
        fs::create_dir_all(pod.join("proxy")).unwrap();
        let rows: &[(&str, &str, &str, Option<usize>)] = &[
            ("none", "max 100000", "max 100000", None),
            ("a tenth of a core", "max 100000", "10000 100000", Some(1)),
            ("one and a half", "max 100000", "150000 100000", Some(2)),
            (
                "the pod's is tighter",
                "100000 100000",
                "400000 100000",
                Some(1),
            ),
            ("unreadable", "max 100000", "x", None),
        ];
        for (name, of_pod, own, want) in rows {
            fs::write(pod.join("cpu.max"), of_pod).unwrap();
            fs::write(pod.join("proxy/cpu.max"), own).unwrap();
            assert_eq!(
                limit_in(&root, "0::/kubepods/pod1/proxy\n"),
                *want,
                "{name}"
            );
        }
        let v1 = root.join("cpu/pod2");
        fs::create_dir_all(&v1).unwrap();
        fs::write(v1.join("cpu.cfs_quota_us"), "250000\n").unwrap();
        fs::write(v1.join("cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(
            limit_in(&root, "4:cpu,cpuacct:/pod2\n1:name=systemd:/\n"),
            Some(3),
            "version 1"
        );
        assert_eq!(limit_in(&root, ""), None, "no cgroups");
        fs::remove_dir_all(&root).unwrap();
    }
}
