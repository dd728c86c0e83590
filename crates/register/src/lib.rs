//! The register protocol (PROTOCOL.md): ballots, entries, transitions, judging. Pure and
//! synchronous: used unchanged by drives, coordinators, the simulator and the model checker.
//!
//! Owns what a drive may answer and what a coordinator may conclude. Does no I/O, keeps no time and
//! draws no randomness: all of that comes in as values.
//!
//! | module | holds |
//! |---|---|
//! | [`state`] | [`KeyState`], what one drive holds for one key, and how records change it |
//! | [`decide`] | whether a drive accepts, promises, settles, installs or purges |
//! | [`judge`](mod@judge) | what a coordinator concludes from the drives' answers |
//! | [`finish`] | whether an operation took effect, from the drives' memory |
//! | [`command`] | what machines and their callers say to each other: [`Machine`], [`Step`] |
//! | [`write`] | [`Blind`], a write without conditions |
//! | [`conditional`] | [`Conditional`], a write that depends on what the key holds |
//! | [`read`] | [`Read`], an answer from just enough drives |
//! | [`resolve`] | [`Resolve`], which settles what is open |
//!
//! # Driving a machine
//!
//! Every machine is driven by the same loop. Each command sent gets exactly one reply:
//! [`Reply::Silent`] when the deadline passes. After [`Step::Done`] the answer may leave; stragglers'
//! replies still go to the machine, and then its [`Settlement`] is sent to the drives.
//!
//! ```
//! use holdfast_register::{Blind, Command, Drives, HolderMask, Machine, Reply, ShardStatus, Step};
//! use holdfast_types::{
//!     Ballot, BallotClock, Entry, EntryKind, Geometry, OperationId, VersionId, WriterId,
//!     seam::ManualClock,
//! };
//!
//! let clock = BallotClock::new(WriterId(1), std::sync::Arc::new(ManualClock::at(1_000)));
//! let entry = Entry {
//!     ballot: Ballot::ZERO, // the machine fills in ballot and order
//!     order: Ballot::ZERO,
//!     operation: OperationId(7),
//!     kind: EntryKind::Put,
//!     geometry: Geometry::new(2, 4, 100),
//!     metadata: bytes::Bytes::new(),
//!     parts: Vec::new(),
//! };
//! let drives = Drives::all_up(4);
//! let mut machine = Blind::new(drives, VersionId::NULL, entry, HolderMask::full(4));
//! let mut replies = std::collections::VecDeque::new();
//! let mut step = machine.start();
//! let outcome = loop {
//!     step = match step {
//!         Step::Ballot { above, .. } => machine.on_ballot(clock.draw_above(1, above.time)),
//!         Step::Send { round, commands } => {
//!             for (drive, command) in commands {
//!                 // Send it; every drive of this example accepts.
//!                 assert!(matches!(command, Command::Accept { .. }));
//!                 replies.push_back((round, drive, Reply::Accepted(ShardStatus::Present)));
//!             }
//!             Step::Wait
//!         }
//!         // Real callers also start the grace timer here, and call `on_grace` when it fires.
//!         Step::Wait | Step::Grace => {
//!             let (round, drive, reply) = replies.pop_front().expect("a reply for each command");
//!             machine.on_reply(round, drive, reply)
//!         }
//!         Step::Evaluate(_) => unreachable!("only conditional writes evaluate"),
//!         Step::Done(outcome) => break outcome,
//!     };
//! };
//! assert!(outcome.is_ok());
//! assert_eq!(machine.settlement().map(|s| s.holders), Some(HolderMask::full(4)));
//! ```

mod adopting;
pub mod command;
pub mod conditional;
pub mod decide;
pub mod finish;
pub mod judge;
pub mod read;
pub mod resolve;
mod round;
pub mod state;
pub mod write;

pub use command::{Command, Drives, Failure, Machine, Reply, Round, Settlement, Source, Step};
pub use conditional::{Conditional, DecideOutcome, Decided, Decision, Subject};
pub use decide::{
    AcceptVerdict, DriveView, Refusal, SettleVerdict, decide_accept, decide_install,
    decide_prepare, decide_purge, decide_settle,
};
pub use finish::{Effect, effect};
pub use judge::{Answer, Basis, Candidate, Judgement, Verdict, judge, judge_latest, judge_plain};
pub use read::{Read, ReadOutcome, Seen, Target};
pub use resolve::{Reach, Resolve, ResolveOutcome};
pub use state::{Held, HolderMask, KeyState, KeyView, RegisterState, Remembered, ShardStatus};
pub use write::{Blind, WriteOutcome, Written};

#[cfg(test)]
mod tests;
