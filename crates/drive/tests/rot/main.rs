//! Rot on a drive: found out when a reader complains, recorded, survived, healed. The drive takes
//! nobody's word for it, and what is left of a rotten shard stays until another copy is there.

mod fill;
mod index;
mod places;
mod runs;
mod scrub;
mod vouching;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::{
        Accept, ChoreKind, DriveError, DriveReply, DriveRequest, DriveResult, Install, ListChores,
        MemberRequest, Read, Restock, Scope, Settle, ShardRead, ShardSource, UploadTarget, Verify,
    },
    disk::{Access, Disk},
    disk_sim::SimDisk,
    drive::run_jobs,
    volume::VolumeSizes,
};
use holdfast_erasure::{Salt, encode_body};
use holdfast_register::{HolderMask, ShardStatus};
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, Entry, EntryKind,
    ErrorClass, Geometry, HybridTime, OperationId, PartRef, RegisterKey, SetEpoch, SetIndex,
    ShardIndex, VersionId, WriterId, seam::ManualClock,
};

const START_MICROS: u64 = 1_700_000_000_000_000;
const DRIVE: DriveId = DriveId(0xd1);
const SHARD: ShardIndex = ShardIndex(2);
const SET_SIZE: u8 = 4;
const BUCKET: BucketStamp =
    BucketStamp { id: BucketId(0xb), epoch: BucketEpoch(1), phase: BucketPhase::Live };

struct Rig {
    /// Small shards go to volumes, too.
    uploads_all: bool,
    options: DriveOptions,
    sim: SimDisk,
    clock: ManualClock,
    drive: Drive,
}

/// One object: its entry and this drive's shard.
#[derive(Clone)]
struct Object {
    key: RegisterKey,
    entry: Entry,
    shard: Bytes,
}

fn object(n: u64, len: usize) -> Object {
    let time = HybridTime::from_micros(START_MICROS + n);
    let ballot = Ballot { generation: 1, time, writer: WriterId(1) };
    let operation = OperationId(u128::from(n) << 64 | 0xfeed);
    let geometry = Geometry::new(2, SET_SIZE, len as u64);
    let mix =
        |at: usize| ((at as u64 + 1 + (n << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8;
    let body: Vec<u8> = (0..len).map(mix).collect();
    let salts: Vec<Salt> =
        (0..SET_SIZE).map(|s| Salt { operation, drive: DRIVE, shard: ShardIndex(s) }).collect();
    let shard = encode_body(&geometry, &body, &salts).swap_remove(SHARD.get());
    let entry = Entry {
        ballot,
        order: ballot,
        operation,
        kind: EntryKind::Put,
        geometry,
        metadata: Bytes::from_static(b"meta"),
        parts: Vec::new(),
    };
    Object { key: RegisterKey::object(BUCKET.id, format!("k{n}")), entry, shard }
}

thread_local! {
    /// The set epoch that this test's requests carry.
    static EPOCH: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

fn scope() -> Scope {
    Scope { bucket: BUCKET, set: SetIndex(0), set_epoch: SetEpoch(EPOCH.get()) }
}

fn options() -> DriveOptions {
    DriveOptions {
        segment_bytes: 1 << 20,
        volumes: VolumeSizes { first: 4 << 20, max: 4 << 20, reserve: 0 },
        ..DriveOptions::default()
    }
}

/// So long segments that nothing goes into a run before it is told to.
fn patient() -> DriveOptions {
    DriveOptions { segment_bytes: 48 << 20, ..options() }
}

impl Rig {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: DriveOptions) -> Self {
        let sim = SimDisk::new(1 << 30);
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let identity = Identity {
            drive: DRIVE,
            cluster: ClusterId(0xc),
            set: Some(SetIndex(0)),
            formatted_at: 1,
        };
        Drive::format(&disk, &identity, &options).unwrap();
        let clock = ManualClock::at(START_MICROS);
        let drive = Drive::open(disk, options.clone(), Arc::new(clock.clone())).unwrap();
        Self { uploads_all: false, options, sim, clock, drive }
    }

    fn reopen(&mut self) {
        let disk: Arc<dyn Disk> = Arc::new(self.sim.clone());
        let options = self.options.clone();
        self.drive = Drive::open(disk, options, Arc::new(self.clock.clone())).unwrap();
    }

    /// Two manifests on: replay needs nothing any more of what was written so far.
    fn checkpoint_twice(&mut self) {
        for filler in [object(9001, 100), object(9002, 100)] {
            self.drive.begin_checkpoint();
            self.drive.flush();
            run_jobs(&mut self.drive);
            self.put(&filler);
        }
    }

    fn call(&mut self, request: DriveRequest) -> DriveResult {
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        self.drive.handle(request, Box::new(move |r| *filled.lock().unwrap() = Some(r)));
        loop {
            let jobs = self.drive.take_load_jobs();
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                let outcome = job.run();
                self.drive.loaded(outcome);
            }
        }
        for job in self.drive.take_read_jobs() {
            job.run();
        }
        self.drive.flush();
        run_jobs(&mut self.drive);
        let answer = slot.lock().unwrap().take();
        answer.expect("answered once all that it waits for is done")
    }

    fn source(&self, object: &Object) -> ShardSource {
        if object.shard.len() <= 64 << 10 && !self.uploads_all {
            return ShardSource::Inline(object.shard.clone());
        }
        let target = UploadTarget {
            drive: DRIVE,
            scope: scope(),
            key: object.key.clone(),
            operation: object.entry.operation,
            shard: SHARD,
            geometry: object.entry.geometry,
        };
        let mut upload = self.drive.upload_port().begin(&target).unwrap();
        upload.write(&object.shard).unwrap();
        ShardSource::Upload(upload.finish().unwrap())
    }

    /// Accepts and settles an object, held by all drives of its set.
    fn put(&mut self, object: &Object) {
        self.accept(object);
        self.settle(object);
    }

    fn accept(&mut self, object: &Object) {
        let (source, status) = match object.entry.geometry.has_data() {
            true => (self.source(object), ShardStatus::Present),
            false => (ShardSource::NoData, ShardStatus::NoData),
        };
        let accept = Accept {
            scope: scope(),
            key: object.key.clone(),
            version: VersionId::NULL,
            entry: object.entry.clone(),
            shard: SHARD,
            source,
            guard: None,
        };
        let accepted = self.call(DriveRequest::Accept(accept));
        assert_eq!(accepted, Ok(DriveReply::Accepted(status)));
    }

    fn settle(&mut self, object: &Object) {
        let settle = Settle {
            scope: scope(),
            key: object.key.clone(),
            version: VersionId::NULL,
            operation: object.entry.operation,
            holders: HolderMask::full(SET_SIZE),
            set_size: SET_SIZE,
        };
        assert_eq!(self.call(DriveRequest::Settle(settle)), Ok(DriveReply::Done));
    }

    fn install(&mut self, object: &Object, source: ShardSource) -> DriveResult {
        self.call(DriveRequest::Install(Install {
            scope: scope(),
            key: object.key.clone(),
            version: VersionId::NULL,
            entry: object.entry.clone(),
            shard: SHARD,
            source,
            holders: HolderMask::full(SET_SIZE),
        }))
    }

    fn verify(&mut self, object: &Object) -> DriveResult {
        self.verify_of(object, object.entry.operation)
    }

    /// Looks at the shard of an operation that the object names.
    fn verify_of(&mut self, object: &Object, operation: OperationId) -> DriveResult {
        self.call(DriveRequest::Verify(Verify {
            scope: scope(),
            key: object.key.clone(),
            version: VersionId::NULL,
            operation,
            shard: SHARD,
        }))
    }

    /// Brings the shard of a part that the object names.
    fn restock(&mut self, object: &Object, part: &Object, source: ShardSource) -> DriveResult {
        self.call(DriveRequest::Member(MemberRequest::Restock(Restock {
            scope: scope(),
            key: object.key.clone(),
            version: VersionId::NULL,
            operation: part.entry.operation,
            geometry: part.entry.geometry,
            shard: SHARD,
            source,
        })))
    }

    /// Blocks of a shard, if they can be read.
    fn blocks(&mut self, object: &Object, first: u64, count: u64) -> Option<Bytes> {
        let read = ShardRead {
            drive: DRIVE,
            scope: scope(),
            operation: object.entry.operation,
            shard: SHARD,
            geometry: object.entry.geometry,
            first_block: first,
            block_count: count,
        };
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        self.drive.open_shard(&read, Box::new(move |r| *filled.lock().unwrap() = Some(r)));
        for job in self.drive.take_load_jobs() {
            let outcome = job.run();
            self.drive.loaded(outcome);
        }
        let reader = slot.lock().unwrap().take().expect("what it rests on is durable").ok()?;
        reader.read(first, count).ok()
    }

    fn whole(&mut self, object: &Object) -> bool {
        let count = object.entry.geometry.stripe_count();
        self.blocks(object, 0, count).is_some_and(|bytes| bytes == object.shard)
    }

    /// The status of the shard, as a coordinator is shown it, and what rides along inline.
    fn shown(&mut self, object: &Object) -> (ShardStatus, usize) {
        let (scope, key) = (scope(), object.key.clone());
        let read = DriveRequest::Read(Read { scope, key, version: None, inline: true });
        let Ok(DriveReply::View { view, inline }) = self.call(read) else { panic!("no view") };
        let register = &view.registers[&VersionId::NULL];
        (register.of_operation(object.entry.operation).unwrap().shard, inline.len())
    }

    fn repairs(&mut self) -> Vec<(OperationId, HolderMask)> {
        let (kind, after) = (ChoreKind::Repairs, None);
        let list = ListChores { kind, age_micros: 0, after, limit: 10 };
        let Ok(DriveReply::Chores(chores)) = self.call(DriveRequest::ListChores(list)) else {
            panic!("no chores")
        };
        chores.into_iter().map(|chore| (chore.operation, chore.missing)).collect()
    }

    /// Flips a bit in the largest run, in its second block: registers. Returns the run's path.
    fn rot_run(&self) -> String {
        let files = self.sim.files();
        let len = |path: &&String| self.sim.open(path, Access::Cached).unwrap().len().unwrap();
        let largest = files.iter().filter(|path| path.ends_with(".run")).max_by_key(len).unwrap();
        assert!(len(&largest) > 100_000, "{} bytes are too few blocks", len(&largest));
        self.sim.rot(largest, 50_000, 0x10);
        largest.clone()
    }

    /// Whether the entry of an object is shown; `None` when the drive fails to say.
    fn held(&mut self, object: &Object) -> Option<bool> {
        let read = Read { scope: scope(), key: object.key.clone(), version: None, inline: false };
        match self.call(DriveRequest::Read(read)) {
            Ok(DriveReply::View { view, .. }) => {
                let register = view.registers.get(&VersionId::NULL);
                Some(register.is_some_and(|r| r.of_operation(object.entry.operation).is_some()))
            }
            Err(DriveError::Failed { class: ErrorClass::Damaged, .. }) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Flips a bit of the shard's byte `at`, wherever on the disk it lies. False when it is nowhere.
    fn rot(&self, object: &Object, at: usize) -> bool {
        let from = at / 1024 * 1024;
        let sample = &object.shard[from..object.shard.len().min(from + 1024)];
        for path in self.sim.files().iter().filter(|p| p.ends_with(".seg") || p.ends_with(".vol")) {
            let file = self.sim.open(path, Access::Cached).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(0, &mut bytes).unwrap();
            if let Some(found) = bytes.windows(sample.len()).position(|w| w == sample) {
                self.sim.rot(path, (found + at - from) as u64, 0x10);
                return true;
            }
        }
        false
    }
}

/// Goal: a rotten shard, inline or in a volume, is recorded as missing: it holds no more, is listed for
/// repair, and stays so over a restart; its good blocks are still served; and a new copy makes it
/// whole and gives the old blocks back. Method: both kinds, one bit flipped on the medium.
#[test]
fn rot_is_recorded_and_healed() {
    for (n, len) in [(1, 9_000), (2, 700_000)] {
        let mut rig = Rig::new();
        let object = object(n, len);
        let operation = object.entry.operation;
        rig.put(&object);
        rig.checkpoint_twice();
        assert!(rig.rot(&object, object.shard.len() - 30), "the last block rots");
        assert!(!rig.whole(&object), "a rotten block is never served");
        assert_eq!(rig.verify(&object), Ok(DriveReply::Accepted(ShardStatus::Missing)), "{len}");
        for restarted in [false, true] {
            assert_eq!(rig.shown(&object), (ShardStatus::Missing, 0), "{len} {restarted}");
            let missing = HolderMask::default().with(SHARD.0);
            assert_eq!(rig.repairs(), [(operation, missing)], "{len} {restarted}");
            assert_eq!(rig.drive.facts().repairs, 1);
            rig.drive.audit().unwrap();
            if object.entry.geometry.stripe_count() > 1 {
                let first = rig.blocks(&object, 0, 1).expect("INV-ROT-1: good blocks stay");
                assert_eq!(first[..], object.shard[..first.len()]);
            }
            let held = rig.install(&object, ShardSource::Held);
            assert_eq!(held, Ok(DriveReply::Accepted(ShardStatus::Missing)), "nothing to offer");
            rig.reopen();
        }
        let source = rig.source(&object);
        let healed = rig.install(&object, source);
        assert_eq!(healed, Ok(DriveReply::Accepted(ShardStatus::Present)), "{len}");
        for _ in 0..2 {
            assert!(rig.whole(&object), "{len}");
            assert_eq!(rig.shown(&object).0, ShardStatus::Present);
            assert_eq!((rig.repairs().len(), rig.drive.facts().repairs), (0, 0));
            rig.drive.audit().unwrap();
            rig.drive.audit_blocks().unwrap();
            rig.reopen();
        }
    }
}

/// An object of two parts.
fn made_of(n: u64, parts: &[Object]) -> Object {
    let part = |(at, part): (usize, &Object)| PartRef {
        number: at as u16 + 1,
        operation: part.entry.operation,
        geometry: part.entry.geometry,
    };
    let parts = parts.iter().enumerate().map(part).collect();
    let bare = object(n, 0);
    Object { entry: Entry { parts, ..bare.entry }, ..bare }
}

/// Goal: rot in a part makes the object that names it short, settled or (with the next report) settled
/// since: it is listed for repair, over restarts, too, and neither an Install nor one of two lost parts
/// makes it whole, only both. Method: an object of an inline part and one in a volume, both rot, one
/// before the object is settled.
#[test]
fn rot_in_a_part_makes_its_object_short_until_all_parts_are_here() {
    let mut rig = Rig::new();
    let parts = [object(1, 9_000), object(2, 700_000)];
    parts.iter().for_each(|part| rig.put(part));
    let whole = made_of(3, &parts);
    rig.accept(&whole);
    rig.checkpoint_twice();
    let [first, second] = &parts;
    let (one, two) = (first.entry.operation, second.entry.operation);
    let missing = Ok(DriveReply::Accepted(ShardStatus::Missing));
    assert!(rig.rot(first, 100) && rig.rot(second, second.shard.len() - 30));
    assert_eq!(rig.verify_of(&whole, one), missing);
    assert_eq!(rig.shown(&whole).0, ShardStatus::NoData, "an open entry stays as it is");
    rig.settle(&whole);
    assert_eq!(rig.verify_of(&whole, one), missing);
    let repair = (whole.entry.operation, HolderMask::default().with(SHARD.0));
    for part in [two, one] {
        assert_eq!(rig.verify_of(&whole, part), missing);
        assert_eq!(rig.shown(&whole).0, ShardStatus::Missing);
        assert_eq!(rig.repairs(), [repair]);
        rig.drive.audit().unwrap();
        rig.reopen();
    }
    let sources = [rig.source(second), rig.source(first)];
    for (part, source) in [second, first].into_iter().zip(sources) {
        assert_eq!(rig.install(&whole, ShardSource::NoData), missing);
        assert_eq!(rig.restock(&whole, part, ShardSource::Held), missing);
        let present = Ok(DriveReply::Accepted(ShardStatus::Present));
        assert_eq!(rig.restock(&whole, part, source), present);
    }
    let healed = Ok(DriveReply::Accepted(ShardStatus::NoData));
    assert_eq!(rig.install(&whole, ShardSource::NoData), healed);
    for _ in 0..2 {
        assert!(parts.iter().all(|part| rig.whole(part)));
        assert_eq!(rig.shown(&whole).0, ShardStatus::NoData);
        assert_eq!((rig.repairs().len(), rig.drive.facts().repairs), (0, 0));
        rig.drive.audit().unwrap();
        rig.drive.audit_blocks().unwrap();
        rig.reopen();
    }
}

/// Goal: a drive takes nobody's word: a shard that verifies stays, and costs no record. Method: many
/// false alarms about two shards at once, counted in batches of the log.
#[test]
fn a_false_alarm_changes_nothing() {
    let mut rig = Rig::new();
    let objects = [object(1, 9_000), object(2, 700_000)];
    for object in &objects {
        rig.put(object);
    }
    let syncs = rig.drive.facts().syncs;
    for object in objects.iter().cycle().take(20) {
        assert_eq!(rig.verify(object), Ok(DriveReply::Accepted(ShardStatus::Present)));
    }
    assert_eq!(rig.drive.facts().syncs, syncs, "nothing was written");
    assert!(objects.iter().all(|object| rig.whole(object)));
    let mut stranger = objects[0].clone();
    stranger.entry.operation = OperationId(5);
    assert_eq!(rig.verify(&stranger), Ok(DriveReply::Done), "an operation that nobody names");
}

/// Goal: rot in an old segment of the log, behind manifest and checkpoint, is a missing inline shard
/// and nothing worse. Method: a checkpoint, a restart, one shard of three rots; the others stay.
#[test]
fn rot_in_an_old_segment_is_a_missing_inline_shard() {
    let mut rig = Rig::new();
    let objects: Vec<Object> = (1..=3).map(|n| object(n, 20_000)).collect();
    for object in &objects {
        rig.put(object);
    }
    rig.checkpoint_twice();
    assert!(rig.rot(&objects[1], 100));
    rig.reopen();
    for object in &objects {
        let expected =
            if object.key == objects[1].key { ShardStatus::Missing } else { ShardStatus::Present };
        assert_eq!(rig.verify(object), Ok(DriveReply::Accepted(expected)));
    }
    assert_eq!(rig.repairs().len(), 1);
    rig.drive.audit().unwrap();
}
