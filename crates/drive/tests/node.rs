//! The node on real folders: actors, log threads, I/O threads and carrier together.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::{Accept, DriveError, DriveReply, DriveRequest, Prepare, Read, Scope, ShardSource},
    conformance::Rig,
    disk::Disk,
    disk_real::RealDisk,
    node::Node,
    supervisor::{NodeConfig, NodeHandle, NodeLimits, Seat, start_supervisor},
    volume::VolumeSizes,
};
use holdfast_erasure::{Salt, encode_body};
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, DriveState, Entry,
    EntryKind, ErrorClass, Geometry, HybridTime, OperationId, RegisterKey, SetEpoch, SetIndex,
    ShardIndex, VersionId, WriterId, seam::ManualClock,
};

const CLUSTER: ClusterId = ClusterId(1);
const START_MICROS: u64 = 1_700_000_000_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn scope() -> Scope {
    let bucket = BucketStamp { id: BucketId(5), epoch: BucketEpoch(1), phase: BucketPhase::Live };
    Scope { bucket, set: SetIndex(0), set_epoch: SetEpoch(0) }
}

/// A clock that runs: real time is not for tests of this crate to ask for.
fn running_clock() -> ManualClock {
    let clock = ManualClock::at(START_MICROS);
    let hand = clock.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(1));
            hand.advance_micros(1_000);
        }
    });
    clock
}

fn options() -> DriveOptions {
    DriveOptions {
        segment_bytes: 4 << 20,
        volumes: VolumeSizes { first: 16 << 20, max: 64 << 20, reserve: 0 },
        ..DriveOptions::default()
    }
}

fn format(path: &Path, drive: DriveId, cluster: ClusterId) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(path).unwrap());
    let identity = Identity { drive, cluster, set: Some(SetIndex(0)), formatted_at: START_MICROS };
    Drive::format(&disk, &identity, &options()).unwrap();
}

fn seat(path: PathBuf, expected: Option<DriveId>) -> Seat {
    let named = path.display().to_string();
    let disk = move || RealDisk::new(&path).map(|disk| Arc::new(disk) as Arc<dyn Disk>);
    Seat { path: named, disk: Arc::new(disk), expected }
}

fn config(seats: Vec<Seat>, clock: &ManualClock) -> NodeConfig {
    NodeConfig {
        remembered: Arc::new(|_| 0),
        name: "http://node1:9000".to_owned(),
        cluster: CLUSTER,
        seats,
        options: options(),
        limits: NodeLimits { io_threads: 2, ..NodeLimits::default() },
        arbiters: None,
        clock: Arc::new(clock.clone()),
    }
}

/// `count` formatted folders, drives 1 and up.
fn folders(root: &Path, count: u128) -> Vec<Seat> {
    let make = |n: u128| {
        let path = root.join(format!("drive{n}"));
        std::fs::create_dir(&path).unwrap();
        format(&path, DriveId(n), CLUSTER);
        seat(path, Some(DriveId(n)))
    };
    (1..=count).map(make).collect()
}

fn reopened(root: &Path, count: u128) -> Vec<Seat> {
    (1..=count).map(|n| seat(root.join(format!("drive{n}")), Some(DriveId(n)))).collect()
}

async fn start(seats: Vec<Seat>, clock: &ManualClock) -> NodeHandle {
    let node = start_supervisor(config(seats, clock)).unwrap();
    assert!(node.opened(PATIENCE).await);
    node
}

/// The local carrier passes the suite of its trait. On four folders, one Arbiter and two.
#[tokio::test]
async fn the_local_node_conforms() {
    for arbiters in [1, 2] {
        let root = tempfile::tempdir().unwrap();
        let clock = running_clock();
        let mut config = config(folders(root.path(), 4), &clock);
        config.arbiters = Some(arbiters);
        let node = start_supervisor(config).unwrap();
        assert!(node.opened(PATIENCE).await);
        let drives = (1..=4).map(DriveId).collect();
        let rig = Rig { node: node.node(), drives, scope: scope(), now_micros: START_MICROS };
        rig.check().await;
        assert!(node.shutdown(PATIENCE).await);
        let refused = rig.node.call(PATIENCE, vec![(DriveId(1), DriveRequest::Facts)]).await;
        assert!(matches!(&refused[0], Ok(DriveReply::Facts(f)) if f.state == DriveState::Offline));
    }
}

struct Write {
    key: RegisterKey,
    entry: Entry,
    shards: Vec<Bytes>,
}

/// A body of 10 KiB for four drives.
fn write(n: u64) -> Write {
    let time = HybridTime(HybridTime::from_micros(START_MICROS).0 + n);
    let ballot = Ballot { generation: 1, time, writer: WriterId(3) };
    let operation = OperationId(u128::from(n) + 1_000);
    let geometry = Geometry::new(2, 4, 10 << 10);
    let salts: Vec<Salt> = (0..4_u8)
        .map(|i| Salt { operation, drive: DriveId(u128::from(i) + 1), shard: ShardIndex(i) })
        .collect();
    let shards = encode_body(&geometry, &vec![n as u8; 10 << 10], &salts);
    let entry = Entry {
        ballot,
        order: ballot,
        operation,
        kind: EntryKind::Put,
        geometry,
        metadata: Bytes::from_static(b"meta"),
        parts: Vec::new(),
    };
    Write { key: RegisterKey::object(BucketId(5), format!("key {n:06}")), entry, shards }
}

async fn put(node: &dyn Node, write: &Write) {
    let accept = |shard: usize| {
        DriveRequest::Accept(Accept {
            scope: scope(),
            key: write.key.clone(),
            version: VersionId::NULL,
            entry: write.entry.clone(),
            shard: ShardIndex(shard as u8),
            source: ShardSource::Inline(write.shards[shard].clone()),
            guard: None,
        })
    };
    // Drives whose overlay is full refuse for a moment; a coordinator repeats, accepts are idempotent.
    for _ in 0..400 {
        let batch = (0..4).map(|shard| (DriveId(shard as u128 + 1), accept(shard))).collect();
        let answers = node.call(PATIENCE, batch).await;
        if answers.iter().all(|answer| matches!(answer, Ok(DriveReply::Accepted(_)))) {
            return;
        }
        let crowded = |e: &DriveError| e.class() == ErrorClass::Overloaded;
        assert!(answers.iter().all(|a| a.as_ref().err().is_none_or(crowded)), "{answers:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the drives stay overloaded");
}

async fn holds(node: &dyn Node, write: &Write) -> bool {
    let read = |drive| {
        let (scope, key) = (scope(), write.key.clone());
        (DriveId(drive), DriveRequest::Read(Read { scope, key, version: None, inline: true }))
    };
    let answers = node.call(PATIENCE, (1..=4).map(read).collect()).await;
    let right = |(answer, shard): (&_, &Bytes)| match answer {
        Ok(DriveReply::View { view, inline }) => {
            let register = view.registers.get(&VersionId::NULL);
            let head = register.and_then(|register| register.head());
            head.is_some_and(|head| head.entry == write.entry)
                && inline.iter().any(|inline| inline.bytes == *shard)
        }
        _ => false,
    };
    answers.iter().zip(&write.shards).all(right)
}

/// Goal: group commit, and durability of what was answered. Method: 64 writers put 640 small bodies on
/// four drives; the drives' own count of syncs must stay far below the accepts; then the node ends
/// and starts again, and everything is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_accepts_share_syncs_and_survive_a_restart() {
    const WRITERS: u64 = 64;
    const EACH: u64 = 10;
    let root = tempfile::tempdir().unwrap();
    let clock = running_clock();
    let node = start(folders(root.path(), 4), &clock).await;
    let before = syncs(&node).await;
    let writers = (0..WRITERS).map(|writer| {
        let local = node.node();
        tokio::spawn(async move {
            for n in 0..EACH {
                put(&*local, &write(writer * EACH + n)).await;
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    let spent = syncs(&node).await - before;
    let accepts = WRITERS * EACH * 4;
    assert!(spent * 3 < accepts, "{spent} syncs for {accepts} accepts");
    assert!(spent >= 4, "answers rest on syncs");
    assert!(node.shutdown(PATIENCE).await);
    drop(node);
    let node = start(reopened(root.path(), 4), &clock).await;
    let local = node.node();
    for n in 0..WRITERS * EACH {
        assert!(holds(&*local, &write(n)).await, "write {n} is lost");
    }
    assert!(node.shutdown(PATIENCE).await);
}

/// Copies a folder, the manifests before all else: what either names is not changed (INV-MANIFEST-1), so a
/// checkpoint that ends while the rest is copied does no harm, as it would if its manifest came with an
/// older log.
fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut items: Vec<_> = std::fs::read_dir(from).unwrap().map(Result::unwrap).collect();
    items.sort_by_key(|item| item.file_name() != "manifest");
    for item in items {
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_tree(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}

/// Goal: what was answered is on the media at that moment, as for a process that is killed. Method:
/// writers go on while the folders are copied under the running node, drive after drive; what had
/// been answered before the copies began is all there in a node on the copies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_kill() {
    let (root, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = running_clock();
    let node = start(folders(root.path(), 4), &clock).await;
    let local = node.node();
    for n in 0..60 {
        put(&*local, &write(n)).await;
    }
    let writer = tokio::spawn(async move {
        for n in 60..400 {
            put(&*local, &write(n)).await;
        }
    });
    let (from, to) = (root.path().to_owned(), copies.path().to_owned());
    tokio::task::spawn_blocking(move || {
        for drive in 1..=4 {
            let name = format!("drive{drive}");
            copy_tree(&from.join(&name), &to.join(&name));
            // A killed node's sled is whatever it is.
            let _ = std::fs::remove_dir_all(to.join(&name).join("index"));
        }
    })
    .await
    .unwrap();
    writer.await.unwrap();
    assert!(node.shutdown(PATIENCE).await);
    let node = start(reopened(copies.path(), 4), &clock).await;
    let local = node.node();
    for n in 0..60 {
        assert!(holds(&*local, &write(n)).await, "write {n} is lost");
    }
    assert!(node.shutdown(PATIENCE).await);
}

/// Goal: "delete or scribble the sled directory, restart, nothing is lost". Method: small overlays, so
/// that checkpoints feed runs and sled while clients write; then one drive's index is deleted, one
/// scribbled, one loses its certificate; the node starts again and has everything, and its drives
/// build their indexes anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_can_be_lost() {
    let root = tempfile::tempdir().unwrap();
    let clock = running_clock();
    let mut small = config(folders(root.path(), 4), &clock);
    small.options.overlay_bytes_max = 64 << 10;
    let node = start_supervisor(small).unwrap();
    assert!(node.opened(PATIENCE).await);
    let index = |drive: u32| root.path().join(format!("drive{drive}/index"));
    wait_for("indexes", || (1..=4).all(|drive| index(drive).join("certificate").exists())).await;
    for n in 0..300 {
        put(&*node.node(), &write(n)).await;
    }
    assert!(node.shutdown(PATIENCE).await);
    drop(node);
    std::fs::remove_dir_all(index(1)).unwrap();
    let pages = std::fs::read_dir(index(2).join("sled")).unwrap();
    for file in pages.map(|item| item.unwrap().path()).filter(|path| path.is_file()) {
        let len = std::fs::metadata(&file).unwrap().len() as usize;
        std::fs::write(file, vec![0x5a; len]).unwrap();
    }
    std::fs::remove_file(index(3).join("certificate")).unwrap();
    let node = start(reopened(root.path(), 4), &clock).await;
    for n in 0..300 {
        assert!(holds(&*node.node(), &write(n)).await, "write {n} is lost");
    }
    wait_for("new indexes", || (1..=4).all(|drive| index(drive).join("certificate").exists()))
        .await;
    for n in 0..300 {
        assert!(holds(&*node.node(), &write(n)).await, "write {n} is lost by the new index");
    }
    assert!(node.shutdown(PATIENCE).await);
}

async fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    for _ in 0..400 {
        if ready() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} do not come");
}

async fn syncs(node: &NodeHandle) -> u64 {
    node.drives(PATIENCE).await.iter().map(|facts| facts.syncs).sum()
}

/// Goal: drives that cannot serve are listed with cause and cure and answer `Unavailable`; the node
/// serves with the others. Method: a blank, a foreign, a copied, a misplaced and an absent drive
/// beside two good ones.
#[tokio::test]
async fn drives_that_cannot_serve_are_faulty_and_the_others_serve() {
    let root = tempfile::tempdir().unwrap();
    let clock = running_clock();
    let mut seats = folders(root.path(), 2);
    let folder = |name: &str| {
        let path = root.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    seats.push(seat(folder("blank"), Some(DriveId(3))));
    let foreign = folder("foreign");
    format(&foreign, DriveId(4), ClusterId(9));
    seats.push(seat(foreign, Some(DriveId(4))));
    let copy = folder("copy");
    format(&copy, DriveId(1), CLUSTER);
    seats.push(seat(copy, None));
    let misplaced = folder("misplaced");
    format(&misplaced, DriveId(6), CLUSTER);
    seats.push(seat(misplaced, Some(DriveId(60))));
    seats.push(seat(root.path().join("absent"), Some(DriveId(7))));
    let node = start(seats, &clock).await;
    let listed = node.drives(PATIENCE).await;
    let states: Vec<_> = listed.iter().map(|facts| facts.state).collect();
    let healthy = states.iter().filter(|state| **state == DriveState::Healthy).count();
    assert_eq!((states.len(), healthy), (7, 2), "{listed:?}");
    for facts in listed.iter().filter(|facts| facts.state != DriveState::Healthy) {
        assert_eq!(facts.state, DriveState::Faulty);
        assert!(facts.reason.len() > 20 && !facts.reason.contains('\n'), "{}", facts.reason);
    }
    let down = [3, 4, 60, 7].map(DriveId);
    let prepare = Prepare {
        scope: scope(),
        key: RegisterKey::object(BucketId(5), "k"),
        ballot: write(1).entry.ballot,
        since: HybridTime(0),
        inline: false,
    };
    let batch: Vec<_> =
        down.iter().map(|drive| (*drive, DriveRequest::Prepare(prepare.clone()))).collect();
    for answer in node.node().call(PATIENCE, batch).await {
        assert_eq!(answer.unwrap_err().class(), ErrorClass::Unavailable);
    }
    let served: BTreeSet<_> = listed
        .iter()
        .filter(|facts| facts.state == DriveState::Healthy)
        .map(|facts| facts.drive)
        .collect();
    assert!(served.contains(&DriveId(1)) && served.contains(&DriveId(2)));
    assert!(node.shutdown(PATIENCE).await);
}
