//! Parts of an upload that is being completed, or was (ADR 0005).

use bytes::Bytes;
use holdfast_register::{Judgement, Verdict};
use holdfast_types::{NodeIndex, OperationId, VersionId};

use super::{
    down,
    multipart::{at, completion, create, part},
    pattern, quiet, read_whole,
};
use crate::{
    Draft, Engine, StoreError,
    api::{CompleteUpload, UploadInfo},
    complete_judge::request_digest,
    scan::OpenOnes,
    testing::{Cluster, MemoryNode},
    uploads::UploadAt,
};

/// An upload of one part that a completion has frozen on drives 1 to 3 of five, while drives 0 and 4
/// were away and took an empty part of the same number afterwards, with the word of nobody else.
struct Frozen {
    cluster: Cluster,
    engine: std::sync::Arc<Engine>,
    upload: UploadInfo,
    at: UploadAt,
    complete: CompleteUpload,
    operation: OperationId,
    bytes: Bytes,
}

const LATE: OperationId = OperationId(77);

impl Frozen {
    async fn new() -> Self {
        let cluster = Cluster::new(5, 1);
        let engine = cluster.engine(Some(NodeIndex(0)), 1, quiet());
        engine.bucket_create("b", "").await.expect("a fresh cluster takes a bucket");
        let upload = create(&engine, "k").await;
        let bytes = pattern(1, 5 << 20);
        let named = vec![part(&engine, &upload, 1, bytes.clone()).await.unwrap()];
        let at = at(&engine, &upload).await;
        let complete = completion(&upload, named);
        let operation = engine.draw_operation();
        let away = |nodes: &[std::sync::Arc<MemoryNode>], away| {
            [0, 4].iter().for_each(|node: &usize| down(&nodes[*node], away));
        };
        away(&cluster.nodes, true);
        let request = request_digest(&complete.parts);
        engine.freeze_for_tests(&at, operation, &request, None).await;
        away(&cluster.nodes, false);
        let frozen = Self { cluster, engine, upload, at, complete, operation, bytes };
        frozen.heard().await;
        frozen.send_empty_part().await;
        frozen
    }

    /// The engine has heard from all drives, so that it believes none to be down.
    async fn heard(&self) {
        for _ in 0..3 {
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            let _ = self.value().await;
        }
    }

    /// An empty part needs no shards: anybody could adopt it.
    async fn send_empty_part(&self) {
        let set = self.engine.set_for(&self.at.register());
        let empty = Draft::record(LATE, Bytes::from_static(b"another part 1"));
        let told = set.write(self.at.stamp, self.at.part(1), VersionId::NULL, empty).await;
        assert!(told.is_err(), "three of five drives have frozen the upload: {told:?}");
        assert_eq!(self.holders(LATE), [0, 4]);
    }

    /// The nodes whose drives hold an operation of the part.
    fn holders(&self, operation: OperationId) -> Vec<usize> {
        let holds = |node: &MemoryNode| {
            let state = node.with_drive(node.drives()[0], |drive| drive.state(&self.at.part(1)));
            state.registers.values().any(|register| register.of_operation(operation).is_some())
        };
        (0..5).filter(|node| holds(&self.cluster.nodes[*node])).collect()
    }

    /// What the part's register holds by the word of all drives.
    async fn value(&self) -> Judgement {
        let set = self.engine.set_for(&self.at.register());
        set.judged_by_all(self.at.stamp, &self.at.part(1)).await.unwrap()
    }

    fn down(&self, nodes: &[usize], away: bool) {
        nodes.iter().for_each(|node| down(&self.cluster.nodes[*node], away));
    }
}

/// Goal: a part that a completion has judged is changed by nobody, and the object made of it keeps its
/// bytes (INV-UPLOAD-1, ADR 0005).
///
/// The story, as the model told it: a part was sent again while its upload was being completed, and two
/// drives that had missed the freeze took it. A reader that heard them and one other found it open, and
/// adopted it; its Settle dropped the part that the completion had judged. The object was acknowledged
/// with two shards of three.
///
/// Method: readers and workers hear the two drives while two others are away; then
/// the completion goes on, and the object is read.
#[tokio::test(start_paused = true)]
async fn a_frozen_part_is_changed_by_nobody() {
    let frozen = Frozen::new().await;
    let Frozen { engine, at, .. } = &frozen;
    frozen.down(&[2, 3], true);
    let set = engine.set_for(&at.register());
    let read = set.read(at.stamp, &at.part(1), Some(VersionId::NULL)).await;
    assert!(read.is_err(), "it is open, and nobody's to resolve: {read:?}");
    tokio::time::sleep(std::time::Duration::from_secs(16)).await;
    engine.work_off(NodeIndex(0)).await;
    assert_eq!(frozen.holders(LATE), [0, 4], "nobody has spread it");
    frozen.down(&[2, 3], false);
    frozen.heard().await;

    let request = request_digest(&frozen.complete.parts);
    let told = engine.complete_under(at.clone(), &frozen.complete, frozen.operation, request).await;
    told.expect("the completion goes on where it was");
    assert!(read_whole(engine, "k").await == frozen.bytes);
    frozen.down(&[0, 4], true);
    assert!(read_whole(engine, "k").await == frozen.bytes, "three drives have its shards");
}

/// Goal: a part that the object names is kept by its number, whatever heads its register, until every
/// drive holds the object and it (INV-UPLOAD-4, ADR 0005).
///
/// The story: a sweep kept a part's register by the operation that it saw there. The remains of another
/// operation headed it, named by no object; so it was freed, and the tombstone took the named part along
/// on drives that had not heard of the object yet.
///
/// Method: the two drives with the remains have not got the object; one of them is heard first by the
/// sweep. Then the workers bring it to them, and the register goes.
#[tokio::test(start_paused = true)]
async fn a_named_part_is_kept_by_its_number() {
    let frozen = Frozen::new().await;
    let Frozen { engine, at, .. } = &frozen;
    let request = request_digest(&frozen.complete.parts);
    let told = engine.complete_under(at.clone(), &frozen.complete, frozen.operation, request).await;
    told.expect("the three drives that have frozen it take the object");
    let set = engine.set_for(&at.register());
    assert_eq!(set.sweep_upload(at).await, Ok(false), "two drives lack the object");
    let value = frozen.value().await;
    assert!(
        matches!(&value, Judgement::Found(found)
        if found.verdict == Verdict::Settled && found.entry.operation != LATE),
        "{value:?}"
    );

    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    for _ in 0..4 {
        for node in 0..5 {
            engine.work_off(NodeIndex(node)).await;
        }
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    }
    assert_eq!(set.sweep_upload(at).await, Ok(true), "all have it, and the part");
    assert!(set.numbers_held(at).await.unwrap().is_empty());
    assert!(read_whole(engine, "k").await == frozen.bytes, "its bytes are the object's now");
    let late = part(engine, &frozen.upload, 1, Bytes::new()).await;
    assert_eq!(late, Err(StoreError::NoSuchUpload));
}

/// Goal: a completion hears only drives that have frozen its upload (ADR 0005).
///
/// The story, as the model told it: two of four drives took a part before the freeze, the fourth missed
/// the freeze. The completion heard the other two, judged the part absent, and wrote the object; then the
/// fourth took the part as well: chosen, acknowledged, and not in the object. Of a part sent again it
/// would have been worse: its Settle drops the one that was judged.
///
/// Method: the engine is nearest to a drive that missed the freeze, and asks it nothing.
#[tokio::test(start_paused = true)]
async fn a_completion_hears_only_drives_it_has_frozen() {
    let test = Frozen::new().await;
    let set = test.engine.set_for(&test.at.register());
    let frozen = set.frozen(&test.at, test.operation).await.unwrap();
    assert_eq!(frozen.slots.count(), 3);
    let calls = || [0, 4].map(|node: usize| test.cluster.nodes[node].calls());
    let before = calls();
    let open = OpenOnes::Frozen(frozen);
    let found = set.found_parts(&test.at, 0, 10, &open).await.unwrap();
    assert_eq!((found.len(), calls()), (1, before));
    assert_ne!(found[0].candidate.entry.operation, LATE);
    assert_eq!(set.numbers_held(&test.at).await, Ok(vec![1]));
    assert!(calls()[0] > before[0], "who hears everybody begins with the nearest");
    let other = set.frozen(&test.at, LATE).await;
    assert!(other.is_err(), "another completion has frozen nothing");
}
