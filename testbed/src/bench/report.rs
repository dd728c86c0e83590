//! The result of a run: a table for people, JSON for programs.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    load::{Load, Operation, Seen},
    servers::Cost,
    timeline::Point,
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
    /// Requests a second that were due, in an open loop.
    pub rate: Option<u32>,
    /// The shares of a mixed run.
    pub mix: Option<String>,
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
    /// Latencies of requests that succeeded; in an open loop from when they were due.
    pub latency_ms: Latency,
    /// In an open loop, from when they were sent.
    pub service_ms: Option<Latency>,
    /// The operations of a mixed run.
    pub kinds: Vec<Kind>,
    /// What it cost, when the servers' pids are known.
    pub cost: Option<Cost>,
    /// Server CPU milliseconds an object.
    pub server_cpu_ms_per_object: Option<f64>,
    /// CPU milliseconds of the machine less the client an object.
    pub machine_cpu_ms_per_object: Option<f64>,
    /// KiB written to drives an object.
    pub written_kib_per_object: Option<f64>,
    /// KiB read from drives an object.
    pub read_kib_per_object: Option<f64>,
    /// The servers' peaks of memory together, in MiB.
    pub server_peak_mib_together: Option<f64>,
    /// The run over time, when the servers' pids are known.
    pub timeline: Vec<Point>,
}

/// One operation of a mixed run.
#[derive(Debug, Serialize)]
pub struct Kind {
    /// Which.
    pub operation: Operation,
    /// Requests that succeeded.
    pub operations: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Their latencies.
    pub latency_ms: Latency,
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
    /// 99.99 %.
    pub p9999: f64,
    /// The slowest.
    pub max: f64,
}

impl Latency {
    fn of(micros: &Histogram<u64>) -> Self {
        let at = |quantile: f64| micros.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            mean: micros.mean() / 1_000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: micros.max() as f64 / 1_000.0,
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "mean {:.2}  p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  p99.99 {:.2}  max {:.2}",
            self.mean, self.p50, self.p90, self.p99, self.p999, self.p9999, self.max
        )
    }
}

impl Report {
    /// Draws up the report of a run.
    pub fn new(
        load: &Load,
        seen: Seen,
        took: Duration,
        cost: Option<Cost>,
        timeline: Vec<Point>,
    ) -> Self {
        let seconds = took.as_secs_f64();
        let objects = seen.objects.max(1) as f64;
        let per_object = |seconds: f64| seconds * 1_000.0 / objects;
        let kib = |of: fn(&Cost) -> f64| cost.as_ref().map(|cost| of(cost) * 1_024.0 / objects);
        let kind = |(operation, seen): &(Operation, Seen)| Kind {
            operation: *operation,
            operations: seen.operations,
            errors: seen.errors,
            latency_ms: Latency::of(&seen.latency),
        };
        Self {
            rate: load.rate,
            mix: (load.operation == Operation::Mixed).then(|| load.mix.to_string()),
            service_ms: load.rate.map(|_| Latency::of(&seen.service)),
            kinds: seen.kinds.iter().map(kind).collect(),
            written_kib_per_object: kib(|cost| cost.written_mib),
            read_kib_per_object: kib(|cost| cost.read_mib),
            server_peak_mib_together: cost.as_ref().map(|cost| cost.server_peak_mib.iter().sum()),
            timeline,
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
            latency_ms: Latency::of(&seen.latency),
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
        let (name, size) = (self.operation.name(), show_size(self.size));
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
        writeln!(f, "  latency ms  {}", self.latency_ms)?;
        if let (Some(rate), Some(service)) = (self.rate, &self.service_ms) {
            writeln!(f, "  open loop   {rate} requests/s due; from when they were sent:")?;
            writeln!(f, "              {service}")?;
        }
        for Kind { operation, operations, errors, latency_ms } in &self.kinds {
            let name = operation.name();
            writeln!(f, "  {name:<12}{operations} requests, {errors} errors; {latency_ms}")?;
        }
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
            let (read, written) = (cost.read_mib, cost.written_mib);
            writeln!(f, "  drives      {read:.1} MiB read, {written:.1} MiB written")?;
            if cost.servers_gone > 0 {
                writeln!(f, "  {} servers went away: their CPU is missing", cost.servers_gone)?;
            }
        }
        writeln!(f, "  errors      {}, of them wrong answers {}", self.errors, self.corrupt)?;
        self.error_samples.iter().try_for_each(|sample| writeln!(f, "    {sample}"))
    }
}
