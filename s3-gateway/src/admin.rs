//! `GET /_admin/v1/...`: the cluster as adminctl shows it, as JSON. Requests are signed like S3's; the
//! bucket name that the path would have is none that S3 allows.
//!
//! | path | answer |
//! |---|---|
//! | `/_admin/v1/cluster` | [`ClusterView`] |
//! | `/_admin/v1/drives` | its `drives` alone |
//! | `/_admin/v1/object?bucket=&key=` | [`ObjectView`] |
//!
//! The views are [`holdfast_types::view`], so that adminctl reads what the daemon writes.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_engine::{Engine, StoreError};
use holdfast_types::view::{ClusterView, ObjectView};
use http::{Extensions, HeaderMap, HeaderValue, Method, Uri, header};
use s3s::{Body, S3Request, S3Response, S3Result, route::S3Route};

use crate::{
    edge,
    error::{self, invalid, not_implemented},
};

/// What would be the bucket of an administrative path.
pub(crate) const BUCKET: &str = "_admin";

/// What administrative paths begin with.
pub const PREFIX: &str = "/_admin/";

/// Who knows the cluster: the engine, or a double in tests.
#[async_trait]
pub trait AdminView: Send + Sync + 'static {
    /// Everything. Answers however ill the cluster is.
    async fn cluster(&self) -> ClusterView;

    /// Where the latest version of an object lies.
    async fn locate(&self, bucket: &str, key: &[u8]) -> Result<ObjectView, StoreError>;
}

#[async_trait]
impl AdminView for Engine {
    async fn cluster(&self) -> ClusterView {
        self.cluster_view().await
    }

    async fn locate(&self, bucket: &str, key: &[u8]) -> Result<ObjectView, StoreError> {
        Self::locate(self, bucket, key).await
    }
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
