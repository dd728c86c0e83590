//! What the load costs the servers: CPU time and peak memory, from `/proc`.

use std::fs;

use serde::Serialize;

use crate::process::{Process, Stat};

/// The servers' processes.
pub struct Servers {
    processes: Vec<Process>,
}

/// CPU time used so far, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    servers: u64,
    machine: u64,
    client: u64,
    read: u64,
    written: u64,
}

/// What a run cost.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Cost {
    /// CPU time of the server processes.
    pub server_cpu_seconds: f64,
    /// CPU time of the whole machine less this client: kernel and other processes included.
    pub machine_cpu_seconds: f64,
    /// CPU time of this client.
    pub client_cpu_seconds: f64,
    /// What the servers had read from drives, in MiB.
    pub read_mib: f64,
    /// What the servers wrote to drives, in MiB: with 16 drives more than the objects' bytes.
    pub written_mib: f64,
    /// Peak resident memory of each server during the run, in MiB.
    pub server_peak_mib: Vec<f64>,
    /// Servers that were not there any more at the end: their time is missing.
    pub servers_gone: usize,
}

impl Servers {
    /// The servers with these pids. Their peak memory counts from now, where the kernel lets us say so.
    pub fn new(pids: &[u32]) -> Self {
        for pid in pids {
            // "5": reset the peak resident set size (man 5 proc_pid_clear_refs).
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        Self { processes: pids.iter().filter_map(|pid| Process::of(*pid)).collect() }
    }

    /// Whether there are any to look at.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// CPU time used so far.
    pub fn usage(&self) -> Usage {
        let stats = self.processes.iter().filter_map(Process::stat);
        let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
        let moved = self.processes.iter().filter(|process| process.is_alive());
        let moved: Vec<(u64, u64)> = moved.filter_map(|process| drive_bytes(process.pid)).collect();
        Usage {
            read: moved.iter().map(|(read, _)| read).sum(),
            written: moved.iter().map(|(_, written)| written).sum(),
            servers: stats.map(|stat| stat.cpu_ticks).sum(),
            machine: machine_ticks(&machine).unwrap_or(0),
            client: Stat::of(std::process::id()).map_or(0, |stat| stat.cpu_ticks),
        }
    }

    /// What was used between `before` and `after`.
    pub fn cost(&self, before: Usage, after: Usage) -> Cost {
        let tick = rustix::param::clock_ticks_per_second() as f64;
        let seconds = |before: u64, after: u64| after.saturating_sub(before) as f64 / tick;
        let client = seconds(before.client, after.client);
        let alive = || self.processes.iter().filter(|process| process.is_alive());
        Cost {
            server_cpu_seconds: seconds(before.servers, after.servers),
            machine_cpu_seconds: (seconds(before.machine, after.machine) - client).max(0.0),
            client_cpu_seconds: client,
            read_mib: mib(after.read.saturating_sub(before.read)),
            written_mib: mib(after.written.saturating_sub(before.written)),
            server_peak_mib: alive().filter_map(|process| peak_mib(process.pid)).collect(),
            servers_gone: self.processes.len() - alive().count(),
        }
    }
}

impl Servers {
    /// Resident memory of all servers now, in MiB.
    pub fn resident_mib(&self) -> f64 {
        let alive = self.processes.iter().filter(|process| process.is_alive());
        alive.filter_map(|process| memory_mib(process.pid, "VmRSS:")).sum()
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes that a process had read from and written to block devices (man 5 proc_pid_io).
fn drive_bytes(pid: u32) -> Option<(u64, u64)> {
    parse_drive_bytes(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?)
}

fn parse_drive_bytes(io: &str) -> Option<(u64, u64)> {
    let field = |name| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("read_bytes:")?, field("write_bytes:")?))
}

/// Busy ticks of all CPUs, from `/proc/stat` (man 5 proc_stat): user, nice, system, irq, softirq.
fn machine_ticks(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> =
        line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().map(|place| fields.get(*place)).sum()
}

/// `VmHWM` of a process.
fn peak_mib(pid: u32) -> Option<f64> {
    memory_mib(pid, "VmHWM:")
}

fn memory_mib(pid: u32, field: &str) -> Option<f64> {
    parse_mib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, field)
}

fn parse_mib(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the kernel's texts are read. Method: texts as it writes them.
    #[test]
    fn proc_is_read() {
        let stat = "cpu  100 20 30 4000 50 6 7 8 9 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(machine_ticks(stat), Some(163));
        assert_eq!(machine_ticks("cpu  1 2"), None);
        assert_eq!(parse_mib("Name:\tx\nVmHWM:\t    2048 kB\n", "VmHWM:"), Some(2.0));
        let io =
            "rchar: 1\nwchar: 2\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n";
        assert_eq!(parse_drive_bytes(io), Some((4096, 8192)));
        assert_eq!(parse_drive_bytes("rchar: 1\n"), None);
    }

    /// Goal: time that a process burns is seen, and a pid that is not there does no harm. Method: burn
    /// CPU in this process, which stands in for a server, for as long as a busy machine needs to give it some.
    #[test]
    fn burnt_time_is_seen() {
        let servers = Servers::new(&[std::process::id(), u32::MAX]);
        let before = servers.usage();
        let begin = std::time::Instant::now();
        let mut x = 1_u64;
        let cost = loop {
            for _ in 0..1_000_000 {
                x = std::hint::black_box(x.wrapping_mul(3));
            }
            let cost = servers.cost(before, servers.usage());
            if cost.server_cpu_seconds >= 0.03 {
                break cost;
            }
            assert!(begin.elapsed() < std::time::Duration::from_secs(30), "{cost:?}");
        };
        assert!(cost.server_peak_mib[0] > 1.0 && cost.servers_gone == 0, "{cost:?}");
    }
}
