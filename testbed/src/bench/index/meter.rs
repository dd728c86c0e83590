//! CPU, memory, bytes on disk, latencies.

use std::{fs, path::Path, time::Instant};

use hdrhistogram::Histogram;
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

use crate::process::Stat;

/// CPU time of this thread so far, in nanoseconds (Documentation/scheduler/sched-stats.rst).
pub fn thread_cpu_nanos() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// CPU time of this process so far, threads that ended included, in nanoseconds.
pub fn process_cpu_nanos() -> u64 {
    let ticks = Stat::of(std::process::id()).map_or(0, |stat| stat.cpu_ticks);
    ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second()
}

/// Memory of this process now and at its peak, in MiB.
pub fn memory_mib() -> (f64, f64) {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()
    };
    (field("VmRSS:").unwrap_or(0.0) / 1024.0, field("VmHWM:").unwrap_or(0.0) / 1024.0)
}

/// Bytes of all files under a folder, as they are allocated.
pub fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    each_file(folder, &mut |path| {
        bytes += fs::metadata(path).map_or(0, |found| found.blocks() * 512);
    });
    bytes
}

/// Lets the kernel forget what it cached of all files under a folder: what is read next comes from the
/// device.
pub fn forget_cached(folder: &Path) {
    each_file(folder, &mut |path| {
        if let Ok(file) = fs::File::open(path) {
            let _ = file.sync_all();
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
    });
}

fn each_file(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let Ok(items) = fs::read_dir(folder) else { return };
    for item in items.flatten() {
        let path = item.path();
        if path.is_dir() { each_file(&path, visit) } else { visit(&path) }
    }
}

/// Latencies and CPU of many calls of one kind.
pub struct Timer {
    latencies: Histogram<u64>,
    cpu_began: u64,
    waited: u64,
}

/// What they were.
#[derive(Serialize, Deserialize, Clone, Copy, Default, Debug, PartialEq)]
pub struct Timed {
    /// Calls.
    pub count: u64,
    /// Median in microseconds.
    pub p50_us: f64,
    /// In microseconds.
    pub p99_us: f64,
    /// CPU of the thread that called, in microseconds a call.
    pub cpu_us: f64,
    /// Calls in a thousand that had to leave the drive's thread for the device.
    pub waited_permille: f64,
}

impl Timer {
    /// From now on.
    pub fn start() -> Self {
        Self {
            latencies: Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("sound bounds"),
            waited: 0,
            cpu_began: thread_cpu_nanos(),
        }
    }

    /// Times one call.
    pub fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let answer = call();
        self.latencies.saturating_record(began.elapsed().as_nanos() as u64);
        answer
    }

    /// Counts a call that waited.
    pub const fn waited(&mut self) {
        self.waited += 1;
    }

    /// Calls so far.
    pub fn count(&self) -> u64 {
        self.latencies.len()
    }

    /// What all of it was, `per` things a call.
    pub fn end(self, per: u64) -> Timed {
        let cpu = thread_cpu_nanos().saturating_sub(self.cpu_began);
        let count = self.latencies.len();
        let calls = count.max(1) as f64;
        let micros = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        Timed {
            count,
            p50_us: micros(0.5),
            p99_us: micros(0.99),
            cpu_us: cpu as f64 / 1e3 / calls / per.max(1) as f64,
            waited_permille: self.waited as f64 * 1e3 / calls,
        }
    }
}
