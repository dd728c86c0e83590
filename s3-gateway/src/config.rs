//! What the daemon gives the gateway: names, credentials, seams and bounds.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_types::seam::{Clock, Random};

use crate::admin::AdminView;

/// Requests in flight at once when the daemon does not say otherwise: enough to keep a node's drives
/// busy, few enough that every one of them gets its share of memory.
pub const REQUESTS_MAX_DEFAULT: usize = 1024;

/// Who may sign requests. Root credentials today; identity and access management takes this place.
#[async_trait]
pub trait Credentials: Send + Sync + 'static {
    /// The secret that belongs to `access_key`; `None` when nobody has that key.
    async fn secret_key(&self, access_key: &str) -> Option<String>;
}

/// The one pair of keys of a cluster without users.
#[derive(Clone)]
pub struct RootCredentials {
    access_key: String,
    secret_key: String,
}

impl RootCredentials {
    /// The pair.
    #[must_use]
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self { access_key: access_key.into(), secret_key: secret_key.into() }
    }
}

#[async_trait]
impl Credentials for RootCredentials {
    async fn secret_key(&self, access_key: &str) -> Option<String> {
        (access_key == self.access_key).then(|| self.secret_key.clone())
    }
}

/// How listings name the owner of buckets and objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerName {
    /// Canonical id.
    pub id: String,
    /// Name for people.
    pub display_name: String,
}

impl Default for OwnerName {
    fn default() -> Self {
        Self { id: "root".to_owned(), display_name: "root".to_owned() }
    }
}

/// Everything a gateway needs beside the store.
#[derive(Clone)]
pub struct GatewayConfig {
    /// The region that HeadBucket names. Signatures of any region are accepted: the region is part of
    /// what is signed, and a store on one's own machines has only one.
    pub region: String,
    /// Who may sign.
    pub credentials: Arc<dyn Credentials>,
    /// Who owns everything.
    pub owner: OwnerName,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Draws request ids.
    pub random: Arc<dyn Random>,
    /// Requests in flight at once; beyond it `503 SlowDown`.
    pub requests_max: usize,
    /// Whether clients reach it over TLS: for the URLs that answers name.
    pub tls: bool,
    /// Answers `/_admin/v1/...`; without it those paths answer NotImplemented.
    pub admin: Option<Arc<dyn AdminView>>,
}

impl GatewayConfig {
    /// A gateway for root alone, with defaults for everything else.
    #[must_use]
    pub fn new(root: RootCredentials, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self {
            region: "us-east-1".to_owned(),
            credentials: Arc::new(root),
            owner: OwnerName::default(),
            clock,
            random,
            requests_max: REQUESTS_MAX_DEFAULT,
            tls: false,
            admin: None,
        }
    }
}
