//! The node with drives that hang, panic and are killed: what it costs the others, and what comes
//! back.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::{Accept, DriveReply, DriveRequest, DriveResult, Read, Scope, ShardSource},
    disk::{Access, Disk, DiskError, DiskFile, Space},
    disk_sim::SimDisk,
    node::Node,
    supervisor::{NodeConfig, NodeHandle, NodeLimits, Seat, start_supervisor},
    volume::VolumeSizes,
};
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, DriveState, Entry,
    EntryKind, ErrorClass, Geometry, HybridTime, OperationId, RegisterKey, SetEpoch, SetIndex,
    ShardIndex, VersionId, WriterId, limits, seam::ManualClock,
};

const CLUSTER: ClusterId = ClusterId(1);
const START_MICROS: u64 = 1_700_000_000_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// A simulated disk that panics on demand, as a defect of ours would.
struct Moody {
    inner: SimDisk,
    panics: Arc<AtomicBool>,
}

impl Moody {
    fn mood(&self) {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "planned panic");
    }
}

impl Disk for Moody {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn local_path(&self) -> Option<&Path> {
        None
    }
    fn open(&self, path: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.inner.open(path, access)
    }
    fn create(&self, path: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.inner.create(path, access)
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.inner.remove(path)
    }
    fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        self.inner.list(folder)
    }
    fn create_dir(&self, folder: &str) -> Result<(), DiskError> {
        self.inner.create_dir(folder)
    }
    fn sync_dir(&self, folder: &str) -> Result<(), DiskError> {
        self.inner.sync_dir(folder)
    }
    fn space(&self) -> Result<Space, DiskError> {
        self.mood();
        self.inner.space()
    }
}

/// Two drives on one Arbiter, and the strings to pull.
struct Stage {
    node: NodeHandle,
    disks: Vec<SimDisk>,
    panics: Vec<Arc<AtomicBool>>,
}

fn options() -> DriveOptions {
    DriveOptions {
        segment_bytes: 1 << 20,
        volumes: VolumeSizes { first: 1 << 20, max: 4 << 20, reserve: 0 },
        ..DriveOptions::default()
    }
}

async fn stage(operations: usize) -> Stage {
    stage_with(operations, options()).await
}

async fn stage_with(operations: usize, options: DriveOptions) -> Stage {
    let clock = ManualClock::at(START_MICROS);
    let hand = clock.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(1));
            hand.advance_micros(1_000);
        }
    });
    let disks: Vec<_> = (0..2).map(|_| SimDisk::new(1 << 40)).collect();
    let panics: Vec<_> = (0..2).map(|_| Arc::new(AtomicBool::new(false))).collect();
    let mut seats = Vec::new();
    for (n, (disk, panics)) in disks.iter().zip(&panics).enumerate() {
        let drive = DriveId(n as u128 + 1);
        let set = Some(SetIndex(0));
        let identity = Identity { drive, cluster: CLUSTER, set, formatted_at: START_MICROS };
        let dynamic: Arc<dyn Disk> = Arc::new(disk.clone());
        Drive::format(&dynamic, &identity, &options).unwrap();
        let (inner, panics) = (disk.clone(), Arc::clone(panics));
        let make = move || {
            let (inner, panics) = (inner.clone(), Arc::clone(&panics));
            Ok(Arc::new(Moody { inner, panics }) as Arc<dyn Disk>)
        };
        seats.push(Seat { path: format!("sim{n}"), disk: Arc::new(make), expected: Some(drive) });
    }
    let limits = NodeLimits { operations, io_threads: 2, ..NodeLimits::default() };
    let config = NodeConfig {
        remembered: std::sync::Arc::new(|_| 0),
        name: "sim".to_owned(),
        cluster: CLUSTER,
        seats,
        options,
        limits,
        arbiters: Some(1),
        clock: Arc::new(clock),
    };
    let node = start_supervisor(config).unwrap();
    assert!(node.opened(PATIENCE).await);
    Stage { node, disks, panics }
}

fn scope() -> Scope {
    let bucket = BucketStamp { id: BucketId(5), epoch: BucketEpoch(1), phase: BucketPhase::Live };
    Scope { bucket, set: SetIndex(0), set_epoch: SetEpoch(0) }
}

fn accept(n: u64) -> DriveRequest {
    let time = HybridTime(HybridTime::from_micros(START_MICROS).0 + n);
    let ballot = Ballot { generation: 1, time, writer: WriterId(3) };
    let entry = Entry {
        ballot,
        order: ballot,
        operation: OperationId(u128::from(n) + 1),
        kind: EntryKind::Put,
        geometry: Geometry::EMPTY,
        metadata: bytes::Bytes::from_static(b"meta"),
        parts: Vec::new(),
    };
    DriveRequest::Accept(Accept {
        scope: scope(),
        key: key(n),
        version: VersionId::NULL,
        entry,
        shard: ShardIndex(0),
        source: ShardSource::NoData,
        guard: None,
    })
}

fn key(n: u64) -> RegisterKey {
    RegisterKey::object(BucketId(5), format!("key {n}"))
}

async fn one(node: &dyn Node, drive: u128, request: DriveRequest, wait: Duration) -> DriveResult {
    node.call(wait, vec![(DriveId(drive), request)]).await.remove(0)
}

fn is_done(result: &DriveResult) -> bool {
    matches!(result, Ok(DriveReply::Accepted(_)))
}

async fn holds(node: &dyn Node, drive: u128, n: u64) -> bool {
    let read = Read { scope: scope(), key: key(n), version: None, inline: false };
    let result = one(node, drive, DriveRequest::Read(read), PATIENCE).await;
    matches!(result, Ok(DriveReply::View { view, .. }) if !view.registers.is_empty())
}

/// Goal: INV-ACTOR-1: a hung drive costs its siblings nothing, calls to it end at their deadline, what
/// waits is bounded. Method: hang one of two simulated devices on the same Arbiter for longer than
/// several ticks; use up the permits; let it go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_drive_costs_the_others_nothing() {
    let stage = stage(limits::BATCH_REQUESTS_MAX).await;
    let node = stage.node.node();
    assert!(is_done(&one(&*node, 1, accept(1), PATIENCE).await));
    stage.disks[0].hang();
    let short = Duration::from_millis(100);
    for n in 2..12 {
        let late = one(&*node, 1, accept(n), short).await.unwrap_err();
        assert_eq!(late.class(), ErrorClass::TimedOut);
        assert!(is_done(&one(&*node, 2, accept(n), PATIENCE).await), "the sibling serves");
    }
    stage.disks[0].resume();
    assert!(is_done(&one(&*node, 1, accept(50), PATIENCE).await));
    for n in 2..12 {
        assert!(holds(&*node, 2, n).await);
    }
    assert!(stage.node.shutdown(PATIENCE).await);
}

/// Goal: a device that hangs in a look-up below the overlay holds its own drive alone. Method: both
/// drives' state is in runs, by small overlays; one device hangs, keys of it are read and overwritten;
/// its sibling on the same Arbiter answers at once meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_look_up_holds_its_own_drive_alone() {
    let small = DriveOptions { overlay_bytes_max: 8 << 10, ..options() };
    let stage = stage_with(limits::BATCH_REQUESTS_MAX, small).await;
    let node = stage.node.node();
    for n in 0..40 {
        for drive in [1, 2] {
            // Refused while the overlay waits to become a run.
            while !is_done(&one(&*node, drive, accept(n), PATIENCE).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    let runs = |disk: &SimDisk| disk.files().iter().filter(|f| f.ends_with(".run")).count();
    let mut waited = 0;
    while runs(&stage.disks[0]) == 0 || runs(&stage.disks[1]) == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += 1;
        assert!(waited < 500, "no checkpoint came");
    }
    // The checkpoint ends a while after its file is there.
    tokio::time::sleep(Duration::from_millis(600)).await;
    stage.disks[0].hang();
    let mut late = Vec::new();
    for n in 0..10 {
        let read = Read { scope: scope(), key: key(n), version: None, inline: false };
        for request in [DriveRequest::Read(read), accept(100 + n)] {
            let node = Arc::clone(&node);
            let wait = Duration::from_millis(400);
            late.push(tokio::spawn(async move { one(&*node, 1, request, wait).await }));
        }
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    for n in 0..40 {
        let began = std::time::Instant::now();
        assert!(holds(&*node, 2, n).await);
        // Its overlay may be full for a while: what counts is that it answers.
        drop(one(&*node, 2, accept(1_000 + n), PATIENCE).await);
        assert!(began.elapsed() < Duration::from_millis(250), "the sibling waits");
    }
    for late in late {
        assert_eq!(late.await.unwrap().unwrap_err().class(), ErrorClass::TimedOut);
    }
    stage.disks[0].resume();
    for n in 0..40 {
        assert!(holds(&*node, 1, n).await);
    }
    assert!(stage.node.shutdown(PATIENCE).await);
}

/// Goal: admission is bounded by drive, so that a hung one leaves the others their part, and a refusal
/// is typed. Method: eight permits, two of them a drive's share; calls to a hung drive beyond its share
/// are refused at once, its sibling serves; permits come back at the deadline though the device hangs
/// on; what is still under way there counts until the drive lets go of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_drive_holds_its_share_alone() {
    let stage = stage(8).await;
    let node = stage.node.node();
    stage.disks[0].hang();
    let wait = Duration::from_millis(300);
    let calls: Vec<_> = (0..2)
        .map(|n| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { one(&*node, 1, accept(n), wait).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for n in 0..20 {
        let refused = one(&*node, 1, accept(50 + n), PATIENCE).await.unwrap_err();
        assert_eq!(refused.class(), ErrorClass::Overloaded);
        assert!(is_done(&one(&*node, 2, accept(n), PATIENCE).await), "its sibling serves");
    }
    let too_many = (0..9).map(|n| (DriveId(2), accept(n))).collect();
    let refused = node.call(PATIENCE, too_many).await;
    assert!(refused.iter().all(|r| r.as_ref().unwrap_err().class() == ErrorClass::Overloaded));
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().class(), ErrorClass::TimedOut);
    }
    let refused = one(&*node, 1, accept(90), PATIENCE).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Overloaded, "two are still under way at the drive");
    stage.disks[0].resume();
    let mut waits = 0;
    while !is_done(&one(&*node, 1, accept(100), PATIENCE).await) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waits += 1;
        assert!(waits < 100);
    }
    assert!(stage.node.shutdown(PATIENCE).await);
}

/// Goal: a drive whose device hangs is suspect, with a reason, and says so though its device does not
/// answer; afterwards it is healthy again. Its sibling is healthy all the time, and quick: nearly all
/// its answers take less than a tenth of what the hang lasts. Method: hang one of two devices for some
/// windows while both are written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_drive_is_suspect_and_slows_nobody() {
    let stage = stage(limits::BATCH_REQUESTS_MAX).await;
    let node = stage.node.node();
    stage.disks[0].hang();
    let hung = Arc::clone(&node);
    let writer = tokio::spawn(async move { one(&*hung, 1, accept(1), PATIENCE).await });
    let state = |at: usize| {
        let handle = stage.node.clone();
        async move { handle.drives(PATIENCE).await.remove(at) }
    };
    let mut took = Vec::new();
    let began = std::time::Instant::now();
    let mut n = 0;
    while state(0).await.state != DriveState::Suspect {
        let one_began = std::time::Instant::now();
        assert!(is_done(&one(&*node, 2, accept(n), PATIENCE).await));
        took.push(one_began.elapsed());
        n += 1;
        assert!(began.elapsed() < Duration::from_secs(20), "it should be suspect");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(state(0).await.reason.contains("siblings"));
    assert_eq!(state(1).await.state, DriveState::Healthy);
    took.sort();
    assert!(took[took.len() * 9 / 10] < Duration::from_millis(200), "{:?}", took.last());
    stage.disks[0].resume();
    assert!(is_done(&writer.await.unwrap()));
    let began = std::time::Instant::now();
    while state(0).await.state != DriveState::Healthy {
        assert!(began.elapsed() < Duration::from_secs(30), "it should be well again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(stage.node.shutdown(PATIENCE).await);
}

/// Goal: a panic in a drive is nobody else's, and it comes back from disk with all it acknowledged;
/// one that panics again and again is faulty. Method: let it panic in its tick, write between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_that_panics_is_opened_again() {
    let stage = stage(1_000).await;
    let node = stage.node.node();
    for round in 0..4 {
        assert!(is_done(&one(&*node, 1, accept(round), PATIENCE).await));
        let opens = open_count(&stage.node).await;
        stage.panics[0].store(true, Ordering::SeqCst);
        let mut waits = 0;
        while open_count(&stage.node).await.is_none_or(|now| Some(now) <= opens) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(is_done(&one(&*node, 2, accept(1_000 + round * 200 + waits), PATIENCE).await));
            waits += 1;
            assert!(waits < 199, "it does not come back");
        }
        for n in 0..=round {
            assert!(holds(&*node, 1, n).await, "write {n} is lost in round {round}");
        }
    }
    stage.panics[0].store(true, Ordering::SeqCst);
    let mut waits = 0;
    while stage.node.drives(PATIENCE).await[0].state != DriveState::Faulty {
        tokio::time::sleep(Duration::from_millis(50)).await;
        waits += 1;
        assert!(waits < 200, "it should be given up");
    }
    let refused = one(&*node, 1, accept(99), PATIENCE).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Unavailable);
    assert!(is_done(&one(&*node, 2, accept(99), PATIENCE).await));
    assert!(stage.node.shutdown(PATIENCE).await);
}

/// How often drive 1 was opened; `None` while it is not open.
async fn open_count(node: &NodeHandle) -> Option<u64> {
    let facts = node.drives(PATIENCE).await.remove(0);
    (facts.state == DriveState::Healthy).then_some(facts.open_count)
}
