//! The vocabulary of Holdfast: identifiers, ballots, entries, quorums, limits, error classes and the
//! seams for time and chance.
//!
//! Owns the meaning and the byte encoding of the values that every other crate exchanges. Does no
//! I/O, knows no runtime, and never decides anything that needs the state of a drive.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | 128-bit identifiers and small indexes, each its own type |
//! | [`ballot`] | hybrid logical time, [`Ballot`] and the clock that draws ballots |
//! | [`key`] | keyspaces, register keys, version ids and their order-preserving encoding |
//! | [`entry`] | [`Entry`], what a register holds, and its record format |
//! | [`geometry`] | how a body is cut into shards and blocks |
//! | [`quorum`] | the quorum table of PROTOCOL.md section 1 |
//! | [`bucket`] | bucket states and the stamp every request carries |
//! | [`drive`] | drive states and facts that operators see |
//! | [`error`] | [`ErrorClass`], what a caller can do about an error |
//! | [`codec`] | the little byte writer and reader behind all our record formats |
//! | [`limits`] | every limit, with its reason |
//! | [`sabotage`] | bugs that test builds plant to see them caught |
//! | [`seam`] | the traits [`seam::Clock`] and [`seam::Random`] |
//! | [`view`] | the cluster as adminctl shows it |

pub mod ballot;
pub mod bucket;
pub mod codec;
pub mod drive;
pub mod entry;
pub mod error;
pub mod geometry;
pub mod id;
pub mod key;
pub mod limits;
pub mod quorum;
pub mod sabotage;
pub mod seam;
pub mod view;

pub use ballot::{Ballot, BallotClock, HybridTime};
pub use bucket::{BucketEpoch, BucketPhase, BucketStamp};
pub use drive::{DriveState, ScrubOrder, SetEpoch};
pub use entry::{Entry, EntryKind, PartRef};
pub use error::ErrorClass;
pub use geometry::Geometry;
pub use id::{
    BucketId, ClusterId, DriveId, NodeIndex, OperationId, PoolIndex, SetIndex, ShardIndex, WriterId,
};
pub use key::{Keyspace, RegisterKey, VersionId};
pub use quorum::Quorum;
