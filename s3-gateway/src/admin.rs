//! `GET /_admin/v1/...`: the cluster as adminctl shows it, as JSON. Requests are signed like S3's; the
//! bucket name that the path would have is none that S3 allows.
//!
//! | path | answer |
//! |---|---|
//! | `/_admin/v1/cluster` | [`ClusterView`] |
//! | `/_admin/v1/drives` | [`DriveView`]s |
//! | `/_admin/v1/object?bucket=&key=` | [`ObjectView`] |
//!
//! State names (`online`, `faulty`, ...) appear in the JSON only as values of `state`.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_engine::StoreError;
use http::{Extensions, HeaderMap, HeaderValue, Method, Uri, header};
use s3s::{Body, S3Request, S3Response, S3Result, route::S3Route};
use serde::{Deserialize, Serialize};

use crate::{
    edge,
    error::{self, invalid, not_implemented},
};

/// What would be the bucket of an administrative path.
pub(crate) const BUCKET: &str = "_admin";

/// What administrative paths begin with.
pub const PREFIX: &str = "/_admin/";

/// The cluster: what one node knows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster's id.
    pub cluster: String,
    /// Version of the layout document.
    pub layout_generation: u32,
    /// Nodes in layout order.
    pub nodes: Vec<NodeView>,
    /// Pools in layout order.
    pub pools: Vec<PoolView>,
    /// Erasure sets.
    pub sets: Vec<SetView>,
    /// Every drive of every node.
    pub drives: Vec<DriveView>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its index in the layout.
    pub node: u16,
    /// Its URL.
    pub url: String,
    /// Whether it answers: `online` or `offline`.
    pub state: String,
}

/// A pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// Its index in the layout.
    pub pool: u16,
    /// How many sets it has.
    pub sets: u32,
    /// How many drives it has.
    pub drives: u32,
    /// Bytes of its drives.
    pub capacity_bytes: u64,
    /// Bytes used on its drives.
    pub used_bytes: u64,
}

/// An erasure set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetView {
    /// Its index.
    pub set: u32,
    /// Its pool.
    pub pool: u16,
    /// How many drives it has.
    pub drives: u8,
    /// How many of them answer.
    pub drives_answering: u8,
    /// How many more drives may fail before reads of the set fail.
    pub read_failures_left: u8,
    /// How many more drives may fail before writes to the set fail.
    pub write_failures_left: u8,
}

/// A drive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveView {
    /// The URL of its node.
    pub node: String,
    /// Its id.
    pub drive: String,
    /// Its path on the node.
    pub path: String,
    /// What it is: `online`, `rebuilding`, `faulty`, `offline`.
    pub state: String,
    /// Its set.
    pub set: u32,
    /// Its bytes.
    pub capacity_bytes: u64,
    /// Its used bytes.
    pub used_bytes: u64,
    /// Why it is not online; empty when it is.
    pub detail: String,
}

/// Where an object lies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectView {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The set.
    pub set: u32,
    /// Bytes of the object.
    pub size: u64,
    /// Data shards.
    pub data_shards: u8,
    /// Parity shards.
    pub parity_shards: u8,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Every shard, by index.
    pub shards: Vec<ShardView>,
}

/// One shard of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// Its index: data shards first.
    pub shard: u8,
    /// The URL of the node that has it.
    pub node: String,
    /// The drive.
    pub drive: String,
    /// The drive's path.
    pub path: String,
    /// Where on the drive: `inline`, or volume and extent.
    pub place: String,
    /// What it is: `present`, `missing`, `unknown` when the drive does not answer.
    pub state: String,
}

/// Who knows the cluster. The daemon wires the engine to it.
#[async_trait]
pub trait AdminView: Send + Sync + 'static {
    /// Everything. Answers however ill the cluster is.
    async fn cluster(&self) -> ClusterView;

    /// Where the latest version of an object lies.
    async fn locate(&self, bucket: &str, key: &[u8]) -> Result<ObjectView, StoreError>;
}

/// The way in from s3s, which has checked the signature.
pub(crate) struct Route {
    pub(crate) view: Option<Arc<dyn AdminView>>,
}

#[async_trait]
impl S3Route for Route {
    fn is_match(&self, _: &Method, uri: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        uri.path().starts_with(PREFIX)
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let Some(view) = &self.view else { return Err(not_implemented("administration here")) };
        if request.method != Method::GET {
            return Err(not_implemented("changing the cluster over HTTP"));
        }
        let json = match request.uri.path() {
            "/_admin/v1/cluster" => serde_json::to_vec(&view.cluster().await),
            "/_admin/v1/drives" => serde_json::to_vec(&view.cluster().await.drives),
            "/_admin/v1/object" => {
                let (bucket, key) = bucket_and_key(&request.uri)?;
                let found = view.locate(&bucket, key.as_bytes()).await;
                serde_json::to_vec(&found.map_err(error::s3_error)?)
            }
            _ => return Err(not_implemented("this administrative path")),
        };
        let json = json.map_err(s3s::S3Error::internal_error)?;
        let mut answer = S3Response::new(Body::from(json));
        answer.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(answer)
    }
}

fn bucket_and_key(uri: &Uri) -> S3Result<(String, String)> {
    let query = edge::pairs(uri.query().unwrap_or_default());
    let named = |name: &str| {
        let found = query.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_string());
        found
            .ok_or_else(|| invalid("InvalidArgument", format!("query parameter {name} is missing")))
    };
    Ok((named("bucket")?, named("key")?))
}
