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
//! | [`node`] | [`node::Node`], the trait through which drives are reached, one message a node |

pub mod api;
pub mod fabric;
pub mod node;
