//! Goal: what a drive is asked and answers comes out of the wire as it went in. Method: samples of
//! every variant with every optional part there and not there, encoded to bytes and back; cut and
//! scribbled messages must be errors, never panics.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use holdfast_proto::v1;
use holdfast_register::{
    Held, HolderMask, KeyView, Refusal, RegisterState, Remembered, ShardStatus,
};
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, DriveId, DriveState, Entry, EntryKind,
    ErrorClass, Geometry, HybridTime, Keyspace, OperationId, RegisterKey, ScrubOrder, SetEpoch,
    SetIndex, ShardIndex, VersionId, WriterId,
};
use prost::Message;

use super::{call, drive_error, read_call, read_drive_error, read_result, result};
use crate::{
    api::*,
    scrub::{Count, Pass, Phase, ScrubStatus},
};

fn ballot(n: u64) -> Ballot {
    Ballot { generation: 2, time: HybridTime(n), writer: WriterId(u128::from(n) << 70) }
}

fn stamp() -> BucketStamp {
    BucketStamp { id: BucketId(7), epoch: BucketEpoch(9), phase: BucketPhase::Deleting }
}

fn scope() -> Scope {
    Scope { bucket: stamp(), set: SetIndex(300), set_epoch: SetEpoch(1 << 40) }
}

fn entry(n: u64) -> Entry {
    Entry {
        ballot: ballot(n),
        order: ballot(n - 1),
        operation: OperationId(n.into()),
        kind: EntryKind::Put,
        geometry: Geometry::new(3, 4, 10_240),
        metadata: Bytes::from_static(b"metadata"),
        parts: Vec::new(),
    }
}

fn accept(n: u64, source: ShardSource, more: bool) -> DriveRequest {
    let key = RegisterKey::object(BucketId(7), &b"a//\0b"[..]);
    let guard = Guard { key: key.clone(), prefix: Bytes::from_static(b"open") };
    DriveRequest::Accept(Accept {
        scope: scope(),
        key,
        version: VersionId(4),
        entry: entry(n),
        shard: ShardIndex(15),
        source,
        guard: more.then_some(guard),
    })
}

fn requests() -> Vec<DriveRequest> {
    let key = RegisterKey::part(BucketId(7), b"k", OperationId(3), 9);
    let (scope, version, operation) = (scope(), VersionId::NULL, OperationId(u128::MAX));
    let inline = ShardSource::Inline(Bytes::from(vec![7; 3000]));
    let upload = ShardSource::Upload(UploadHandle { open: 3, upload: u64::MAX });
    let mut all = vec![
        accept(5, ShardSource::NoData, false),
        accept(5, inline, true),
        accept(6, upload, false),
        accept(6, ShardSource::Held, true),
        accept(7, ShardSource::Missing, true),
        DriveRequest::Install(Install {
            scope,
            key: key.clone(),
            version,
            entry: entry(5),
            shard: ShardIndex(0),
            source: ShardSource::Held,
            holders: HolderMask(u16::MAX),
        }),
        DriveRequest::Settle(Settle {
            scope,
            key: key.clone(),
            version,
            operation,
            holders: HolderMask(3),
            set_size: 16,
        }),
        DriveRequest::Purge(Purge { scope, key: key.clone(), version, ballot: ballot(8) }),
        DriveRequest::InstallBucket(scope),
        DriveRequest::Pin(Pin {
            operations: vec![operation, OperationId(1)],
            lease: OperationId(2),
            ttl_micros: 0,
        }),
        DriveRequest::Facts,
        DriveRequest::Verify(Verify {
            scope,
            key: key.clone(),
            version,
            operation,
            shard: ShardIndex(15),
        }),
    ];
    all.extend(scrub_orders());
    for kind in [ChoreKind::Repairs, ChoreKind::Unsettled, ChoreKind::Tombstones] {
        let after = (kind == ChoreKind::Repairs).then(Bytes::new);
        all.push(DriveRequest::ListChores(ListChores { kind, age_micros: 1, after, limit: 9 }));
    }
    for yes in [false, true] {
        let (ballot, since) = (ballot(1), HybridTime(u64::MAX));
        all.push(DriveRequest::Prepare(Prepare {
            scope,
            key: key.clone(),
            ballot,
            since,
            inline: yes,
        }));
        let version = yes.then_some(version);
        all.push(DriveRequest::Read(Read { scope, key: key.clone(), version, inline: yes }));
        let (start, end) = (Bytes::from_static(b"a"), yes.then(Bytes::new));
        let space = Keyspace::Upload;
        all.push(DriveRequest::Scan(Scan { scope, space, start, end, limit: 5, metadata: yes }));
    }
    all.extend(members().into_iter().map(DriveRequest::Member));
    all
}

fn issued() -> Issued {
    Issued { floor: ballot(4), purge_floor: ballot(5), buckets: vec![stamp(); 2] }
}

fn members() -> Vec<MemberRequest> {
    let membership = Bytes::from_static(b"{}");
    let issue = Issue { set: SetIndex(3), epoch: SetEpoch(u64::MAX), membership };
    let part = RegisterKey::part(BucketId(7), b"k\0", OperationId(3), 9);
    vec![
        MemberRequest::Issue(issue.clone()),
        MemberRequest::Membership,
        MemberRequest::Begin(Begin { issue: issue.clone(), collected: issued() }),
        MemberRequest::Rebuilt(SetEpoch(8)),
        MemberRequest::Ranges,
        MemberRequest::Fill(issue),
        MemberRequest::Filled(Filled { epoch: SetEpoch(9), ranges: ranges() }),
        MemberRequest::ListIndex(ListIndex {
            scope: scope(),
            start: Bytes::new(),
            end: Some(Bytes::from_static(b"e")),
            limit: 7,
        }),
        MemberRequest::Restock(Restock {
            scope: scope(),
            key: part,
            version: VersionId(5),
            operation: OperationId(6),
            geometry: Geometry::new(3, 5, 1 << 20),
            shard: ShardIndex(4),
            source: ShardSource::Inline(Bytes::from_static(b"shard")),
        }),
    ]
}

fn member_replies() -> Vec<MemberReply> {
    let entry = IndexEntry {
        operation: OperationId(1),
        ballot: ballot(2),
        data_shards: 12,
        settled: true,
        shard: ShardStatus::Missing,
        parts_missing: 3,
    };
    let key = RegisterKey::bucket("photos");
    let line = IndexLine { key, version: VersionId(9), entries: vec![entry; 2] };
    let known = |standing| MemberReply::Membership {
        epoch: SetEpoch(4),
        document: Bytes::from_static(b"{}"),
        standing,
        unfilled: 7,
    };
    vec![
        MemberReply::Issued(issued()),
        MemberReply::Ranges(ranges()),
        MemberReply::Index(IndexPage { lines: vec![line], gaps: gaps(), next: Some(Bytes::new()) }),
        MemberReply::Index(IndexPage::default()),
        known(Standing::Counting),
        known(Standing::Joining),
        known(Standing::Rebuilding),
    ]
}

fn ranges() -> Vec<RotRange> {
    let range = |standing| RotRange {
        start: Bytes::from_static(b"a"),
        end: Bytes::new(),
        upto: crate::meta_index::Lsn(5),
        highest: ballot(6),
        epoch: SetEpoch(7),
        standing,
    };
    let since = crate::meta_index::Lsn(8);
    vec![
        range(RotStanding::Hidden),
        range(RotStanding::Open(since)),
        range(RotStanding::Filled(since)),
    ]
}

fn gaps() -> Vec<Gap> {
    let first = Bytes::from_static(b"g");
    let end = Some(Bytes::from_static(b"h"));
    vec![Gap { first: first.clone(), end }, Gap { first, end: None }]
}

fn view() -> KeyView {
    let held = |n, shard, settled| Held {
        entry: entry(n),
        shard,
        settled,
        holders: HolderMask(if settled { 0xf00f } else { 0 }),
    };
    let entries = vec![
        held(9, ShardStatus::Missing, false),
        held(8, ShardStatus::Present, false),
        held(7, ShardStatus::NoData, true),
    ];
    let at = HybridTime(3);
    KeyView {
        registers: BTreeMap::from([
            (VersionId::NULL, RegisterState { entries }),
            (VersionId(8), RegisterState { entries: vec![held(3, ShardStatus::Present, true)] }),
        ]),
        highest: ballot(9),
        promise: ballot(10),
        memory: vec![Remembered { operation: OperationId(1), ballot: ballot(2), at }],
        remembers: true,
        counts: false,
    }
}

fn scrub_orders() -> impl Iterator<Item = DriveRequest> {
    use ScrubOrder::{Pause, Rate, Resume, Start, Status};
    [Status, Start, Pause, Resume, Rate(17)].into_iter().map(DriveRequest::Scrub)
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::Stale { highest: ballot(1) },
        Refusal::Promised { promise: ballot(2) },
        Refusal::BallotReused,
        Refusal::TooFarAhead { now: HybridTime(5) },
        Refusal::Purged { floor: ballot(3) },
        Refusal::BucketOutdated { current: stamp() },
        Refusal::BucketNotLive { current: BucketStamp::REGISTRY },
        Refusal::SetOutdated { current: SetEpoch(0) },
        Refusal::UploadLost,
        Refusal::UploadNotOpen,
        Refusal::Crowded,
        Refusal::NotPurgeable,
    ]
}

fn facts(state: DriveState) -> DriveReply {
    DriveReply::Facts(DriveFacts {
        drive: DriveId(3),
        path: "/mnt/holdfast1".to_owned(),
        state,
        reason: "because".to_owned(),
        capacity_bytes: 1,
        free_bytes: 2,
        used_bytes: 3,
        registers: 4,
        repairs: 5,
        open_count: 6,
        syncs: 7,
        index_faults: 2,
    })
}

fn results() -> Vec<DriveResult> {
    let drive = DriveId(3);
    let shard = InlineShard {
        operation: OperationId(1),
        shard: ShardIndex(2),
        bytes: Bytes::from_static(b"shard"),
    };
    let scanned = ScannedKey { name: Bytes::from_static(b"n"), view: view() };
    let chore = Chore {
        cursor: Bytes::from_static(b"c"),
        key: RegisterKey::bucket("photos"),
        version: VersionId(1),
        operation: OperationId(2),
        ballot: ballot(3),
        missing: HolderMask(4),
    };
    let mut all = vec![
        Ok(DriveReply::View { view: view(), inline: vec![shard] }),
        Ok(DriveReply::View { view: KeyView::default(), inline: Vec::new() }),
        Ok(DriveReply::Page(ScanPage {
            keys: vec![scanned],
            gaps: gaps(),
            more: true,
            counts: true,
        })),
        Ok(DriveReply::Page(ScanPage::default())),
        Ok(DriveReply::Chores(vec![chore])),
        Ok(DriveReply::Done),
    ];
    let pass = Pass {
        pass: 1,
        started_at: 2,
        finished_at: 3,
        read: Count { shards: 4, bytes: 5 },
        missed: Count { shards: 6, bytes: 7 },
        found: 8,
        run_bytes: 9,
        run_missed: 10,
    };
    for phase in [Phase::Idle, Phase::Shards, Phase::Runs] {
        let owed = Count { shards: 11, bytes: 12 };
        let (rate, runs_left, last, complete) = (13, 14, Some(pass), None);
        let paused = true;
        let status = ScrubStatus { phase, paused, rate, pass, owed, runs_left, last, complete };
        all.push(Ok(DriveReply::Scrub(status)));
    }
    all.extend(member_replies().into_iter().map(|reply| Ok(DriveReply::Member(reply))));
    for status in [ShardStatus::NoData, ShardStatus::Present, ShardStatus::Missing] {
        all.push(Ok(DriveReply::Accepted(status)));
    }
    for state in super::reply::STATES {
        all.push(Ok(facts(state)));
    }
    all.extend(refusals().into_iter().map(|refusal| Err(DriveError::Refused { drive, refusal })));
    all.extend(ErrorClass::ALL.map(|class| Err(DriveError::failed(drive, class, "it failed"))));
    all
}

#[test]
fn every_request_round_trips() {
    let batch: Vec<_> =
        requests().into_iter().enumerate().map(|(n, r)| (DriveId(n as u128), r)).collect();
    let bytes = call(Duration::from_millis(1500), &batch).encode_to_vec();
    let message = v1::CallRequest::decode(&bytes[..]).expect("just encoded");
    assert_eq!(read_call(message), Ok((Duration::from_millis(1500), batch)));
}

#[test]
fn every_result_round_trips_as_a_message_and_errors_as_details() {
    for sample in results() {
        let bytes = result(&sample).encode_to_vec();
        let message = v1::DriveResult::decode(&bytes[..]).expect("just encoded");
        assert_eq!(read_result(message), Ok(sample.clone()));
        if let Err(error) = sample {
            assert_eq!(read_drive_error(&drive_error(&error)), Ok(error));
        }
    }
}

/// A batch to the four drives of a node carries its entry and its key once (PROTOCOL of a PUT: the
/// same entry for every drive), whatever else differs.
#[test]
fn a_batch_carries_each_entry_and_key_once() {
    let batch: Vec<_> = (0..4).map(|n| (DriveId(n), accept(5, ShardSource::Held, true))).collect();
    let message = call(Duration::ZERO, &batch);
    assert_eq!((message.entries.len(), message.keys.len()), (1, 1));
    let mut other = entry(5);
    other.metadata = Bytes::from_static(b"other content under the same ballot");
    let mut batch = batch;
    let Some((_, DriveRequest::Accept(last))) = batch.last_mut() else { panic!("an Accept") };
    last.entry = other;
    let message = call(Duration::ZERO, &batch);
    assert_eq!(message.entries.len(), 2);
    assert_eq!(read_call(message).expect("well formed").1, batch);
}

#[test]
fn cut_and_scribbled_messages_are_errors_or_other_values_never_panics() {
    let batch: Vec<_> = requests().into_iter().map(|r| (DriveId(1), r)).collect();
    let bytes = call(Duration::ZERO, &batch).encode_to_vec();
    for at in 0..bytes.len() {
        if let Ok(message) = v1::CallRequest::decode(&bytes[..at]) {
            assert_ne!(read_call(message).map(|parts| parts.1).as_ref(), Ok(&batch), "cut {at}");
        }
        let mut scribbled = bytes.clone();
        scribbled[at] ^= 0x55;
        if let Ok(message) = v1::CallRequest::decode(&scribbled[..]) {
            drop(read_call(message));
        }
    }
}
