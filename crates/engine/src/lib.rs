//! Objects across drives: sets, writing, reading, listing, multipart, buckets, healing.
//!
//! Owns the conversation with drives; decides by pure functions of `holdfast-register` and its own.
//! Never touches a disk and knows nothing of HTTP or S3's XML.
//!
//! | module | holds |
//! |---|---|
//! | [`api`] | [`api::ObjectStore`], what the gateway calls, with its requests and answers |
//! | [`checksum`] | S3's additional checksums of bodies, and of objects made of parts |
//! | [`error`] | [`StoreError`], by what a client can do |
//! | [`meta`] | [`ObjectMeta`], the engine's record of an object, and its format |

pub mod api;
pub mod checksum;
pub mod error;
pub mod meta;

pub use api::ObjectStore;
pub use error::StoreError;
pub use meta::ObjectMeta;
