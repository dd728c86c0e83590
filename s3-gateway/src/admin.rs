//! `/_admin/v1/...`: the cluster as adminctl shows it, as JSON. Requests are signed like S3's; the
//! bucket name that the path would have is none that S3 allows.
//!
//! | path | answer |
//! |---|---|
//! | `/_admin/v1/cluster` | [`ClusterView`] |
//! | `/_admin/v1/drives` | its `drives` alone |
//! | `/_admin/v1/object?bucket=&key=` | [`ObjectView`] |
//! | `/_admin/v1/heal` | [`HealView`] of the node asked |
//! | `/_admin/v1/scrub` | [`ScrubView`] of the drives of all nodes |
//! | `/_admin/v1/quarantine` | [`QuarantineView`] of the node asked |
//!
//! `POST` changes something at the node asked, and answers one line of text:
//!
//! | path | |
//! |---|---|
//! | `/_admin/v1/heal/start`, `/heal/pause`, `/heal/resume` | heal now; hold rebuilding, let it go on |
//! | `/_admin/v1/heal/rate?bytes=` | bounds rebuilding, bytes a second; 0: no bound |
//! | `/_admin/v1/scrub/start`, `/scrub/pause`, `/scrub/resume` | the drives of all nodes read every live byte again |
//! | `/_admin/v1/scrub/rate?bytes=` | how fast each drive reads, bytes a second |
//! | `/_admin/v1/drive/offline?drive=`, `/online`, `/replace` | a drive of the node asked |
//! | `/_admin/v1/quarantine/restore?register=` | tries at once to restore what the node asked has on record |
//! | `/_admin/v1/set/recover?dead=ID,ID&set=` | gives up drives that are gone for good |
//!
//! The views are [`holdfast_types::view`], so that adminctl reads what the daemon writes.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_engine::{Engine, StoreError};
use holdfast_types::{
    DriveId, ScrubOrder, SetIndex,
    view::{ClusterView, HealView, ObjectView, QuarantineView, ScrubView},
};
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

/// A change that an operator asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminAction {
    /// Heal what can be healed, now.
    HealStart,
    /// Hold rebuilding, or let it go on.
    HealPause(bool),
    /// Bound rebuilding: bytes a second, 0 for no bound.
    HealRate(u64),
    /// Tell the scrub of every drive of the cluster.
    Scrub(ScrubOrder),
    /// Take a drive of this node out of service until it is put back, or the node restarts.
    DriveOffline(DriveId),
    /// Put it back.
    DriveOnline(DriveId),
    /// Set a drive's files aside and make a new drive of its folder.
    DriveReplace(DriveId),
    /// Try at once to restore a version that this node has on record, named as its row names it.
    QuarantineRestore(String),
    /// Give up drives that are gone for good, more than the set can do without.
    SetRecover {
        /// The set.
        set: SetIndex,
        /// The drives.
        dead: Vec<DriveId>,
    },
}

/// Who knows the cluster: the engine, or a double in tests.
#[async_trait]
pub trait AdminView: Send + Sync + 'static {
    /// Everything. Answers however ill the cluster is.
    async fn cluster(&self) -> ClusterView;

    /// Where the latest version of an object lies.
    async fn locate(&self, bucket: &str, key: &[u8]) -> Result<ObjectView, StoreError>;

    /// What this node does to bring its drives back to full width.
    async fn heal(&self) -> HealView {
        HealView::default()
    }

    /// How the scrub of every drive of the cluster stands.
    async fn scrub(&self) -> ScrubView {
        ScrubView::default()
    }

    /// Versions that this node knows to be short of good shards everywhere.
    async fn quarantine(&self) -> QuarantineView {
        QuarantineView::default()
    }

    /// Changes something; one line on what was done.
    async fn act(&self, action: AdminAction) -> Result<String, StoreError> {
        let _ = action;
        Err(StoreError::Unsupported { what: "administration here" })
    }
}

#[async_trait]
impl AdminView for Engine {
    async fn cluster(&self) -> ClusterView {
        self.cluster_view().await
    }

    async fn locate(&self, bucket: &str, key: &[u8]) -> Result<ObjectView, StoreError> {
        Self::locate(self, bucket, key).await
    }

    async fn heal(&self) -> HealView {
        self.heal_view()
    }

    async fn scrub(&self) -> ScrubView {
        Self::scrub(self, ScrubOrder::Status).await
    }

    async fn quarantine(&self) -> QuarantineView {
        self.quarantine_view().await
    }

    async fn act(&self, action: AdminAction) -> Result<String, StoreError> {
        Ok(match action {
            AdminAction::Scrub(ScrubOrder::Rate(0)) => {
                let message =
                    "a rate is one byte a second at least; `pause` holds the scrub".to_owned();
                return Err(StoreError::InvalidArgument { message });
            }
            AdminAction::Scrub(order) => told(&Self::scrub(self, order).await)?,
            AdminAction::HealStart => {
                self.heal_now().await;
                "healed what could be healed".to_owned()
            }
            AdminAction::HealPause(paused) => {
                self.pause_rebuilds(paused);
                if paused { "rebuilding is held" } else { "rebuilding goes on" }.to_owned()
            }
            AdminAction::HealRate(bytes) => {
                self.limit_rebuilds(bytes);
                format!("rebuilding may bring {bytes} bytes a second (0: no bound)")
            }
            AdminAction::QuarantineRestore(register) => self.restore_quarantined(&register).await?,
            AdminAction::SetRecover { set, dead } => {
                let epoch = self.recover_set(set, &dead).await?.epoch.0;
                format!(
                    "set {set} goes on under epoch {epoch}; put blank drives in the places of the {} \
                     given up, or empty their folders",
                    dead.len()
                )
            }
            AdminAction::DriveOffline(_)
            | AdminAction::DriveOnline(_)
            | AdminAction::DriveReplace(_) => {
                return Err(StoreError::Unsupported { what: "drives at a node without any" });
            }
        })
    }
}

/// Who took an order, and who did not; an error when nobody did.
fn told(view: &ScrubView) -> Result<String, StoreError> {
    let silent: Vec<_> = view.drives.iter().filter(|row| !row.error.is_empty()).collect();
    let mut lines =
        vec![format!("told {} of {} drives", view.drives.len() - silent.len(), view.drives.len())];
    lines.extend(silent.iter().map(|row| format!("{}{}: {}", row.node, row.path, row.error)));
    let message = lines.join("\n");
    if silent.len() == view.drives.len() {
        return Err(StoreError::Overloaded { message });
    }
    Ok(message)
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
        if request.method == Method::POST {
            let done = view.act(action(&request.uri)?).await.map_err(error::s3_error)?;
            return Ok(S3Response::new(Body::from(done)));
        }
        if request.method != Method::GET {
            return Err(not_implemented("this method on an administrative path"));
        }
        let json = match request.uri.path() {
            "/_admin/v1/cluster" => serde_json::to_vec(&view.cluster().await),
            "/_admin/v1/scrub" => serde_json::to_vec(&view.scrub().await),
            "/_admin/v1/quarantine" => serde_json::to_vec(&view.quarantine().await),
            "/_admin/v1/heal" => serde_json::to_vec(&view.heal().await),
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

/// What a POST asks for.
fn action(uri: &Uri) -> S3Result<AdminAction> {
    let drive = || named(uri, "drive").and_then(|id| drive_id(&id));
    let number = |name: &str| {
        let text = named(uri, name)?;
        let wrong = |_| invalid("InvalidArgument", format!("{name} is not a number: {text}"));
        text.parse::<u64>().map_err(wrong)
    };
    Ok(match uri.path() {
        "/_admin/v1/heal/start" => AdminAction::HealStart,
        "/_admin/v1/heal/pause" => AdminAction::HealPause(true),
        "/_admin/v1/heal/resume" => AdminAction::HealPause(false),
        "/_admin/v1/heal/rate" => AdminAction::HealRate(number("bytes")?),
        "/_admin/v1/scrub/start" => AdminAction::Scrub(ScrubOrder::Start),
        "/_admin/v1/scrub/pause" => AdminAction::Scrub(ScrubOrder::Pause),
        "/_admin/v1/scrub/resume" => AdminAction::Scrub(ScrubOrder::Resume),
        "/_admin/v1/scrub/rate" => AdminAction::Scrub(ScrubOrder::Rate(number("bytes")?)),
        "/_admin/v1/quarantine/restore" => AdminAction::QuarantineRestore(named(uri, "register")?),
        "/_admin/v1/drive/offline" => AdminAction::DriveOffline(drive()?),
        "/_admin/v1/drive/online" => AdminAction::DriveOnline(drive()?),
        "/_admin/v1/drive/replace" => AdminAction::DriveReplace(drive()?),
        "/_admin/v1/set/recover" => {
            let set = u16::try_from(number("set")?);
            let set =
                set.map_err(|_| invalid("InvalidArgument", "there is no such set".to_owned()))?;
            let dead = named(uri, "dead")?.split(',').map(drive_id).collect::<S3Result<_>>()?;
            AdminAction::SetRecover { set: SetIndex(set), dead }
        }
        _ => return Err(not_implemented("this administrative path")),
    })
}

fn drive_id(text: &str) -> S3Result<DriveId> {
    let wrong = |_| invalid("InvalidArgument", format!("{text} is no drive's id"));
    text.parse().map_err(wrong)
}

fn named(uri: &Uri, name: &str) -> S3Result<String> {
    let query = edge::pairs(uri.query().unwrap_or_default());
    let found = query.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_string());
    found.ok_or_else(|| invalid("InvalidArgument", format!("query parameter {name} is missing")))
}

fn bucket_and_key(uri: &Uri) -> S3Result<(String, String)> {
    Ok((named(uri, "bucket")?, named(uri, "key")?))
}
