//! Orders to the scrub and how it stands, as messages and back.

use holdfast_proto::{WireError, v1, value};
use holdfast_types::ScrubOrder;

use crate::scrub::{Count, Pass, Phase, ScrubStatus};

pub(super) const fn order(order: ScrubOrder) -> v1::ScrubOrder {
    let (order, rate) = match order {
        ScrubOrder::Status => (0, 0),
        ScrubOrder::Start => (1, 0),
        ScrubOrder::Pause => (2, 0),
        ScrubOrder::Resume => (3, 0),
        ScrubOrder::Rate(rate) => (4, rate),
    };
    v1::ScrubOrder { order, rate }
}

pub(super) const fn read_order(message: &v1::ScrubOrder) -> Result<ScrubOrder, WireError> {
    Ok(match message.order {
        0 => ScrubOrder::Status,
        1 => ScrubOrder::Start,
        2 => ScrubOrder::Pause,
        3 => ScrubOrder::Resume,
        4 => ScrubOrder::Rate(message.rate),
        _ => return Err(WireError::Malformed("scrub order")),
    })
}

pub(super) fn status(status: &ScrubStatus) -> v1::ScrubStatus {
    v1::ScrubStatus {
        phase: status.phase as u32,
        paused: status.paused,
        rate: status.rate,
        pass: Some(pass(&status.pass)),
        owed: Some(count(status.owed)),
        runs_left: status.runs_left,
        last: status.last.as_ref().map(pass),
        complete: status.complete.as_ref().map(pass),
    }
}

pub(super) fn read_status(message: &v1::ScrubStatus) -> Result<ScrubStatus, WireError> {
    let phase = value::narrow::<u8>(message.phase, "scrub phase")?;
    let wrong = |source| WireError::Record { field: "scrub phase", source };
    Ok(ScrubStatus {
        phase: Phase::from_number(phase).map_err(wrong)?,
        paused: message.paused,
        rate: message.rate,
        pass: message.pass.as_ref().map(read_pass).unwrap_or_default(),
        owed: read_count(message.owed.as_ref()),
        runs_left: message.runs_left,
        last: message.last.as_ref().map(read_pass),
        complete: message.complete.as_ref().map(read_pass),
    })
}

fn pass(pass: &Pass) -> v1::ScrubPass {
    v1::ScrubPass {
        pass: pass.pass,
        started_at: pass.started_at,
        finished_at: pass.finished_at,
        read: Some(count(pass.read)),
        missed: Some(count(pass.missed)),
        found: pass.found,
        run_bytes: pass.run_bytes,
        run_missed: pass.run_missed,
    }
}

fn read_pass(message: &v1::ScrubPass) -> Pass {
    Pass {
        pass: message.pass,
        started_at: message.started_at,
        finished_at: message.finished_at,
        read: read_count(message.read.as_ref()),
        missed: read_count(message.missed.as_ref()),
        found: message.found,
        run_bytes: message.run_bytes,
        run_missed: message.run_missed,
    }
}

const fn count(count: Count) -> v1::ScrubCount {
    v1::ScrubCount { shards: count.shards, bytes: count.bytes }
}

fn read_count(message: Option<&v1::ScrubCount>) -> Count {
    message.map_or_else(Count::default, |m| Count { shards: m.shards, bytes: m.bytes })
}
