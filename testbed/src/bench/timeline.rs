//! What the run looked like over time: progress, the servers' CPU, memory and drive bytes, on one clock.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    load::Progress,
    servers::{Servers, Usage},
};

/// Points kept at most: a run of a day and a half at one a second.
const POINTS_MAX: usize = 131_072;

/// One interval.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Point {
    /// Its end, in seconds from the beginning of the run.
    pub at_seconds: f64,
    /// Objects done in it.
    pub objects: u64,
    /// CPU seconds of the servers in it.
    pub server_cpu_seconds: f64,
    /// CPU seconds of the machine less this client.
    pub machine_cpu_seconds: f64,
    /// Resident memory of the servers at its end, in MiB.
    pub server_mib: f64,
    /// What the servers read from drives in it, in MiB.
    pub read_mib: f64,
    /// What the servers wrote to drives in it, in MiB.
    pub written_mib: f64,
}

/// Points as they are taken.
#[derive(Clone, Default)]
pub struct Timeline(Arc<Mutex<Vec<Point>>>);

impl Timeline {
    /// Takes points every `every` until the task is aborted.
    pub fn follow(
        &self,
        servers: Arc<Servers>,
        progress: Arc<Progress>,
        every: Duration,
    ) -> tokio::task::AbortHandle {
        let points = self.clone();
        let begin = Instant::now();
        let task = async move {
            let mut ticks = tokio::time::interval(every);
            ticks.tick().await;
            let (mut usage, mut done) = (servers.usage(), 0);
            loop {
                ticks.tick().await;
                let now = servers.usage();
                let all = progress.done.load(Ordering::Relaxed);
                points.add(point(&servers, begin, (usage, now), all - done));
                (usage, done) = (now, all);
            }
        };
        tokio::spawn(task).abort_handle()
    }

    fn add(&self, point: Point) {
        let mut points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if points.len() < POINTS_MAX {
            points.push(point);
        }
    }

    /// What was taken.
    pub fn points(&self) -> Vec<Point> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn point(servers: &Servers, begin: Instant, span: (Usage, Usage), objects: u64) -> Point {
    let cost = servers.cost(span.0, span.1);
    Point {
        at_seconds: begin.elapsed().as_secs_f64(),
        objects,
        server_cpu_seconds: cost.server_cpu_seconds,
        machine_cpu_seconds: cost.machine_cpu_seconds,
        server_mib: servers.resident_mib(),
        read_mib: cost.read_mib,
        written_mib: cost.written_mib,
    }
}
