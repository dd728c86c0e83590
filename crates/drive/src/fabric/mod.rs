//! The fabric: the drives of other nodes over gRPC (DESIGN section 6).
//!
//! [`RemoteNode`] is the client's carrier of [`crate::node::Node`]; [`FabricService`] the server's
//! adapter over the local one. Each pair of nodes has control connections and bulk connections, never
//! shared. Every call has a deadline and ends as carried out, as certainly not sent, or as unknown.
//!
//! | module | holds |
//! |---|---|
//! | [`settings`] | every number, with its reason |
//! | [`auth`] | keys, signatures, clocks that agree |
//! | [`sessions`] | sessions of peers, and which of their calls were seen |
//! | [`wire`] | commands, replies and errors as messages and back |
//! | [`fault`] | statuses as errors and back: refused, not sent, or lost |
//! | [`frame`] | gRPC messages as frames of raw bytes |
//! | [`sealed`] | frames of an exchange: many calls or answers under one MAC |
//! | [`client`] | [`RemoteNode`] |
//! | [`exchange`] | calls and answers over one long stream, the client's side |
//! | [`link`] | keeps one session with a peer open |
//! | [`session`] | connections, key and handshake of one session, the client's side |
//! | [`streams`] | shard streams, the client's side |
//! | [`host`] | what a node answers its peers with, and the bounds of what it takes on |
//! | [`server`] | [`FabricService`] |
//! | [`serve_exchange`] | exchanges, the server's side |
//! | [`serve_streams`] | shard streams, the server's side |

pub mod auth;
pub mod client;
mod exchange;
pub mod fault;
pub mod frame;
pub mod host;
pub mod link;
mod sealed;
mod serve_exchange;
mod serve_streams;
pub mod server;
pub mod session;
pub mod sessions;
pub mod settings;
mod streams;
pub mod wire;

pub use client::{Dialer, Here, RemoteConfig, RemoteNode, TcpDialer};
pub use host::{Host, HostConfig, Startup};
pub use server::FabricService;
