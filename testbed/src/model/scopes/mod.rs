//! What spans keys: bucket epochs (PROTOCOL.md section 6) and multipart uploads (section 7), walked at
//! random over several keys of one set.
//!
//! Real are the machines, the drives' decisions, judging, and the rules of stamps. The engine's async
//! code around them (transitions of buckets and uploads, who seals, frees and marks when) is mirrored
//! here, function by function: it draws its time and its calls from tokio, and its operations are no
//! values to be stepped. Where the product lost data the model follows ADR 0005, and what was there
//! before is `--bug adoption-unguarded`. Left out: several sets, wiped drives, the healer, part lists beyond one page.
//!
//! | module | holds |
//! |---|---|
//! | [`sim`], [`coordinator`] | the executor, and what programs do in it |
//! | [`drive`] | a drive with stamps, guards and bytes |
//! | [`ops`] | reads, writes, conditional writes, seals |
//! | [`scan`] | scans, and what all drives say of a key |
//! | [`buckets`] | bucket epochs |
//! | [`uploads`], [`upload_checks`] | multipart uploads |

mod buckets;
mod coordinator;
mod drive;
mod ops;
mod scan;
mod sim;
mod upload_checks;
mod uploads;

use super::{
    bugs::{Bug, Part},
    rng::Rng,
    walk::Report,
};

/// The run of a seed.
pub fn run(part: Part, seed: u64, bug: Option<Bug>, traced: bool) -> Report {
    let mut rng = Rng::new(seed);
    let scripts = Rng::new(rng.next());
    let mut sim = sim::Sim::new(drives(seed), bug, rng, traced);
    let events = match part {
        Part::Uploads => upload_checks::run(&mut sim, scripts),
        Part::Buckets | Part::Register | Part::Rot => buckets::run(&mut sim, scripts),
    };
    let mut state = sim.shared.borrow_mut();
    let trace = state.trace.take().unwrap_or_default();
    Report { events, violation: state.violation.take(), excused: false, trace }
}

/// Drives of a seed's set.
pub const fn drives(seed: u64) -> u8 {
    3 + (seed % 3) as u8
}
