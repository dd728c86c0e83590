//! The operations, one module a family. Each takes s3s's request apart, asks the store, and puts s3s's
//! answer together.

pub(crate) mod bucket;
pub(crate) mod copy;
pub(crate) mod delete;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod multipart;
pub(crate) mod parts;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod unconfigured;
