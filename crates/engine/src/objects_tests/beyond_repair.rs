//! Objects made of parts that drives lost shards of: each part is counted, and restored, by itself.

use std::sync::Arc;

use holdfast_types::{
    DriveId, EntryKind, OperationId, RegisterKey, SetIndex, VersionId, view::QuarantineRow,
};

use super::{
    multipart::{completion, create, part},
    pattern, read_whole, with_bucket,
};
use crate::{Engine, api::ObjectStore, testing::MemoryNode};

const PART: usize = 5 << 20;

/// An object of three parts: its register, its operation, those of its parts.
async fn object_of_parts(engine: &Engine) -> (RegisterKey, OperationId, Vec<OperationId>) {
    let upload = create(engine, "big").await;
    let mut named = Vec::new();
    for (number, size) in [(1, PART), (2, PART), (3, 100_000)] {
        let bytes = pattern(number.into(), size);
        named.push(part(engine, &upload, number, bytes).await.unwrap());
    }
    engine.complete_upload(completion(&upload, named)).await.unwrap();
    let stamp = engine.bucket_scope("b").await.unwrap();
    let key = RegisterKey::object(stamp.id, &b"big"[..]);
    let read = engine.set_for(&key).read(stamp, &key, None).await.unwrap().unwrap();
    assert_eq!(read.entry.kind, EntryKind::Put);
    let parts = read.entry.parts.iter().map(|part| part.operation).collect();
    (key, read.entry.operation, parts)
}

fn lose(node: &MemoryNode, operation: OperationId) {
    let drive = node.drives()[0];
    assert!(node.with_drive(drive, |drive| drive.lose_shard(operation)));
}

fn has(node: &MemoryNode, operation: OperationId) -> bool {
    node.with_drive(node.drives()[0], |drive| drive.has_shard(operation))
}

fn row(key: &RegisterKey, operation: OperationId) -> QuarantineRow {
    let register = key.encode_register(VersionId::NULL);
    QuarantineRow {
        register: register.iter().map(|byte| format!("{byte:02x}")).collect(),
        operation: operation.to_string(),
        since: 7,
        ..QuarantineRow::default()
    }
}

/// Goal: an object of which one part is beyond repair keeps no rebuild from its end: it is on record with that part's shards,
/// and the parts that can be restored are brought; so is the part's own register, until it is swept. Method: 4 x 1, k = 2; part 2 is lost on two drives, a third is wiped.
#[tokio::test(start_paused = true)]
async fn a_part_beyond_repair_keeps_no_rebuild_from_its_end() {
    let (engine, nodes) = with_bucket().await;
    let (_, _, parts) = object_of_parts(&engine).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    lose(&nodes[0], parts[1]);
    lose(&nodes[2], parts[1]);
    let (old, fresh) = (nodes[1].drives()[0], DriveId(0xf5e5));
    nodes[1].wipe(old, fresh);
    engine.replace_drive(SetIndex(0), old, fresh).await.unwrap();
    engine.take_in(SetIndex(0), fresh).await.unwrap();
    let rebuilt = engine.rebuild_drive(SetIndex(0), fresh);
    let patience = std::time::Duration::from_secs(600);
    let proof = tokio::time::timeout(patience, rebuilt).await.expect("it concludes").unwrap();
    let short =
        |name: &str| proof.short.iter().any(|s| s.key == name && s.why.contains("too few shards"));
    assert_eq!((proof.phase.as_str(), proof.short_count), ("done", 2), "{proof:?}");
    assert!(short("big") && short("big, part 2 of an upload"), "{proof:?}");
    assert_eq!(
        parts.iter().map(|part| has(&nodes[1], *part)).collect::<Vec<_>>(),
        [true, false, true]
    );
    let rows = engine.quarantine_view().await.entries;
    let told: Vec<_> =
        rows.iter().map(|row| (row.key.as_str(), row.part, row.good, row.need)).collect();
    assert_eq!(told, [("big", None, 1, 2), ("big", Some(2), 1, 2)]);
    let told = engine.restore_quarantined(&rows[0].register).await.unwrap();
    assert!(told.starts_with("still short: 1 good shards of the 2"), "{told}");
}

/// Goal: drives that lack different parts restore them for each other, and "whole again" is said when every drive has every
/// part. Method: each part is lost on two of four drives, so that no drive has all; the object is put on record by hand.
#[tokio::test(start_paused = true)]
async fn parts_lost_here_and_there_are_restored() {
    let (engine, nodes): (Arc<Engine>, Vec<Arc<MemoryNode>>) = with_bucket().await;
    let (key, operation, parts) = object_of_parts(&engine).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for (at, node) in [(0, 0), (0, 1), (1, 2), (1, 3), (2, 0), (2, 3)] {
        lose(&nodes[node], parts[at]);
    }
    engine.load_quarantine(vec![row(&key, operation)]);
    let told = engine.restore_quarantined(&row(&key, operation).register).await.unwrap();
    assert!(told.starts_with("whole again"), "{told}");
    for node in &nodes {
        assert!(parts.iter().all(|part| has(node, *part)));
    }
    assert_eq!(read_whole(&engine, "big").await.len(), 2 * PART + 100_000);
    assert!(engine.quarantine_view().await.entries.is_empty());
}
