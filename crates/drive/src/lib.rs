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
//! | [`runs`] | immutable sorted files, the state of the drive up to the log's tail |
//! | [`manifest`] | the files that name runs, bitmaps and facts; two are kept |
//! | [`node`] | [`node::Node`], the trait through which drives are reached, one message a node |
//! | [`checkpoint`] | what a manifest says: facts, bitmaps, runs, where replay starts |
//! | [`disk`] | the device seam, aligned buffers; [`disk_real`] a folder, [`disk_sim`] one in memory |

pub mod api;
pub mod fabric;
pub mod checkpoint;
pub mod disk;
pub mod disk_real;
pub mod disk_sim;
pub mod manifest;
pub mod meta_index;
pub mod node;
pub mod runs;
