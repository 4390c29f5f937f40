//! What this machine lets the process use: memory, processors, open files, disk. [`read`] asks, what is made of the answers is
//! pure.

use rustix::fs::StatVfsMountFlags;
use rustix::process::Resource;
use std::io;
use std::path::{Path, PathBuf};

/// Where control groups are mounted, as systemd and every container runtime do it.
const GROUPS: &str = "/sys/fs/cgroup";

/// The first version says "no limit" by a number that no machine has.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// What the process may use. `None` is no limit, or none that could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Memory, by the smallest limit of the control groups that we are in.
    pub memory_bytes: Option<u64>,
    /// What that group uses of it now, caches of files included.
    pub memory_used_bytes: Option<u64>,
    /// Memory of the machine that could be had now.
    pub memory_available_bytes: Option<u64>,
    /// Processors that we may run on.
    pub processors: usize,
    /// How many of them we may keep busy.
    pub processor_quota: Option<f64>,
    /// Processes and threads of our control group.
    pub processes: Option<u64>,
    /// Files that a process may have open.
    pub open_files: Option<u64>,
}

/// The file system of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its kind: `ext4`, `overlay`; a number if we have no name for it.
    pub file_system: String,
    /// What can be written.
    pub free_bytes: u64,
    /// How many files can be made; `None` where they are not counted.
    pub free_files: Option<u64>,
    /// Whether programs in it may not be executed.
    pub no_execution: bool,
}

/// Asks the kernel.
pub fn read() -> Limits {
    let text = |path: &Path| std::fs::read_to_string(path).ok();
    let groups = text(Path::new("/proc/self/cgroup")).unwrap_or_default();
    Limits {
        memory_available_bytes: text(Path::new("/proc/meminfo")).and_then(|text| available_memory(&text)),
        processors: rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize),
        open_files: rustix::process::getrlimit(Resource::Nofile).current,
        ..of_groups(&groups, text)
    }
}

/// Asks about the file system of `directory`.
///
/// # Errors
/// If it is not there.
pub fn disk(directory: &Path) -> io::Result<Disk> {
    let space = rustix::fs::statvfs(directory)?;
    let kind = rustix::fs::statfs(directory)?.f_type;
    Ok(Disk {
        file_system: file_system(kind.cast_unsigned() as u64),
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        // btrfs and some network file systems make them as they are needed.
        free_files: (space.f_files > 0).then_some(space.f_favail),
        no_execution: space.f_flag.contains(StatVfsMountFlags::NOEXEC),
    })
}

/// The names that `mount` uses; numbers from linux/magic.h.
fn file_system(number: u64) -> String {
    let name = match number {
        0xEF53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794C_7630 => "overlay",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        0x2FC1_2FC1 => "zfs",
        0xF2F5_2010 => "f2fs",
        0x0102_1997 => "9p",
        0xFF53_4D42 | 0xFE53_4D42 => "cifs",
        0x00C3_6400 => "ceph",
        0x5A4F_4653 => "zonefs",
        _ => return format!("{number:#x}"),
    };
    name.to_owned()
}

/// `MemAvailable` of /proc/meminfo.
fn available_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Reads the limits of the groups that /proc/self/cgroup lists, of either version, and of those around them. Pure but for `read`.
fn of_groups(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Limits {
    let mut limits = Limits::default();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let names: Vec<&str> = controllers.split(',').collect();
        let number = |directory: &Path, name: &str| read(&directory.join(name))?.trim().parse::<u64>().ok();
        if controllers.is_empty() {
            for directory in around(Path::new(GROUPS), path) {
                let memory = number(&directory, "memory.max");
                limits.lower_memory(memory, || number(&directory, "memory.current"));
                limits.lower_processes(number(&directory, "pids.max"));
                limits.lower_quota(read(&directory.join("cpu.max")).and_then(|text| {
                    let mut words = text.split_whitespace().map(str::parse::<f64>);
                    Some(words.next()?.ok()? / words.next()?.ok()?)
                }));
            }
        }
        // Each controller has a mount of its own; where several share one it bears all their names, in this order.
        let mount = Path::new(GROUPS).join(controllers);
        for directory in around(&mount, path) {
            if names.contains(&"memory") {
                let memory = number(&directory, "memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT_BYTES);
                limits.lower_memory(memory, || number(&directory, "memory.usage_in_bytes"));
            }
            if names.contains(&"pids") {
                limits.lower_processes(number(&directory, "pids.max"));
            }
            if names.contains(&"cpu") {
                let float = |name: &str| read(&directory.join(name))?.trim().parse::<f64>().ok().filter(|number| *number > 0.0);
                limits
                    .lower_quota(float("cpu.cfs_quota_us").zip(float("cpu.cfs_period_us")).map(|(quota, period)| quota / period));
            }
        }
    }
    limits
}

/// The directory of a group and those around it, innermost first. Inside of a container the path may be one of the host, of which
/// only the end is mounted: then the mount itself is the group.
fn around(mount: &Path, group: &str) -> Vec<PathBuf> {
    let below = Path::new(group.trim_start_matches('/'));
    let inside = !below.components().any(|component| component == std::path::Component::ParentDir);
    below.ancestors().filter(|path| inside || path.as_os_str().is_empty()).map(|path| mount.join(path)).collect()
}

impl Limits {
    fn lower_memory(&mut self, limit: Option<u64>, used: impl FnOnce() -> Option<u64>) {
        if let Some(limit) = limit.filter(|limit| self.memory_bytes.is_none_or(|least| *limit < least)) {
            self.memory_bytes = Some(limit);
            self.memory_used_bytes = used();
        }
    }

    fn lower_processes(&mut self, limit: Option<u64>) {
        self.processes = self.processes.into_iter().chain(limit).min();
    }

    fn lower_quota(&mut self, quota: Option<f64>) {
        self.processor_quota = self.processor_quota.into_iter().chain(quota).reduce(f64::min);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(groups: &str, files: &[(&str, &str)]) -> Limits {
        of_groups(groups, |path| {
            files.iter().find(|(name, _)| Path::new(GROUPS).join(name) == path).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_smallest_limit_of_the_groups_around_us_counts() {
        let files = [
            ("memory.max", "max\n"),
            ("pod/memory.max", "1000\n"),
            ("pod/memory.current", "10\n"),
            ("pod/box/memory.max", "2000\n"),
            ("pod/box/cpu.max", "150000 100000\n"),
            ("pod/cpu.max", "max 100000\n"),
            ("pod/box/pids.max", "max\n"),
            ("pod/pids.max", "512\n"),
        ];
        let expected = Limits {
            memory_bytes: Some(1000),
            memory_used_bytes: Some(10),
            processor_quota: Some(1.5),
            processes: Some(512),
            ..Limits::default()
        };
        assert_eq!(limits("0::/pod/box\n", &files), expected);
    }

    #[test]
    fn in_a_container_the_mount_is_the_group() {
        let files = [("memory.max", "77\n"), ("memory.current", "7\n"), ("cpu.max", "50000 100000\n")];
        let found = limits("0::/../../pod\n", &files);
        assert_eq!((found.memory_bytes, found.memory_used_bytes, found.processor_quota), (Some(77), Some(7), Some(0.5)));
        let files = [
            ("memory/memory.limit_in_bytes", "4096\n"),
            ("memory/memory.usage_in_bytes", "100\n"),
            ("cpu,cpuacct/cpu.cfs_quota_us", "200000\n"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("pids/pids.max", "9\n"),
        ];
        let groups = "12:memory:/kubepods/pod1\n5:cpu,cpuacct:/kubepods/pod1\n3:pids:/kubepods/pod1\n1:name=systemd:/x\n0::/\n";
        let found = limits(groups, &files);
        assert_eq!((found.memory_bytes, found.processor_quota, found.processes), (Some(4096), Some(2.0), Some(9)));
    }

    #[test]
    fn no_limit_is_none() {
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("cpu.max", "max 100000\n"),
            ("memory.max", "max\n"),
        ];
        assert_eq!(limits("2:memory:/\n3:cpu:/\n0::/\n", &files), Limits::default());
        assert_eq!(limits("", &files), Limits::default());
        assert_eq!(limits("nonsense\n4:memory\n", &files), Limits::default());
    }

    #[test]
    fn memory_and_file_systems_are_read() {
        assert_eq!(available_memory("MemTotal: 9 kB\nMemAvailable:    2 kB\n"), Some(2048));
        assert_eq!(available_memory("MemTotal: 9 kB\n"), None);
        assert_eq!((file_system(0xEF53), file_system(0x1234)), ("ext4".to_owned(), "0x1234".to_owned()));
        assert!(read().processors > 0);
        assert!(disk(Path::new("/proc/self")).is_ok() && disk(Path::new("/absent")).is_err());
    }
}
