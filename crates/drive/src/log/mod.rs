//! The log: chained batches of records in pre-written, recycled segments (docs/format/log.md).
//!
//! Owns what is in `log/`. Never interprets a record: the drive's tables do.
//!
//! ```text
//! append -> pending batch -> take -> BatchJob: write, fdatasync (one in flight) -> done
//!                                         |-> gate lets answers out
//! ```
//!
//! INV-LOG-1: a block once flushed is never written again before its segment is recycled.
//! INV-LOG-2: a batch is all or nothing, and lies within one segment.
//! INV-LOG-3: batch numbers rise by one over all opens, and each batch names the checksum of the one
//! before it; the log ends where the chain has no continuation.
//! INV-LOG-4: a batch header of a higher number beyond the end means that memory was lost.
//! INV-LOG-5: a segment is recycled only when neither manifest's replay needs it, no live shard lies in
//! it, what dropped the last one is durable, and nobody reads it.
//!
//! | module | holds |
//! |---|---|
//! | [`record`] | the events and their bytes |
//! | [`batch`] | the header of a batch |
//! | [`segment`] | the files: names, creation |
//! | [`writer`] | [`writer::LogWriter`], pending batches, and [`writer::BatchJob`] |
//! | [`replay`](mod@replay) | reading the chain back, finding its end, telling amnesia |

pub mod batch;
pub mod record;
pub mod replay;
pub mod segment;
pub mod writer;
