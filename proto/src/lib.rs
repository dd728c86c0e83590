//! The contracts between nodes: generated messages and services, the conversion of the vocabulary's
//! values, and the table between error classes and gRPC statuses.
//!
//! Owns what goes over the wire. Never opens a connection and never knows what a drive does; the
//! commands to drives are converted by `holdfast-drive`, which owns them.
//!
//! | module | holds |
//! |---|---|
//! | [`v1`] | what tonic and prost generate from `holdfast/fabric/v1/fabric.proto` |
//! | [`value`] | identifiers, ballots, stamps, keys, geometries, entries as bytes and back |
//! | [`status`] | [`holdfast_types::ErrorClass`] as a gRPC status and back, without loss |

pub mod status;
pub mod value;

/// The messages of the fabric, package version 1.
#[allow(missing_docs, clippy::all, clippy::pedantic, rust_2018_idioms)]
pub mod v1 {
    tonic::include_proto!("holdfast.fabric.v1");
}

/// The oldest protocol version this build speaks.
pub const PROTOCOL_MIN: u32 = 2;

/// The newest protocol version this build speaks.
pub const PROTOCOL_MAX: u32 = 2;

/// A message that does not say what its contract says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("decode message: {0} is missing")]
    Missing(&'static str),
    /// A field holds what its type does not know.
    #[error("decode message: malformed {0}")]
    Malformed(&'static str),
    /// A field is beyond its limit.
    #[error("decode message: {0} beyond its limit")]
    TooLong(&'static str),
    /// A record inside the message is malformed.
    #[error("decode message: {field}: {source}")]
    Record {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        source: holdfast_types::codec::CodecError,
    },
}
