//! What the steps found, as table and JSON.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::meter::Timed;

/// All of it.
#[derive(Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
pub struct Report {
    /// What sled held.
    pub index: String,
    /// Writing.
    pub grown: Grown,
    /// The drive after a restart.
    pub restarted: Restarted,
    /// What lies under it.
    pub below: Below,
}

/// What writing all entries took.
#[derive(Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
pub struct Grown {
    /// Entries asked for.
    pub asked: u64,
    /// Entries written until the time was over.
    pub entries: u64,
    /// How long it took.
    pub seconds: f64,
    /// CPU an entry, all of the process, in microseconds.
    pub cpu_us: f64,
    /// Of it: deciding and applying an Accept and a Settle.
    pub decide_cpu_us: f64,
    /// Of it: writing log batches.
    pub log_cpu_us: f64,
    /// Background jobs by name.
    pub jobs: BTreeMap<String, JobCost>,
    /// Registers that the drive counts at the end.
    pub registers: u64,
    /// Repair records that it counts at the end.
    pub repairs: u64,
    /// fdatasyncs of log and volumes.
    pub syncs: u64,
    /// Resident memory when all was written, in MiB.
    pub resident_mib: f64,
    /// Its peak.
    pub peak_mib: f64,
    /// Files.
    pub bytes: Bytes,
}

/// What background jobs of one name cost.
#[derive(Serialize, Deserialize, Clone, Copy, Default, Debug, PartialEq)]
pub struct JobCost {
    /// How many.
    pub count: u64,
    /// How long, together.
    pub seconds: f64,
    /// The longest.
    pub longest_seconds: f64,
    /// Their CPU.
    pub cpu_seconds: f64,
}

/// Bytes of files.
#[derive(Serialize, Deserialize, Clone, Copy, Default, Debug, PartialEq)]
pub struct Bytes {
    /// Runs.
    pub runs: u64,
    /// sled.
    pub index: u64,
    /// Log segments.
    pub log: u64,
}

/// The drive after a restart, page cache dropped.
#[derive(Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
pub struct Restarted {
    /// Until it serves.
    pub open_seconds: f64,
    /// CPU of that.
    pub open_cpu_seconds: f64,
    /// Resident memory then, in MiB.
    pub opened_mib: f64,
    /// Beside serving: until the index is verified, and what else is due.
    pub index_seconds: f64,
    /// CPU of that.
    pub index_cpu_seconds: f64,
    /// Resident memory then, in MiB.
    pub index_mib: f64,
    /// The first look-ups of keys that are there.
    pub cold: Timed,
    /// Later ones.
    pub hit: Timed,
    /// Of keys that are not there.
    pub miss: Timed,
    /// Pages of a list; CPU by name.
    pub list: Timed,
    /// First pages of the repairs that are left.
    pub repairs: Timed,
    /// Deletes: a tombstone accepted and settled.
    pub delete: Timed,
    /// Resident memory at the end, in MiB.
    pub resident_mib: f64,
    /// Its peak.
    pub peak_mib: f64,
}

/// Runs and index without a drive above them.
#[derive(Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
pub struct Below {
    /// Items of each run, newest first.
    pub run_items: Vec<u64>,
    /// Memory that opening the runs took, in MiB.
    pub runs_mib: f64,
    /// Of it: fences and filters, by their own count.
    pub runs_frame_mib: f64,
    /// The runs.
    pub runs: Side,
    /// The index, when there is one; object entries only when it holds them.
    pub index: Option<Side>,
    /// Building the index anew from the runs.
    pub reindex_seconds: f64,
    /// CPU of that.
    pub reindex_cpu_seconds: f64,
}

/// Answers of one of them.
#[derive(Serialize, Deserialize, Clone, Copy, Default, Debug, PartialEq)]
pub struct Side {
    /// Registers that are there.
    pub hit: Timed,
    /// Registers that are not.
    pub miss: Timed,
    /// Places of bytes that are there.
    pub place: Timed,
    /// Pages of registers in order; CPU by record.
    pub scan: Timed,
    /// The first page of repairs; CPU by record.
    pub repairs: Timed,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (grown, restarted, below) = (&self.grown, &self.restarted, &self.below);
        writeln!(f, "{} of {} entries, index {}", grown.entries, grown.asked, self.index)?;
        grown.write(f)?;
        restarted.write(f)?;
        below.write(f)
    }
}

impl Grown {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.max(1) as f64;
        writeln!(
            f,
            "insert      {:8.0} entries/s   CPU {:.1} us an entry (decide {:.1}, log {:.1})",
            entries / self.seconds.max(1e-9),
            self.cpu_us,
            self.decide_cpu_us,
            self.log_cpu_us
        )?;
        for (name, job) in &self.jobs {
            let us = job.cpu_seconds * 1e6 / entries;
            writeln!(
                f,
                "  {name:16} {:5} times, longest {:6.1} s, CPU {us:.2} us an entry",
                job.count, job.longest_seconds
            )?;
        }
        let per = |bytes: u64| bytes as f64 / entries;
        writeln!(
            f,
            "disk        runs {:.0}, index {:.0}, log {:.0} bytes an entry",
            per(self.bytes.runs),
            per(self.bytes.index),
            per(self.bytes.log)
        )?;
        writeln!(f, "memory      {:.0} MiB, peak {:.0} MiB", self.resident_mib, self.peak_mib)
    }
}

impl Restarted {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "restart     serves after {:.2} s (CPU {:.2} s, {:.0} MiB), index after {:.2} s more (CPU {:.2} s, {:.0} MiB)",
            self.open_seconds,
            self.open_cpu_seconds,
            self.opened_mib,
            self.index_seconds,
            self.index_cpu_seconds,
            self.index_mib
        )?;
        let calls = [
            ("read cold", &self.cold),
            ("read hit", &self.hit),
            ("read miss", &self.miss),
            ("list page", &self.list),
            ("repairs", &self.repairs),
            ("delete", &self.delete),
        ];
        calls.into_iter().try_for_each(|(name, timed)| line(f, name, timed))?;
        writeln!(f, "memory      {:.0} MiB, peak {:.0} MiB", self.resident_mib, self.peak_mib)
    }
}

impl Below {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "runs        {} of {} items, {:.0} MiB of memory ({:.0} in fences and filters)",
            self.run_items.len(),
            self.run_items.iter().sum::<u64>(),
            self.runs_mib,
            self.runs_frame_mib
        )?;
        self.runs.write(f, "runs")?;
        if let Some(index) = &self.index {
            index.write(f, "sled")?;
            let (took, cpu) = (self.reindex_seconds, self.reindex_cpu_seconds);
            writeln!(f, "reindex     {took:.1} s, CPU {cpu:.1} s")?;
        }
        Ok(())
    }
}

impl Side {
    fn write(&self, f: &mut fmt::Formatter<'_>, who: &str) -> fmt::Result {
        let calls = [
            ("hit", &self.hit),
            ("miss", &self.miss),
            ("place", &self.place),
            ("scan", &self.scan),
            ("repairs", &self.repairs),
        ];
        let asked = calls.into_iter().filter(|(_, timed)| timed.count > 0);
        asked.into_iter().try_for_each(|(name, timed)| line(f, &format!("{who} {name}"), timed))
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, timed: &Timed) -> fmt::Result {
    writeln!(
        f,
        "{name:14} p50 {:9.1} us   p99 {:9.1} us   CPU {:8.2} us   waited {:5.1} of 1000   ({})",
        timed.p50_us, timed.p99_us, timed.cpu_us, timed.waited_permille, timed.count
    )
}
