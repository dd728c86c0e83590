//! Copies on drives.

use bytes::Bytes;

use super::{pattern, put_object, read_whole, with_bucket};
use crate::{
    Engine, StoreError,
    api::{
        CompleteUpload, CompletedPart, Conditions, CopyObject, CreateUpload, EtagCondition,
        GetObject, NamedChecksum, ObjectAttributes, ObjectStore, PutPart, Wanted,
    },
    checksum::Algorithm,
};

fn source(key: &str) -> GetObject {
    GetObject {
        bucket: "b".to_owned(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..GetObject::default()
    }
}

fn copy(from: &str, to: &str) -> CopyObject {
    CopyObject {
        source: source(from),
        bucket: "b".to_owned(),
        key: Bytes::copy_from_slice(to.as_bytes()),
        ..CopyObject::default()
    }
}

fn renamed(name: &str) -> Option<ObjectAttributes> {
    let user = [("name".to_owned(), name.to_owned())].into();
    Some(ObjectAttributes { user, ..ObjectAttributes::default() })
}

async fn user_name(engine: &Engine, key: &str) -> Option<String> {
    let read = engine.head_object(source(key)).await.expect("it is there");
    read.info.meta.user.get("name").cloned()
}

/// Goal: a copy has the source's bytes and metadata, or other metadata when asked, of every size, and
/// outlives its source. Method: inline and streamed sizes, and none; delete the source, read the copy.
#[tokio::test(start_paused = true)]
async fn copies_are_objects_of_their_own() {
    let (engine, _nodes) = with_bucket().await;
    for size in [0, 100, 700_000, 5 << 20] {
        let bytes = pattern(size as u64, size);
        put_object(&engine, "from", bytes.clone(), renamed("old")).await.unwrap();
        let request =
            CopyObject { checksum_algorithm: Some("CRC32".to_owned()), ..copy("from", "to") };
        let copied = engine.copy_object(request).await.unwrap();
        let mut digester = crate::checksum::Digester::new(Some(crate::checksum::Algorithm::Crc32));
        digester.update(&bytes);
        let digest = digester.finish();
        assert_eq!((copied.meta.etag, copied.meta.checksum), (digest.etag, digest.checksum));
        assert_eq!(user_name(&engine, "to").await.as_deref(), Some("old"));
        let replaced = CopyObject { replace: renamed("new"), ..copy("to", "to2") };
        engine.copy_object(replaced).await.unwrap();
        let delete = crate::api::DeleteKey { key: "from".into(), ..Default::default() };
        engine.delete_object("b", delete).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert!(read_whole(&engine, "to").await == bytes);
        assert!(read_whole(&engine, "to2").await == bytes);
        assert_eq!(user_name(&engine, "to2").await.as_deref(), Some("new"));
    }
    let missing = engine.copy_object(copy("none", "to")).await;
    assert_eq!(missing, Err(StoreError::NoSuchKey { delete_marker: false }));
}

/// Goal: conditions on source and target hold. Method: each failing once.
#[tokio::test(start_paused = true)]
async fn conditions_on_both_ends_hold() {
    let (engine, _nodes) = with_bucket().await;
    let made = put_object(&engine, "from", pattern(1, 10), None).await.unwrap();
    let tag = |tag: &str| Some(EtagCondition::Tags(vec![tag.to_owned()]));
    let mut request = copy("from", "to");
    request.source.conditions = Conditions { if_match: tag("no"), ..Conditions::default() };
    let failed = engine.copy_object(request.clone()).await;
    assert!(matches!(failed, Err(StoreError::PreconditionFailed { .. })), "{failed:?}");
    let same = Conditions { if_none_match: tag(&made.meta.etag), ..Conditions::default() };
    request.source.conditions = same;
    let failed = engine.copy_object(request.clone()).await;
    assert!(matches!(failed, Err(StoreError::PreconditionFailed { .. })), "{failed:?}");
    request.source.conditions = Conditions::default();
    request.conditions =
        Conditions { if_none_match: Some(EtagCondition::Any), ..Conditions::default() };
    engine.copy_object(request.clone()).await.expect("nothing is there");
    let failed = engine.copy_object(request).await;
    assert!(matches!(failed, Err(StoreError::PreconditionFailed { .. })), "{failed:?}");
}

/// Goal: a copy onto itself changes the metadata and nothing else, by reference when all drives have
/// the bytes, and never hides a write that came in between. Method: sizes that do and do not go by
/// reference; count shards; race it against puts.
#[tokio::test(start_paused = true)]
async fn a_copy_onto_itself_changes_the_metadata_alone() {
    let (engine, nodes) = with_bucket().await;
    let nothing = engine.copy_object(copy("k", "k")).await;
    assert!(matches!(nothing, Err(StoreError::BodyRejected { code: "InvalidRequest", .. })));
    for size in [0, 100, 3 << 20] {
        let bytes = pattern(size as u64, size);
        let before = put_object(&engine, "k", bytes.clone(), renamed("old")).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        for name in ["one", "two"] {
            let request = CopyObject { replace: renamed(name), ..copy("k", "k") };
            let after = engine.copy_object(request).await.unwrap();
            assert_eq!(after.meta.size, before.meta.size);
            assert_eq!(user_name(&engine, "k").await.as_deref(), Some(name));
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            assert!(read_whole(&engine, "k").await == bytes);
        }
    }
    let shards = |node: &crate::testing::MemoryNode| -> usize {
        node.drives().iter().map(|d| node.with_drive(*d, |drive| drive.shard_count())).sum()
    };
    assert_eq!(nodes.iter().map(|node| shards(node)).sum::<usize>(), 4, "no bytes are left over");

    for node in &nodes {
        for drive in node.drives() {
            node.set_delay(drive, std::time::Duration::from_micros(300));
        }
    }
    for round in 0..20_u64 {
        put_object(&engine, "r", pattern(0, 50), None).await.unwrap();
        let renaming = engine.copy_object(CopyObject { replace: renamed("r"), ..copy("r", "r") });
        let putting = async {
            tokio::time::sleep(std::time::Duration::from_micros(round * 100)).await;
            put_object(&engine, "r", pattern(round + 1, 60), None).await
        };
        let (renaming, putting) = tokio::join!(renaming, putting);
        putting.unwrap();
        renaming.unwrap();
        assert!(read_whole(&engine, "r").await == pattern(round + 1, 60), "round {round}");
    }
}

/// Goal: parts are copied whole and in ranges; a range beyond the source is refused. Method: build an
/// object of ranges of another one.
#[tokio::test(start_paused = true)]
async fn parts_are_copied_in_ranges() {
    let (engine, _nodes) = with_bucket().await;
    let bytes = pattern(1, 6 << 20);
    put_object(&engine, "from", bytes.clone(), None).await.unwrap();
    let create = CreateUpload {
        bucket: "b".to_owned(),
        key: "to".into(),
        checksum_algorithm: Some("CRC64NVME".to_owned()),
        ..CreateUpload::default()
    };
    let upload = engine.create_upload(create).await.unwrap();
    let put = |number| PutPart {
        bucket: "b".to_owned(),
        key: "to".into(),
        upload: upload.upload,
        number,
        length: None,
        checksum: None,
    };
    let range = |first, last| GetObject { wanted: Wanted::Range { first, last }, ..source("from") };
    let one = engine.copy_part(range(3, Some((5 << 20) + 2)), put(1)).await.unwrap();
    let two = engine.copy_part(source("from"), put(2)).await.unwrap();
    assert_eq!((one.part.size, two.part.size), (5 << 20, 6 << 20));
    let beyond = engine.copy_part(range(0, Some(6 << 20)), put(3)).await;
    assert_eq!(beyond.map(|_| ()), Err(StoreError::InvalidRange { size: 6 << 20 }));
    let name = |part: &crate::api::PartInfo| CompletedPart {
        number: part.part.number as u16,
        etag: part.part.etag.clone(),
        checksum: part
            .part
            .checksum
            .as_ref()
            .map(|sum| NamedChecksum { algorithm: Algorithm::Crc64Nvme, value: sum.value.clone() }),
    };
    let complete = CompleteUpload {
        bucket: "b".to_owned(),
        key: "to".into(),
        upload: upload.upload,
        parts: vec![name(&one), name(&two)],
        ..CompleteUpload::default()
    };
    let made = engine.complete_upload(complete).await.unwrap();
    let whole = [&bytes[3..(5 << 20) + 3], &bytes[..]].concat();
    let mut digester = crate::checksum::Digester::new(Some(crate::checksum::Algorithm::Crc64Nvme));
    digester.update(&whole);
    assert_eq!(made.meta.checksum, digester.finish().checksum);
    assert!(read_whole(&engine, "to").await == whole);
    let empty = engine.copy_part(source("from"), PutPart { number: 0, ..put(1) }).await;
    assert!(matches!(empty, Err(StoreError::InvalidArgument { .. })));
}
