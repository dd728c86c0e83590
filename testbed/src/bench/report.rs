//! The result of a run: a table for people, JSON for programs.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{
    load::{Load, Operation, Seen},
    servers::Cost,
    units::show_size,
};

/// What a run gave.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was done.
    pub operation: Operation,
    /// Bytes of an object.
    pub size: u64,
    /// Objects there were.
    pub objects: u64,
    /// Workers.
    pub concurrency: usize,
    /// How long it took.
    pub seconds: f64,
    /// Requests that succeeded.
    pub operations: u64,
    /// Objects they were about (pages list, batches delete many).
    pub objects_done: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Of these, answers that were wrong: bytes, sizes or lists.
    pub corrupt: u64,
    /// Some of the errors.
    pub error_samples: Vec<String>,
    /// Objects a second.
    pub objects_per_second: f64,
    /// MiB of bodies a second.
    pub mib_per_second: f64,
    /// Latencies of requests that succeeded.
    pub latency_ms: Latency,
    /// What it cost, when the servers' pids are known.
    pub cost: Option<Cost>,
    /// Server CPU milliseconds an object.
    pub server_cpu_ms_per_object: Option<f64>,
    /// CPU milliseconds of the machine less the client an object.
    pub machine_cpu_ms_per_object: Option<f64>,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Report {
    /// Draws up the report of a run.
    pub fn new(load: &Load, seen: Seen, took: Duration, cost: Option<Cost>) -> Self {
        let seconds = took.as_secs_f64();
        let objects = seen.objects.max(1) as f64;
        let per_object = |seconds: f64| seconds * 1_000.0 / objects;
        let at = |quantile: f64| seen.latency.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            operation: load.operation,
            size: load.objects.size,
            objects: load.objects.count,
            concurrency: load.concurrency,
            seconds,
            operations: seen.operations,
            objects_done: seen.objects,
            errors: seen.errors,
            corrupt: seen.corrupt,
            objects_per_second: seen.objects as f64 / seconds,
            mib_per_second: seen.bytes as f64 / seconds / f64::from(1 << 20),
            latency_ms: Latency {
                mean: seen.latency.mean() / 1_000.0,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: seen.latency.max() as f64 / 1_000.0,
            },
            server_cpu_ms_per_object: cost.as_ref().map(|c| per_object(c.server_cpu_seconds)),
            machine_cpu_ms_per_object: cost.as_ref().map(|c| per_object(c.machine_cpu_seconds)),
            error_samples: seen.samples,
            cost,
        }
    }

    /// Whether every request succeeded, and there was one.
    pub const fn is_good(&self) -> bool {
        self.errors == 0 && self.operations > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{:?}", self.operation).to_lowercase();
        let (size, latency) = (show_size(self.size), &self.latency_ms);
        writeln!(f, "{name} {size} x {} objects, {} at a time", self.objects, self.concurrency)?;
        writeln!(
            f,
            "  throughput  {:.1} objects/s, {:.1} MiB/s ({} requests for {} objects in {:.1} s)",
            self.objects_per_second,
            self.mib_per_second,
            self.operations,
            self.objects_done,
            self.seconds
        )?;
        writeln!(
            f,
            "  latency ms  mean {:.2}  p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
            latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max
        )?;
        if let (Some(cost), Some(server), Some(machine)) =
            (&self.cost, self.server_cpu_ms_per_object, self.machine_cpu_ms_per_object)
        {
            let peak: f64 = cost.server_peak_mib.iter().sum();
            writeln!(
                f,
                "  CPU         servers {server:.3} ms an object, machine less client {machine:.3} ms \
                 (client {:.1} s)",
                cost.client_cpu_seconds
            )?;
            writeln!(f, "  memory      servers' peaks together {peak:.0} MiB")?;
            if cost.servers_gone > 0 {
                writeln!(f, "  {} servers went away: their CPU is missing", cost.servers_gone)?;
            }
        }
        writeln!(f, "  errors      {}, of them wrong answers {}", self.errors, self.corrupt)?;
        self.error_samples.iter().try_for_each(|sample| writeln!(f, "    {sample}"))
    }
}
