//! Multipart uploads on drives.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use holdfast_types::{Keyspace, OperationId, view::ShardState};

use super::{body, down, pattern, read_whole, two_engines, with_bucket};
use crate::{
    Engine, StoreError,
    api::{
        AnnouncedObject, CompleteUpload, CompletedPart, Conditions, CreateUpload, EtagCondition,
        GetObject, ListUploads, NamedChecksum, ObjectStore, PutPart, UploadInfo, Wanted,
    },
    checksum::Algorithm,
    scan::OpenOnes,
    upload_record::{SETTLE_AFTER_MICROS, UploadPhase},
    uploads::UploadAt,
};

const PART: usize = 5 << 20;

pub(super) async fn create(engine: &Engine, key: &str) -> UploadInfo {
    let create = CreateUpload {
        bucket: "b".to_owned(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..CreateUpload::default()
    };
    engine.create_upload(create).await.expect("the bucket is live")
}

pub(super) async fn part(
    engine: &Engine,
    upload: &UploadInfo,
    number: u16,
    bytes: Bytes,
) -> Result<CompletedPart, StoreError> {
    let put = PutPart {
        bucket: "b".to_owned(),
        key: upload.key.clone(),
        upload: upload.upload,
        number,
        length: Some(bytes.len() as u64),
        checksum: None,
    };
    let info = engine.put_part(put, body(bytes)).await?;
    Ok(CompletedPart { number, etag: info.part.etag, checksum: None })
}

pub(super) fn completion(upload: &UploadInfo, parts: Vec<CompletedPart>) -> CompleteUpload {
    CompleteUpload {
        bucket: "b".to_owned(),
        key: upload.key.clone(),
        upload: upload.upload,
        parts,
        ..CompleteUpload::default()
    }
}

pub(super) async fn at(engine: &Engine, upload: &UploadInfo) -> UploadAt {
    let stamp = engine.bucket_scope("b").await.unwrap();
    UploadAt::new(stamp, &upload.key, upload.upload)
}

/// Goal: an object made of parts is their bytes behind each other, whole, in ranges and by part, and
/// the same completion answers the same again. Method: parts of three sizes, a node down while
/// reading.
#[tokio::test(start_paused = true)]
async fn parts_make_an_object() {
    let (engine, nodes) = with_bucket().await;
    let upload = create(&engine, "big").await;
    let bytes = [pattern(1, PART), pattern(2, PART + 77), pattern(3, 10)];
    let mut named = Vec::new();
    for (at, bytes) in bytes.iter().enumerate() {
        named.push(part(&engine, &upload, at as u16 * 3 + 1, bytes.clone()).await.unwrap());
    }
    let listed = engine.list_parts("b", b"big", upload.upload, 1, 1).await.unwrap();
    assert_eq!((listed.parts[0].part.number, listed.truncated), (4, true));
    assert!(engine.get_object(get("big")).await.is_err(), "nothing is there before");
    let done = engine.complete_upload(completion(&upload, named.clone())).await.unwrap();
    assert!(done.meta.etag.ends_with("-3"));
    let again = engine.complete_upload(completion(&upload, named.clone())).await.unwrap();
    assert_eq!(done, again);
    let other = engine.complete_upload(completion(&upload, named[..1].to_vec())).await;
    assert_eq!(other, Err(StoreError::NoSuchUpload));
    let late = part(&engine, &upload, 9, pattern(9, 10)).await;
    assert_eq!(late, Err(StoreError::NoSuchUpload));
    let gone = engine.abort_upload("b", b"big", upload.upload).await;
    assert_eq!(gone, Err(StoreError::NoSuchUpload));
    down(&nodes[2], true);
    let whole: Vec<u8> = bytes.iter().flat_map(|part| part.to_vec()).collect();
    assert!(read_whole(&engine, "big").await == whole);
    let wanted = Wanted::Range { first: PART as u64 - 5, last: Some(PART as u64 + 4) };
    let read = engine.get_object(GetObject { wanted, ..get("big") }).await.unwrap();
    assert!(collect(read.body).await == whole[PART - 5..PART + 5]);
    let read = engine.get_object(GetObject { wanted: Wanted::Part(7), ..get("big") }).await;
    assert!(collect(read.unwrap().body).await == bytes[2]);
}

fn get(key: &str) -> GetObject {
    GetObject {
        bucket: "b".to_owned(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..GetObject::default()
    }
}

async fn collect(mut body: crate::api::ByteStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.expect("verified"));
    }
    bytes
}

/// Goal: a completion that fails changes nothing and may be repeated (ceph/s3-tests
/// `test_multipart_put_object_if_match`). Method: wrong parts and failed conditions, then right ones.
#[tokio::test(start_paused = true)]
async fn a_failed_completion_leaves_the_upload_open() {
    let (engine, _nodes) = with_bucket().await;
    let begun = tokio::time::Instant::now();
    let upload = create(&engine, "k").await;
    let right = part(&engine, &upload, 1, pattern(1, 100)).await.unwrap();
    let wrong = CompletedPart { etag: "f".repeat(32), ..right.clone() };
    let outcome = engine.complete_upload(completion(&upload, vec![wrong])).await;
    assert_eq!(outcome, Err(StoreError::InvalidPart { number: 1 }));
    let under = |if_match, if_none_match| CompleteUpload {
        conditions: Conditions { if_match, if_none_match, ..Conditions::default() },
        ..completion(&upload, vec![right.clone()])
    };
    let outcome = engine.complete_upload(under(Some(EtagCondition::Any), None)).await;
    assert_eq!(outcome, Err(StoreError::NoSuchKey { delete_marker: false }));
    part(&engine, &upload, 2, pattern(2, 100)).await.expect("the upload is open again");
    engine.complete_upload(under(None, Some(EtagCondition::Any))).await.expect("nothing is there");
    let second = create(&engine, "k").await;
    let named = vec![part(&engine, &second, 1, pattern(3, 100)).await.unwrap()];
    let conditions =
        Conditions { if_none_match: Some(EtagCondition::Any), ..Conditions::default() };
    let twice = CompleteUpload { conditions, ..completion(&second, named) };
    let failed = StoreError::PreconditionFailed { condition: "If-None-Match" };
    assert_eq!(engine.complete_upload(twice).await, Err(failed));
    assert!(read_whole(&engine, "k").await == pattern(1, 100));
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(1), "nobody had to settle anything: {waited:?}");
}

/// Goal: of completions, aborts and parts at once exactly one end comes out, and it is consistent.
/// Method: two engines, drives of different speed, many offsets.
#[tokio::test(start_paused = true)]
async fn completion_abort_and_parts_at_once() {
    for round in 0..24_u64 {
        let (one, two, cluster) = two_engines().await;
        for (at, node) in cluster.nodes.iter().enumerate() {
            for drive in node.drives() {
                let micros = (round * 6_151 + at as u64 * 52_081) % 3_000;
                node.set_delay(drive, Duration::from_micros(micros));
            }
        }
        let upload = create(&one, "k").await;
        let first = part(&one, &upload, 1, pattern(round, 64)).await.unwrap();
        let later = |micros| tokio::time::sleep(Duration::from_micros(micros));
        let complete = |engine: &'static str, offset: u64| {
            let engine = if engine == "one" { one.clone() } else { two.clone() };
            let complete = completion(&upload, vec![first.clone()]);
            async move {
                later(offset).await;
                engine.complete_upload(complete).await
            }
        };
        let abort = async {
            later(round * 411).await;
            two.abort_upload("b", b"k", upload.upload).await
        };
        let resend = async {
            later(round * 257).await;
            part(&two, &upload, 1, pattern(round + 1000, 64)).await
        };
        let (a, b, aborted, resent) =
            tokio::join!(complete("one", 500), complete("two", round * 100), abort, resend);
        let state = (&a, &b, &aborted, &resent);
        match (&a, &b, &aborted) {
            (Ok(a), Ok(b), Err(StoreError::NoSuchUpload)) => {
                assert_eq!(a, b, "round {round}");
                assert!(read_whole(&one, "k").await == pattern(round, 64), "round {round}");
            }
            (Err(_), Err(_), Ok(())) | (Err(_), Err(_), Err(StoreError::NoSuchUpload)) => {
                let read = one.get_object(get("k")).await;
                assert!(matches!(read, Err(StoreError::NoSuchKey { .. })), "{round}: {state:?}");
            }
            (Err(_), Ok(_), Err(StoreError::NoSuchUpload))
            | (Ok(_), Err(_), Err(StoreError::NoSuchUpload)) => {
                assert!(read_whole(&one, "k").await == pattern(round, 64), "round {round}");
            }
            other => {
                // A part sent again made the parts named stale, and nobody aborted: still open.
                let stale = Err(StoreError::InvalidPart { number: 1 });
                assert!(a == stale && b == stale, "round {round}: {other:?} {resent:?}");
            }
        }
    }
}

/// Goal: a completion that died is brought to its end by whoever meets the upload once it is overdue:
/// reopened when the object was not written, completed when it was. Method: freeze as a dead process
/// leaves it; write the object below the engine's feet in the second case.
#[tokio::test(start_paused = true)]
async fn an_overdue_completion_is_settled_by_whoever_meets_it() {
    let (engine, _nodes) = with_bucket().await;
    for written in [false, true] {
        let key = format!("k{written}");
        let upload = create(&engine, &key).await;
        let named = vec![part(&engine, &upload, 1, pattern(1, 64)).await.unwrap()];
        let complete = completion(&upload, named.clone());
        let at = at(&engine, &upload).await;
        let dead = engine.draw_operation();
        let request = crate::complete_judge::request_digest(&named);
        engine.freeze_for_tests(&at, dead, &request, written.then_some(&complete)).await;
        let begun = crate::task::after(Duration::ZERO);
        let sent = part(&engine, &upload, 2, pattern(2, 64)).await;
        let waited = begun.elapsed().as_micros() as u64;
        assert!(waited + 100_000 >= SETTLE_AFTER_MICROS, "it is left to who began it: {waited}");
        if written {
            assert_eq!(sent, Err(StoreError::NoSuchUpload));
            assert!(read_whole(&engine, &key).await == pattern(1, 64));
            engine.complete_upload(complete).await.expect("repeated: answered as before");
        } else {
            sent.expect("the upload is open again");
            let state = engine.upload_state(&at).await.unwrap().unwrap();
            assert_eq!(state.phase, UploadPhase::Open);
            engine.complete_upload(complete).await.expect("a new completion");
        }
    }
}

/// Goal: what aborted and completed uploads leave behind is freed, once every drive has what it
/// needs, and reads are not disturbed. Method: count the shards on the drives.
#[tokio::test(start_paused = true)]
async fn finished_uploads_give_their_parts_back() {
    let (engine, nodes) = with_bucket().await;
    let shards = || -> usize {
        let count = |node: &crate::testing::MemoryNode| -> usize {
            node.drives().iter().map(|d| node.with_drive(*d, |drive| drive.shard_count())).sum()
        };
        nodes.iter().map(|node| count(node)).sum()
    };
    let aborted = create(&engine, "a").await;
    part(&engine, &aborted, 1, pattern(1, 64)).await.unwrap();
    engine.abort_upload("b", b"a", aborted.upload).await.unwrap();
    assert_eq!(
        engine.list_parts("b", b"a", aborted.upload, 0, 10).await,
        Err(StoreError::NoSuchUpload)
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(shards(), 0, "aborted parts are freed");

    let upload = create(&engine, "k").await;
    let named = vec![
        part(&engine, &upload, 1, pattern(1, PART)).await.unwrap(),
        part(&engine, &upload, 2, pattern(2, 64)).await.unwrap(),
    ];
    part(&engine, &upload, 3, pattern(3, PART)).await.unwrap();
    engine.complete_upload(completion(&upload, named)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(shards(), 8, "two parts on four drives; the third is freed");
    let at = at(&engine, &upload).await;
    let left =
        engine.set_for(&at.register()).found_parts(&at, 0, 10, &OpenOnes::Resolve).await.unwrap();
    assert!(left.is_empty(), "the object's entry keeps the bytes: {left:?}");
    assert_eq!(read_whole(&engine, "k").await.len(), PART + 64);
    engine
        .delete_object("b", crate::api::DeleteKey { key: "k".into(), ..Default::default() })
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(shards(), 0, "and they go with the object");
    tokio::time::sleep(Duration::from_secs(25 * 3600)).await;
    engine.sweep_uploads().await.unwrap();
    let stamp = engine.bucket_scope("b").await.unwrap();
    let set = engine.first_set();
    let page = set.scan(stamp, Keyspace::Upload, Bytes::new(), None, 10).await.unwrap();
    assert!(page.entries.is_empty(), "kept answers are forgotten after a day");
}

/// Goal: the register of a part stays while a drive lacks the object or its shard (INV-UPLOAD-4).
/// Method: a node down while the part is sent, or while the object is written, back afterwards.
#[tokio::test(start_paused = true)]
async fn parts_are_kept_while_a_drive_lacks_them() {
    for down_for_part in [true, false] {
        let (engine, nodes) = with_bucket().await;
        let upload = create(&engine, "k").await;
        down(&nodes[1], down_for_part);
        let named = vec![part(&engine, &upload, 1, pattern(1, 64)).await.unwrap()];
        down(&nodes[1], !down_for_part);
        engine.complete_upload(completion(&upload, named)).await.unwrap();
        down(&nodes[1], false);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let at = at(&engine, &upload).await;
        let left = engine
            .set_for(&at.register())
            .found_parts(&at, 0, 10, &OpenOnes::Resolve)
            .await
            .unwrap();
        assert_eq!(left.len(), 1, "down for the part: {down_for_part}");
    }
}

/// Goal: uploads are listed by key, then in the order of their creation, rolled up, continued behind
/// both markers, completed ones left out. Method: several keys, several uploads each.
#[tokio::test(start_paused = true)]
async fn uploads_are_listed() {
    let (engine, _nodes) = with_bucket().await;
    let mut made: Vec<(String, OperationId)> = Vec::new();
    for key in ["a", "d/x", "a", "d/y", "e", "a"] {
        made.push((key.to_owned(), create(&engine, key).await.upload));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let gone = create(&engine, "a").await;
    engine.abort_upload("b", b"a", gone.upload).await.unwrap();
    let done = create(&engine, "a").await;
    let named = vec![part(&engine, &done, 1, pattern(1, 8)).await.unwrap()];
    engine.complete_upload(completion(&done, named)).await.unwrap();
    made.sort();
    let mut list = ListUploads { bucket: "b".to_owned(), limit: 2, ..ListUploads::default() };
    let mut seen = Vec::new();
    loop {
        let page = engine.list_uploads(list.clone()).await.unwrap();
        for upload in &page.uploads {
            seen.push((String::from_utf8_lossy(&upload.key).into_owned(), upload.upload));
        }
        let last = page.uploads.last().expect("a page is never empty here").clone();
        (list.after_key, list.after_upload) = (last.key, Some(last.upload));
        if !page.truncated {
            break;
        }
    }
    assert_eq!(seen, made);
    let rolled = ListUploads {
        bucket: "b".to_owned(),
        delimiter: Bytes::from_static(b"/"),
        limit: 10,
        ..ListUploads::default()
    };
    let page = engine.list_uploads(rolled).await.unwrap();
    assert_eq!((page.uploads.len(), page.prefixes.len()), (4, 1));
}

/// Goal: rot in a part of a completed object is served around, recorded at the object, and healed by the
/// workers, though the part's own register is gone; an Install alone does not make it whole. Method: the
/// shard of a part that a GET reads rots, or is lost, part after part; one pass of the drive's node.
#[tokio::test(start_paused = true)]
async fn rot_in_a_part_of_an_object_heals() {
    let (engine, nodes) = with_bucket().await;
    let upload = create(&engine, "big").await;
    let bytes = [pattern(1, PART), pattern(2, PART), pattern(3, 70_000)];
    let mut named = Vec::new();
    for (n, bytes) in bytes.iter().enumerate() {
        named.push(part(&engine, &upload, n as u16 + 1, bytes.clone()).await.unwrap());
    }
    let at = at(&engine, &upload).await;
    engine.complete_upload(completion(&upload, named)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let set = engine.set_for(&at.object());
    assert!(set.numbers_held(&at).await.unwrap().is_empty(), "the parts' registers are gone");
    let found = || async { set.read(at.stamp, &at.object(), None).await.unwrap().unwrap() };
    let route = set.shared.route(&at.object()).unwrap();
    for (n, part) in found().await.entry.parts.iter().enumerate() {
        let k = part.geometry.data_shards;
        let first = set.shared.sources(&route, &found().await, k)[n % usize::from(k)];
        let slot = set.shared.slot(route.slots[usize::from(first)]);
        let (node, drive) = (&nodes[slot.node.get()], slot.drive);
        let harmed = match n % 2 {
            0 => node.rot(drive, part.operation),
            _ => node.with_drive(drive, |d| d.lose_shard(part.operation)),
        };
        assert!(harmed);
        assert!(read_whole(&engine, "big").await == bytes.concat(), "never noticed");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(node.with_drive(drive, |d| d.rotten_count()), 1, "part {n} is recorded");
        let pass = engine.work_off(slot.node).await;
        assert_eq!((pass.error.as_str(), pass.done, pass.left), ("", 1, 0), "part {n}");
        assert_eq!(node.with_drive(drive, |d| d.rotten_count()), 0, "part {n} is whole again");
        let again = engine.work_off(slot.node).await;
        assert_eq!((again.done, again.left), (0, 0), "nothing is left to do");
    }
    assert!(read_whole(&engine, "big").await == bytes.concat());
}

/// Goal: an operator who is shown a part's missing shard has had it healed, though no GET reads that shard.
/// Method: the drive that a GET would ask last loses its shard; GETs do not see it, a look at the object
/// does; one pass of the drive's node.
#[tokio::test(start_paused = true)]
async fn looking_at_an_object_heals_what_it_shows() {
    let (engine, nodes) = with_bucket().await;
    let upload = create(&engine, "big").await;
    let named = vec![part(&engine, &upload, 1, pattern(1, PART)).await.unwrap()];
    let at = at(&engine, &upload).await;
    engine.complete_upload(completion(&upload, named)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let set = engine.set_for(&at.object());
    let found = set.read(at.stamp, &at.object(), None).await.unwrap().unwrap();
    let route = set.shared.route(&at.object()).unwrap();
    let last = *set.shared.sources(&route, &found, set.shared.n()).last().unwrap();
    let slot = set.shared.slot(route.slots[usize::from(last)]);
    let (node, drive) = (&nodes[slot.node.get()], slot.drive);
    let operation = found.entry.parts[0].operation;
    assert!(node.with_drive(drive, |d| d.lose_shard(operation)));
    assert!(read_whole(&engine, "big").await == pattern(1, PART));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(node.with_drive(drive, |d| d.rotten_count()), 0, "no GET reads it");
    let missing = |view: &holdfast_types::view::ObjectView| {
        let missing = view.shards.iter().filter(|shard| shard.state == ShardState::Missing);
        missing.map(|shard| shard.drive.clone()).collect::<Vec<_>>()
    };
    let shown = engine.locate("b", b"big").await.unwrap();
    assert_eq!(missing(&shown), [drive.to_string()]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(node.with_drive(drive, |d| d.rotten_count()), 1, "it is recorded");
    engine.work_off(slot.node).await;
    let healed = engine.locate("b", b"big").await.unwrap();
    assert!(missing(&healed).is_empty(), "{healed:?}");
}

/// Goal: what a client announces and what comes must not contradict, and a completion refused for that
/// leaves the upload as it was. Method: a part and a completion of another checksum, a wrong size, then
/// the right one.
#[tokio::test(start_paused = true)]
async fn contradictions_are_refused_and_the_upload_stays_open() {
    let (engine, _nodes) = with_bucket().await;
    let with_sums = CreateUpload {
        bucket: "b".to_owned(),
        key: Bytes::from_static(b"big"),
        checksum_algorithm: Some("SHA1".to_owned()),
        checksum_composite: true,
        ..CreateUpload::default()
    };
    let summed = engine.create_upload(with_sums).await.unwrap();
    let put = PutPart {
        bucket: "b".to_owned(),
        key: summed.key.clone(),
        upload: summed.upload,
        number: 1,
        length: Some(7),
        checksum: Some(Algorithm::Crc32),
    };
    let other = engine.put_part(put, body(pattern(1, 7))).await;
    assert!(matches!(other, Err(StoreError::InvalidRequest { .. })), "{other:?}");

    let plain = create(&engine, "plain").await;
    let named = vec![part(&engine, &plain, 1, pattern(1, 7)).await.unwrap()];
    let sum = NamedChecksum { algorithm: Algorithm::Crc32, value: "AAAAAA==".to_owned() };
    for announced in [
        AnnouncedObject { size: Some(8), ..AnnouncedObject::default() },
        AnnouncedObject { checksum: Some(sum), ..AnnouncedObject::default() },
    ] {
        let wrong = CompleteUpload { announced, ..completion(&plain, named.clone()) };
        let refused = engine.complete_upload(wrong).await;
        assert!(matches!(refused, Err(StoreError::InvalidRequest { .. })), "{refused:?}");
    }
    let announced = AnnouncedObject { size: Some(7), ..AnnouncedObject::default() };
    let right = CompleteUpload { announced, ..completion(&plain, named) };
    assert_eq!(engine.complete_upload(right).await.unwrap().meta.size, 7);
}
