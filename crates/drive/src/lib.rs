//! One drive: identity, log, runs, index, volumes, recovery; the actor that owns it; the carriers
//! that reach it (DRIVE.md).
//!
//! Owns everything that is stored. Never decides about quorums: it answers commands by the rules of
//! `holdfast-register` and leaves conclusions to the engine.
//!
//! | module | holds |
//! |---|---|
//! | [`api`] | commands to a drive, its replies and errors |
//! | [`fabric`] | other nodes over gRPC: client carrier, server adapter, authentication |
//! | [`meta_index`] | [`meta_index::MetaIndex`], the index that can be lost; its in-memory twin |
//! | [`scrub`] | the scrub as a caller sees it, and what a drive keeps of it |
//! | [`runs`] | immutable sorted files, the state of the drive up to the log's tail |
//! | [`manifest`] | the files that name runs, bitmaps and facts; two are kept |
//! | [`local`] | [`local::LocalNode`], the carrier to this process's drives: admission, deadlines |
//! | [`supervisor`] | opens, places and replaces drives; the node's actor system |
//! | [`actor`] | the actors that own drives, one group an Arbiter |
//! | [`io_pool`] | the threads that wait for one drive's device |
//! | [`conformance`] | what every [`node::Node`] must do, as a suite over all carriers |
//! | [`member`] | how drives come and go: set epochs, floors, indexes to compare |
//! | [`node`] | [`node::Node`], the trait through which drives are reached, one message a node |
//! | [`traced`] | a node whose calls are spans of a trace |
//! | [`drive`] | [`Drive`], the state machine of one drive, without threads |
//! | [`suspect`] | which drives are slow against their siblings |
//! | [`table`] | the durable state, and how records change it |
//! | [`overlay`] | the log's net tail above what runs and index hold |
//! | [`loaded`] | what I/O threads brought up from below the overlay |
//! | [`base`] | runs and index as what lies under the overlay |
//! | [`value`] | registers, places and chores as they are kept |
//! | [`log`] | chained batches in pre-written segments |
//! | [`volume`] | pre-written files for larger shards |
//! | [`gate`] | answers wait here for their log batch |
//! | [`checkpoint`] | what a manifest says: facts, bitmaps, runs, where replay starts |
//! | [`identity`] | who a drive is |
//! | [`disk_claim`] | one process a folder |
//! | [`disk`] | the device seam, aligned buffers; [`disk_real`] a folder, [`disk_sim`] one in memory |
//! | [`error`] | why a drive does not serve |

pub mod actor;
pub mod api;
pub mod base;
pub mod checkpoint;
pub mod conformance;
pub mod disk;
pub mod disk_claim;
pub mod disk_real;
pub mod disk_sim;
pub mod drive;
pub mod error;
pub mod fabric;
pub mod gate;
pub mod identity;
pub mod io_pool;
pub mod loaded;
pub mod local;
pub mod log;
pub mod manifest;
pub mod member;
pub mod meta_index;
pub mod node;
pub mod overlay;
pub mod rot;
pub mod runs;
pub mod scrub;
pub mod supervisor;
pub mod suspect;
pub mod table;
pub mod traced;
pub mod value;
pub mod volume;

pub use drive::{
    BackgroundJob, Drive, DriveOptions, JobOutcome, LoadJob, LoadOutcome, ReadJob, ShardDone,
};
pub use error::DriveFault;
pub use identity::Identity;
