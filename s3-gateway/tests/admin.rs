//! Goal: `/_admin/v1/...` answers JSON to who signs like an S3 client, and to nobody else. Method: a view
//! with known facts behind the whole service.

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_engine::StoreError;
use holdfast_s3_gateway::admin::{AdminAction, AdminView};
use holdfast_types::{
    DriveState,
    view::{ClusterView, DriveView, ObjectView},
};
use support::{Call, Harness, get};

struct OneDrive;

#[async_trait]
impl AdminView for OneDrive {
    async fn cluster(&self) -> ClusterView {
        let drive = DriveView {
            node: "http://n1:9000".to_owned(),
            drive: "d1".to_owned(),
            path: "/mnt/a".to_owned(),
            state: DriveState::Reindexing,
            set: 0,
            capacity_bytes: 10,
            used_bytes: 1,
            detail: String::new(),
        };
        ClusterView { cluster: "c1".to_owned(), drives: vec![drive], ..ClusterView::default() }
    }

    async fn locate(&self, bucket: &str, key: &[u8]) -> Result<ObjectView, StoreError> {
        if bucket == "none" {
            return Err(StoreError::NoSuchBucket { bucket: bucket.to_owned() });
        }
        let key = String::from_utf8_lossy(key).into_owned();
        Ok(ObjectView { bucket: bucket.to_owned(), key, ..ObjectView::default() })
    }

    async fn act(&self, action: AdminAction) -> Result<String, StoreError> {
        Ok(format!("{action:?}"))
    }
}

fn harness() -> Harness {
    Harness::with(|config| config.admin = Some(Arc::new(OneDrive)))
}

#[tokio::test]
async fn views_are_json() {
    let harness = harness();
    let cluster = get(&harness, "/_admin/v1/cluster").await;
    assert_eq!(cluster.ok().header("content-type"), "application/json");
    let view: ClusterView = serde_json::from_slice(&cluster.body).unwrap();
    assert_eq!(view.drives[0].state, DriveState::Reindexing);
    assert_eq!(cluster.text().matches("reindexing").count(), 1, "states are values of state alone");
    let drives = get(&harness, "/_admin/v1/drives").await;
    let drives: Vec<DriveView> = serde_json::from_slice(&drives.ok().body).unwrap();
    assert_eq!(drives[0].path, "/mnt/a");
}

#[tokio::test]
async fn objects_are_located_by_any_key() {
    let harness = harness();
    let mut call = Call::new("GET", "/_admin/v1/object?bucket=bkt");
    call.query.push(("key".to_owned(), "a//../b c&d=\u{e9}+".to_owned()));
    let found = call.send(&harness).await;
    let view: ObjectView = serde_json::from_slice(&found.ok().body).unwrap();
    assert_eq!(view.key, "a//../b c&d=\u{e9}+");
    get(&harness, "/_admin/v1/object?bucket=none&key=k").await.refused(404, "NoSuchBucket");
    get(&harness, "/_admin/v1/object?bucket=bkt").await.refused(400, "InvalidArgument");
}

/// Goal: what an operator asks for arrives as it was meant, or is refused. Method: every action; malformed
/// ones.
#[tokio::test]
async fn actions_arrive() {
    let harness = harness();
    let post = |path: &'static str, query: &'static [(&'static str, &'static str)]| {
        let mut call = Call::new("POST", path);
        call.query.extend(query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        call.send(&harness)
    };
    let id = "000000000000000000000000000000ff";
    for (path, query, expected) in [
        ("/_admin/v1/heal/start", &[][..], "HealStart"),
        ("/_admin/v1/heal/pause", &[], "HealPause(true)"),
        ("/_admin/v1/heal/resume", &[], "HealPause(false)"),
        ("/_admin/v1/heal/rate", &[("bytes", "5000")], "HealRate(5000)"),
        ("/_admin/v1/scrub/start", &[], "Scrub(Start)"),
        ("/_admin/v1/scrub/pause", &[], "Scrub(Pause)"),
        ("/_admin/v1/scrub/resume", &[], "Scrub(Resume)"),
        ("/_admin/v1/scrub/rate", &[("bytes", "5000")], "Scrub(Rate(5000))"),
        (
            "/_admin/v1/drive/replace",
            &[("drive", "000000000000000000000000000000ff")],
            "DriveReplace(",
        ),
        (
            "/_admin/v1/set/recover",
            &[
                ("dead", "0000000000000000000000000000000a,0000000000000000000000000000000b"),
                ("set", "3"),
            ],
            "SetRecover { set: SetIndex(3)",
        ),
    ] {
        let answer = post(path, query).await;
        assert!(answer.ok().text().starts_with(expected), "{path}: {}", answer.text());
    }
    assert!(
        post("/_admin/v1/drive/offline", &[("drive", "000000000000000000000000000000ff")])
            .await
            .text()
            .contains(id)
    );
    post("/_admin/v1/heal/rate", &[("bytes", "fast")]).await.refused(400, "InvalidArgument");
    post("/_admin/v1/drive/offline", &[("drive", "d1")]).await.refused(400, "InvalidArgument");
    post("/_admin/v1/set/recover", &[("set", "3")]).await.refused(400, "InvalidArgument");
    post("/_admin/v1/cluster", &[]).await.refused(501, "NotImplemented");
    let scrub = get(&harness, "/_admin/v1/scrub").await;
    assert!(scrub.ok().text().contains("drives"));
    let healing = get(&harness, "/_admin/v1/heal").await;
    assert!(healing.ok().text().contains("rebuilds"));
}

#[tokio::test]
async fn strangers_and_writers_are_refused() {
    let harness = harness();
    let mut forged = Call::new("GET", "/_admin/v1/cluster");
    forged.secret_key = "guessed-wrong".to_owned();
    forged.send(&harness).await.refused(403, "SignatureDoesNotMatch");
    let anonymous = http::Request::get("/_admin/v1/cluster").header("host", "gateway.test");
    let anonymous = harness.exchange(anonymous.body(Default::default()).unwrap()).await;
    anonymous.refused(403, "AccessDenied");
    for (method, path) in [("PUT", "/_admin/v1/cluster"), ("GET", "/_admin/v2/cluster")] {
        Call::new(method, path).send(&harness).await.refused(501, "NotImplemented");
    }
    Call::new("PUT", "/_admin").send(&harness).await.refused(400, "InvalidBucketName");
}
