//! The suite that every carrier passes, over the fabric in front of real drives.

use std::{sync::Arc, time::Duration};

use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::Scope,
    conformance::Rig,
    disk::{Disk, DiskError},
    disk_real::RealDisk,
    supervisor::{NodeConfig, NodeLimits, Seat, start_supervisor},
    volume::VolumeSizes,
};
use holdfast_types::{
    BucketEpoch, BucketId, BucketPhase, BucketStamp, DriveId, SetEpoch, SetIndex, seam::ManualClock,
};

use crate::rig::{CLUSTER, NOW_MICROS, Server};

const DRIVES: u128 = 4;

fn options() -> DriveOptions {
    DriveOptions {
        segment_bytes: 4 << 20,
        volumes: VolumeSizes { first: 16 << 20, max: 64 << 20, reserve: 0 },
        ..DriveOptions::default()
    }
}

fn seat(root: &std::path::Path, n: u128) -> Seat {
    let path = root.join(format!("drive{n}"));
    std::fs::create_dir(&path).expect("made");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&path).expect("a folder"));
    let identity = Identity {
        drive: DriveId(n),
        cluster: CLUSTER,
        set: Some(SetIndex(0)),
        formatted_at: NOW_MICROS,
    };
    Drive::format(&disk, &identity, &options()).expect("formatted");
    let named = path.display().to_string();
    let device = move || -> Result<Arc<dyn Disk>, DiskError> {
        RealDisk::new(&path).map(|disk| Arc::new(disk) as Arc<dyn Disk>)
    };
    Seat { path: named, disk: Arc::new(device), expected: Some(DriveId(n)) }
}

/// Goal: a remote node is a node. Method: the carriers' suite through client and server over loopback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_node_is_a_node() {
    let dir = tempfile::tempdir().expect("a folder");
    let handle = start_supervisor(NodeConfig {
        remembered: std::sync::Arc::new(|_| 0),
        name: "http://node1:9000".to_owned(),
        cluster: CLUSTER,
        seats: (1..=DRIVES).map(|n| seat(dir.path(), n)).collect(),
        options: options(),
        limits: NodeLimits { io_threads: 2, ..NodeLimits::default() },
        arbiters: None,
        clock: Arc::new(ManualClock::at(NOW_MICROS)),
    })
    .expect("started");
    assert!(handle.opened(Duration::from_secs(20)).await);
    let server = Server::start_over(handle.node()).await;
    let bucket = BucketStamp { id: BucketId(5), epoch: BucketEpoch(1), phase: BucketPhase::Live };
    let rig = Rig {
        node: Arc::new(server.client()),
        drives: (1..=DRIVES).map(DriveId).collect(),
        scope: Scope { bucket, set: SetIndex(0), set_epoch: SetEpoch(0) },
        now_micros: NOW_MICROS,
    };
    rig.check().await;
    assert!(handle.shutdown(Duration::from_secs(5)).await);
}
