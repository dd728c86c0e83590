//! S3 over HTTP in front of [`holdfast_engine::ObjectStore`].
//!
//! Owns signatures, S3's names, headers and XML, the verification of bodies against what clients
//! announce, and admission. Keeps no state: any number of gateways may serve the same store. Never
//! decides anything about drives, and nothing else in the tree imports s3s.
//!
//! A request passes `service` (request id, admission), `edge` (what s3s would let through), s3s
//! (signature, routing, XML), `accepted` (what the operation does not take), `ops` (s3s's values to the
//! store's and back), the store, and `response` (request ids, bodies of errors).
//!
//! | module | holds |
//! |---|---|
//! | [`admin`] | `/_admin/v1/...`: the cluster as adminctl shows it |
//! | [`config`] | [`GatewayConfig`], credentials, bounds |
//! | `service` | [`GatewayService`], the hyper and tower service |
//! | `edge` | refusals before s3s: unsigned headers, session tokens, values that are not implemented |
//! | `accepted` | what each operation takes; refusals of all else, once s3s has routed a request |
//! | `reframe` | bounds what s3s buffers of an aws-chunked body |
//! | `auth` | what s3s asks: secrets, permission, bucket names |
//! | `s3`, `ops` | the operations, one module a family |
//! | `digests`, `hash`, `hash_pool`, `body` | what a client announced of a body, and whether it came |
//! | `told`, `conditions` | headers that s3s reads otherwise than S3; conditions |
//! | `patience` | bodies whose clients fall silent |
//! | `plain`, `elements` | verification of XML bodies, which s3s reads by itself |
//! | `attributes`, `convert` | headers, metadata and other values |
//! | `error`, `response` | S3 codes and messages; request ids |
//! | `refusals` | what was answered 503, in the log |
//! | `testing` | an in-memory store, behind the feature `testing` |

mod accepted;
pub mod admin;
mod attributes;
mod auth;
mod body;
mod conditions;
pub mod config;
mod convert;
mod digests;
mod edge;
mod elements;
mod error;
mod hash;
mod hash_pool;
mod lingering;
mod ops;
mod patience;
mod plain;
mod reframe;
mod refusals;
mod response;
mod s3;
mod service;
#[cfg(feature = "testing")]
pub mod testing;
mod told;

pub use config::{Credentials, GatewayConfig, OwnerName, RootCredentials};
pub use response::GatewayBody;
pub use service::{GatewayService, service};
