//! Goal: a drive as a member of its set keeps its word over restarts and crashes: which epoch it
//! adopted, where it stands, what its floor is (INV-MEMBER-1). Method: on the simulated disk, requests
//! and crashes between them.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::{
        Accept, Begin, DriveError, DriveReply, DriveRequest, DriveResult, Issue, Issued, ListIndex,
        MemberReply, MemberRequest, Prepare, Read, Restock, Scope, ShardSource, Standing,
    },
    disk::Disk,
    disk_sim::SimDisk,
    volume::VolumeSizes,
};
use holdfast_erasure::{Salt, encode_body};
use holdfast_register::{Refusal, ShardStatus};
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, DriveState, Entry,
    EntryKind, Geometry, HybridTime, OperationId, PartRef, RegisterKey, SetEpoch, SetIndex,
    ShardIndex, VersionId, WriterId,
    seam::{ManualClock, SeededRandom},
};

const START_MICROS: u64 = 1_700_000_000_000_000;
const DRIVE: DriveId = DriveId(0xd1);
const BUCKET: BucketStamp =
    BucketStamp { id: BucketId(0xb), epoch: BucketEpoch(1), phase: BucketPhase::Live };

fn options() -> DriveOptions {
    DriveOptions {
        segment_bytes: 1 << 20,
        volumes: VolumeSizes { first: 1 << 20, max: 4 << 20, reserve: 0 },
        ..DriveOptions::default()
    }
}

fn scope(epoch: u64) -> Scope {
    Scope { bucket: BUCKET, set: SetIndex(0), set_epoch: SetEpoch(epoch) }
}

fn ballot(n: u64) -> Ballot {
    Ballot { generation: 1, time: HybridTime::from_micros(START_MICROS + n), writer: WriterId(1) }
}

fn issue(epoch: u64) -> Issue {
    let membership = Bytes::from(format!("members of {epoch}"));
    Issue { set: SetIndex(0), epoch: SetEpoch(epoch), membership }
}

struct Rig {
    disk: SimDisk,
    clock: ManualClock,
    drive: Drive,
}

impl Rig {
    fn new(standing: Standing) -> Self {
        let disk = SimDisk::new(1 << 30);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let (cluster, set) = (ClusterId(0xc), Some(SetIndex(0)));
        let identity = Identity { drive: DRIVE, cluster, set, formatted_at: 1 };
        Drive::format_as(&shared, &identity, &options(), standing).unwrap();
        let clock = ManualClock::at(START_MICROS);
        let drive = Drive::open(shared, options(), Arc::new(clock.clone())).unwrap();
        Self { disk, clock, drive }
    }

    /// The power goes; what was not synced may be lost.
    fn crash(&mut self, seed: u64) {
        self.disk.crash(&SeededRandom::new(seed));
        let disk = Arc::new(self.disk.clone());
        self.drive = Drive::open(disk, options(), Arc::new(self.clock.clone())).unwrap();
    }

    fn call(&mut self, request: DriveRequest) -> DriveResult {
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        self.drive.handle(request, Box::new(move |r| *filled.lock().unwrap() = Some(r)));
        while let Some(job) = self.drive.take_batch() {
            let outcome = job.run();
            self.drive.batch_done(outcome);
        }
        let answer = slot.lock().unwrap().take();
        answer.expect("every request is answered once its batch is durable")
    }

    fn member(&mut self, request: MemberRequest) -> DriveResult {
        self.call(DriveRequest::Member(request))
    }

    fn put(&mut self, epoch: u64, name: &str, n: u64) -> DriveResult {
        self.accept(epoch, name, entry(n, Vec::new()), ShardSource::NoData)
    }

    fn accept(&mut self, epoch: u64, name: &str, entry: Entry, source: ShardSource) -> DriveResult {
        self.call(DriveRequest::Accept(Accept {
            scope: scope(epoch),
            key: RegisterKey::object(BUCKET.id, name.to_owned()),
            version: VersionId::NULL,
            entry,
            shard: ShardIndex(0),
            source,
            guard: None,
        }))
    }

    fn counts(&mut self, epoch: u64, name: &str) -> bool {
        let key = RegisterKey::object(BUCKET.id, name.to_owned());
        let read = Read { scope: scope(epoch), key, version: None, inline: false };
        match self.call(DriveRequest::Read(read)) {
            Ok(DriveReply::View { view, .. }) => view.counts,
            other => panic!("{other:?}"),
        }
    }
}

fn entry(n: u64, parts: Vec<PartRef>) -> Entry {
    Entry {
        ballot: ballot(n),
        order: ballot(n),
        operation: OperationId(n.into()),
        kind: EntryKind::Put,
        geometry: Geometry::EMPTY,
        metadata: Bytes::new(),
        parts,
    }
}

fn refusal(result: DriveResult) -> Refusal {
    match result {
        Err(DriveError::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?} is no refusal"),
    }
}

/// A drive that adopted an epoch refuses older ones, after a crash, too; one that a request brings it
/// adopts as well.
#[test]
fn an_epoch_once_adopted_is_kept() {
    let mut rig = Rig::new(Standing::Counting);
    rig.put(1, "a", 5).unwrap();
    let told = rig.member(MemberRequest::Issue(issue(2))).unwrap();
    let DriveReply::Member(MemberReply::Issued(issued)) = told else { panic!("{told:?}") };
    assert_eq!((issued.floor, issued.buckets), (ballot(5), vec![BUCKET]));
    let outdated = |epoch| Refusal::SetOutdated { current: SetEpoch(epoch) };
    assert_eq!(refusal(rig.put(1, "a", 6)), outdated(2));
    rig.crash(1);
    assert_eq!(refusal(rig.put(1, "a", 6)), outdated(2));
    rig.put(2, "a", 6).unwrap();
    assert!(rig.counts(3, "a"), "a read brings a newer epoch");
    rig.crash(2);
    assert_eq!(refusal(rig.put(2, "a", 7)), outdated(3));
    let known = rig.member(MemberRequest::Membership).unwrap();
    let document = issue(2).membership;
    let (epoch, standing) = (SetEpoch(3), Standing::Counting);
    assert_eq!(
        known,
        DriveReply::Member(MemberReply::Membership { epoch, document, standing, unfilled: 0 })
    );
    assert_eq!(refusal(rig.member(MemberRequest::Issue(issue(2)))), outdated(3));
}

/// What an epoch's issuer is told covers promises as well as entries, those of earlier opens included.
#[test]
fn a_floor_covers_promises() {
    let mut rig = Rig::new(Standing::Counting);
    let key = RegisterKey::object(BUCKET.id, "promised");
    let (ballot, since) = (ballot(900), HybridTime(0));
    let prepare = Prepare { scope: scope(1), key, ballot, since, inline: false };
    rig.call(DriveRequest::Prepare(prepare)).unwrap();
    let floor = |rig: &mut Rig, epoch| match rig.member(MemberRequest::Issue(issue(epoch))) {
        Ok(DriveReply::Member(MemberReply::Issued(issued))) => issued.floor,
        other => panic!("{other:?}"),
    };
    assert_eq!(floor(&mut rig, 2), ballot);
    rig.crash(3);
    assert!(floor(&mut rig, 3) >= ballot);
}

/// A joining drive serves nothing; with its floor it accepts above it and does not count; rebuilt, it
/// counts. Each step survives a crash.
#[test]
fn a_joining_drive_goes_step_by_step() {
    let mut rig = Rig::new(Standing::Joining);
    assert_eq!(rig.drive.facts().state, DriveState::Faulty);
    assert!(matches!(rig.put(1, "a", 50), Err(DriveError::Failed { .. })));
    rig.crash(1);
    assert!(matches!(rig.put(1, "a", 50), Err(DriveError::Failed { .. })));
    let collected = Issued { floor: ballot(100), purge_floor: ballot(90), buckets: vec![BUCKET] };
    let begin = Begin { issue: issue(2), collected };
    rig.member(MemberRequest::Begin(begin.clone())).unwrap();
    for seed in [2, 3] {
        assert_eq!(rig.drive.facts().state, DriveState::Rebuilding);
        assert!(!rig.counts(2, "a"));
        let n = 50 + seed;
        assert!(
            matches!(refusal(rig.put(2, "a", n)), Refusal::Promised { promise } if promise >= ballot(100))
        );
        rig.crash(seed);
    }
    // After a restart the promise ceiling is the floor; nothing was promised yet.
    rig.put(2, "a", 200).unwrap();
    rig.member(MemberRequest::Begin(begin)).unwrap();
    let stale = rig.member(MemberRequest::Rebuilt(SetEpoch(1)));
    assert_eq!(refusal(stale), Refusal::SetOutdated { current: SetEpoch(2) });
    rig.member(MemberRequest::Rebuilt(SetEpoch(2))).unwrap();
    rig.crash(9);
    assert!(rig.counts(2, "a"));
    assert_eq!(rig.drive.facts().state, DriveState::Healthy);
}

/// The index shows every register once, in order, across pages; a part whose shard is missing shows,
/// and is brought.
#[test]
fn the_index_shows_what_is_missing_and_parts_are_brought() {
    let mut rig = Rig::new(Standing::Counting);
    for n in 1..=9 {
        rig.put(1, &format!("k{n}"), n).unwrap();
    }
    let body = vec![7_u8; 3_000];
    let geometry = Geometry::new(1, 2, body.len() as u64);
    let part = PartRef { number: 1, operation: OperationId(77), geometry };
    rig.accept(1, "object", entry(20, vec![part.clone()]), ShardSource::NoData).unwrap();
    let bucket = BucketStamp::REGISTRY;
    let lines = |rig: &mut Rig| {
        let (mut start, mut all) = (Bytes::new(), Vec::new());
        loop {
            let scope = Scope { bucket, ..scope(1) };
            let list = ListIndex { scope, start: start.clone(), end: None, limit: 4 };
            let page = match rig.member(MemberRequest::ListIndex(list)) {
                Ok(DriveReply::Member(MemberReply::Index(page))) => page,
                other => panic!("{other:?}"),
            };
            all.extend(page.lines);
            match page.next {
                Some(next) => start = next,
                None => return all,
            }
        }
    };
    let all = lines(&mut rig);
    assert_eq!(all.len(), 10);
    assert!(all.windows(2).all(|two| two[0].key < two[1].key));
    let object = all.iter().find(|line| &line.key.name[..] == b"object").unwrap();
    assert_eq!(object.entries[0].parts_missing, 1);
    let salt = Salt { operation: part.operation, drive: DRIVE, shard: ShardIndex(0) };
    let shards = encode_body(&geometry, &body, &[salt, salt]);
    let restock = |source| {
        MemberRequest::Restock(Restock {
            scope: scope(1),
            key: RegisterKey::object(BUCKET.id, "object"),
            version: VersionId::NULL,
            operation: part.operation,
            geometry,
            shard: ShardIndex(0),
            source,
        })
    };
    let missing = rig.member(restock(ShardSource::Held)).unwrap();
    assert_eq!(missing, DriveReply::Accepted(ShardStatus::Missing));
    let inline = ShardSource::Inline(shards[0].clone());
    let present = DriveReply::Accepted(ShardStatus::Present);
    assert_eq!(rig.member(restock(inline)).unwrap(), present);
    rig.crash(5);
    assert_eq!(rig.member(restock(ShardSource::Held)).unwrap(), present);
    let object = lines(&mut rig).into_iter().find(|line| &line.key.name[..] == b"object");
    assert_eq!(object.unwrap().entries[0].parts_missing, 0);
    rig.drive.audit().unwrap();
}
