//! Erasure coding: bytes in, shards out, and back. Sans I/O, synchronous, no state but the cached
//! code matrices.
//!
//! Owns the content of a shard: how the blocks of a stripe are computed, how each is sealed with a
//! checksum that only its rightful reader can verify, and how lost blocks are restored. How a body is
//! cut is [`holdfast_types::Geometry`]; where shards live is placement's; which checksum kinds S3
//! knows is the gateway's. This crate never decides whether enough drives answered, never reads a
//! clock and never retries.
//!
//! A body goes through as follows; `salts[i]` belongs to shard `i`:
//!
//! ```text
//! chunks -> StripeCutter -> StripeBody -> encode_* -> n blocks (payload, checksum) -> drives
//! drives -> open_block -> payloads (None: lost or rotten) -> decode_stripe   -> pieces of the body
//!                                                         -> restore_payload -> a lost shard's block
//! ```
//!
//! INV-BLOCK-1: a block verifies only for the operation, drive, shard and block number it was sealed
//! for. INV-CODE-1: any `k` payloads of a stripe restore all of it. INV-CODE-2: the code's matrix is
//! part of the on-disk format (Vandermonde over GF(2^8) with polynomial 0x11d, made systematic).
//!
//! | module | holds |
//! |---|---|
//! | [`block`] | the salted checksum: [`seal_block`], [`seal_owned`], [`open_block`] |
//! | `codec` | the matrices of the code, cached per (k, n), and arithmetic on whole blocks |
//! | [`stripe`] | [`encode_stripe`], [`encode_body`], [`decode_stripe`], [`restore_payload`] |
//! | [`cutter`] | [`StripeCutter`], which cuts a stream of unknown length into stripes |

pub mod block;
mod codec;
pub mod cutter;
mod error;
pub mod stripe;

pub use block::{Salt, open_block, seal_block, seal_owned};
pub use cutter::{StripeBody, StripeCutter};
pub use error::{BlockError, ErasureError};
pub use stripe::{decode_stripe, encode_body, encode_pieces, encode_stripe, restore_payload};
