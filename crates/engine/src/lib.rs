//! Objects across drives: sets, writing, reading, listing, multipart, buckets, healing.
//!
//! Owns the conversation with drives; decides by pure functions of `holdfast-register` and its own.
//! Never touches a disk and knows nothing of HTTP or S3's XML.
//!
//! | module | holds |
//! |---|---|
//! | [`api`] | [`api::ObjectStore`], what the gateway calls, with its requests and answers |
//! | `bulk`, `cork` | DeleteObjects; many operations in one message a node |
//! | [`conditions`] | conditions of requests, evaluated |
//! | [`checksum`] | S3's additional checksums of bodies, and of objects made of parts |
//! | [`error`] | [`StoreError`], by what a client can do |
//! | [`meta`] | [`ObjectMeta`], the engine's record of an object, and its format |
//! | [`engine`] | [`Engine`]: the sets of a layout, admission |
//! | [`set`] | [`SetHandle`], the way to a set |
//! | [`draft`] | what callers of the set primitives exchange with them |
//! | [`knobs`] | what can be tuned |
//! | `read`, `scan` | linearizable reads of a key and of a range of keys |
//! | `write`, `update`, `resolve` | blind writes, conditional writes, adoption |
//! | `conversation` | drives the register's machines: rounds, ballots, grace, settling |
//! | `object`, `range` | PUT, GET, HEAD, DELETE; which bytes a request wants |
//! | `receive`, `stream`, `blocks`, `inline`, `restore` | bodies on their way in, out, and made whole |
//! | `staged` | a draft shaped and encoded for its drives |
//! | `admission` | bounds on what goes on at once |
//! | `actor`, `health`, `latency` | what a set owns: settle batches, the view of its drives, how long they take |
//! | [`admin`] | what operators see |
//! | `report` | drives are told of shards that could not be read |
//! | [`members`], `membership` | who is in a set, and how that changes |
//! | [`rebuild`], `compare` | a drive that took a slot over gets what it should hold |
//! | [`workers`], `heal` | the background: rolling forward, healing, purging |
//! | `quarantine` | versions that too few good shards are left of, on record |
//! | `round`, `task` | one message a node; where tasks are started |
//! | `registry`, `buckets`, [`bucket_record`] | stamps of buckets; their life; what the registry holds |
//! | `list`, [`list_merge`] | LIST over all sets; the pure merge behind it |
//! | `copy` | copies of objects, and into parts |
//! | `store` | [`ObjectStore`] for [`Engine`] |
//! | `uploads`, `complete`, `sweep` | multipart uploads, their completion, what they leave behind |
//! | [`upload_record`], [`complete_judge`] | the life of an upload; which parts make an object |
//! | `bucket_sweep` | what deleted buckets leave behind on drives that were away |

mod actor;
pub mod admin;
mod admission;
pub mod api;
mod blocks;
pub mod checksum;
mod compare;
mod conversation;
pub mod draft;
pub mod engine;
#[cfg(test)]
mod engine_tests;
pub mod error;
mod heal;
mod health;
mod inline;
pub mod knobs;
mod latency;
pub mod members;
mod membership;
pub mod meta;
mod object;
#[cfg(test)]
mod primitives_tests;
mod quarantine;
mod range;
mod read;
pub mod rebuild;
mod receive;
mod registry;
mod report;
mod resolve;
mod restock;
mod restore;
mod round;
mod scan;
mod scrub;
pub mod set;
mod staged;
mod stream;
mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod turns;
mod update;
pub mod workers;
mod write;

// Buckets, lists, uploads and copies, on top of the sets.
pub mod bucket_record;
mod bucket_sweep;
mod buckets;
mod bulk;
mod census;
mod complete;
pub mod complete_judge;
pub mod conditions;
mod copy;
mod cork;
mod list;
pub mod list_merge;
#[cfg(test)]
mod objects_tests;
mod store;
mod sweep;
pub mod upload_record;
mod uploads;

pub use admission::{Load, Permit};
pub use api::ObjectStore;
pub use draft::{Data, Decision, Draft, Received, ScanResult};
pub use engine::{Engine, EngineConfig};
pub use error::StoreError;
pub use knobs::Knobs;
pub use meta::ObjectMeta;
pub use set::SetHandle;
