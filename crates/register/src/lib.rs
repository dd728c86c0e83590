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

pub mod decide;
pub mod judge;
pub mod state;

pub use decide::{
    AcceptVerdict, DriveView, Refusal, SettleVerdict, decide_accept, decide_install,
    decide_prepare, decide_purge, decide_settle,
};
pub use judge::{Answer, Candidate, Judgement, Verdict, judge, judge_latest};
pub use state::{Held, HolderMask, KeyState, KeyView, RegisterState, Remembered, ShardStatus};
