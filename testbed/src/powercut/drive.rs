//! The drive under test and the requests to it: the product's own node of one drive, with its actor,
//! log, volumes and index, on a folder.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::{
        Accept, DriveError, DriveReply, DriveRequest, Purge, Read, Scope, Settle, ShardRead,
        ShardSource, UploadTarget,
    },
    disk::Disk,
    disk_real::RealDisk,
    node::Node,
    supervisor::{NodeConfig, NodeHandle, NodeLimits, Seat, start_supervisor},
    volume::VolumeSizes,
};
use holdfast_erasure::{Salt, encode_body};
use holdfast_register::{HolderMask, ShardStatus};
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, DriveState, Entry,
    EntryKind, ErrorClass, Geometry, HybridTime, OperationId, RegisterKey, SetEpoch, SetIndex,
    ShardIndex, VersionId, WriterId, limits, seam::Clock,
};

use crate::clock::RealClock;

use super::{
    disk::{Forgetful, Skipped},
    ledger::{Op, Shown},
};

const DRIVE: DriveId = DriveId(0xd1);
const CLUSTER: ClusterId = ClusterId(1);
const BUCKET: BucketId = BucketId(0xb);
const SHARD: ShardIndex = ShardIndex(0);

/// A request takes no longer, on a machine that is busy with other things, too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Small files and small bounds: segments, volumes, runs and manifests come and go within a second.
fn options() -> DriveOptions {
    DriveOptions {
        segment_bytes: 2 << 20,
        overlay_bytes_max: 64 << 10,
        tail_segments_max: 2,
        segments_soft_max: 6,
        volumes: VolumeSizes { first: 8 << 20, max: 16 << 20, reserve: 0 },
        ..DriveOptions::default()
    }
}

fn scope() -> Scope {
    let bucket = BucketStamp { id: BUCKET, epoch: BucketEpoch(1), phase: BucketPhase::Live };
    Scope { bucket, set: SetIndex(0), set_epoch: SetEpoch(0) }
}

fn register_key(key: u64) -> RegisterKey {
    RegisterKey::object(BUCKET, format!("key {key:04}"))
}

/// The body of an operation.
fn body(op: Op, size: u64) -> Vec<u8> {
    use rand::{RngCore as _, SeedableRng as _};
    let mut body = vec![0; size as usize];
    rand_chacha::ChaCha8Rng::seed_from_u64(op).fill_bytes(&mut body);
    body
}

fn shard_of(op: Op, geometry: &Geometry) -> Bytes {
    let salt = Salt { operation: OperationId(op.into()), drive: DRIVE, shard: SHARD };
    encode_body(geometry, &body(op, geometry.size), &[salt]).remove(0)
}

/// Why a request came to nothing.
pub enum Stop {
    /// The drive does not answer any more: its power is off.
    Gone,
    /// The ballot was too low: one above this is not.
    Above(HybridTime),
}

/// The drive.
pub struct Subject {
    handle: NodeHandle,
    node: Arc<dyn Node>,
}

impl Subject {
    /// Opens the drive at `path`; formats it when nothing is there.
    pub async fn open(path: &Path, skipped: Option<Skipped>) -> Result<Self> {
        let named = path.display().to_string();
        let device = move |path: &str| {
            let real: Arc<dyn Disk> = Arc::new(RealDisk::new(path)?);
            Ok(match skipped {
                Some(skipped) => Arc::new(Forgetful::new(real, skipped)) as Arc<dyn Disk>,
                None => real,
            })
        };
        let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
        let disk = device(&named).map_err(|error: holdfast_drive::disk::DiskError| error)?;
        if Identity::load(&*disk).map_err(|fault| anyhow::anyhow!("{fault}"))?.is_none() {
            let formatted_at = clock.wall_micros();
            let set = Some(SetIndex(0));
            let identity = Identity { drive: DRIVE, cluster: CLUSTER, set, formatted_at };
            Drive::format(&disk, &identity, &options()).context("format the drive")?;
        }
        let seat = named.clone();
        let config = NodeConfig {
            remembered: Arc::new(|_| 0),
            name: "http://power:9000".to_owned(),
            cluster: CLUSTER,
            seats: vec![Seat {
                path: named,
                disk: Arc::new(move || device(&seat)),
                expected: Some(DRIVE),
            }],
            options: options(),
            limits: NodeLimits { io_threads: 2, ..NodeLimits::default() },
            arbiters: None,
            clock,
        };
        let handle = start_supervisor(config)?;
        if !handle.opened(PATIENCE).await {
            bail!("the drive was not open within {} s", PATIENCE.as_secs());
        }
        for facts in handle.drives(PATIENCE).await {
            if !matches!(facts.state, DriveState::Healthy | DriveState::Reindexing) {
                bail!("the drive is {}: {}", facts.state.name(), facts.reason);
            }
        }
        let node: Arc<dyn Node> = handle.node();
        Ok(Self { handle, node })
    }

    /// Closes it in order.
    pub async fn close(self) {
        self.handle.shutdown(PATIENCE).await;
    }

    async fn call(&self, request: DriveRequest) -> Result<DriveReply, DriveError> {
        loop {
            let mut answers = self.node.call(PATIENCE, vec![(DRIVE, request.clone())]).await;
            match answers.pop().expect("one answer a request") {
                Err(error) if error.class() == ErrorClass::Overloaded => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other => return other,
            }
        }
    }

    /// Streams the body of an operation to the drive where it is large; where its shard is then.
    pub async fn stage(&self, op: Op, key: u64, size: u64) -> Result<ShardSource, Stop> {
        let geometry = Geometry::new(1, 1, size);
        let shard = shard_of(op, &geometry);
        if shard.len() as u64 <= limits::INLINE_SHARD_BYTES_MAX {
            return Ok(ShardSource::Inline(shard));
        }
        let target = UploadTarget {
            drive: DRIVE,
            scope: scope(),
            key: register_key(key),
            operation: OperationId(op.into()),
            shard: SHARD,
            geometry,
        };
        let mut upload = self.node.upload(vec![target]).await.map_err(|_| Stop::Gone)?;
        let block = geometry.block_bytes as usize;
        let mut rest = shard;
        while !rest.is_empty() {
            let now = rest.split_to(block.min(rest.len()));
            upload.send(0, now).await.map_err(|_| Stop::Gone)?;
        }
        match upload.finish().await.pop() {
            Some(Ok(handle)) => Ok(ShardSource::Upload(handle)),
            _ => Err(Stop::Gone),
        }
    }

    /// Accepts an entry; acknowledged when this returns.
    pub async fn accept(
        &self,
        op: Op,
        key: u64,
        size: u64,
        time: HybridTime,
        source: ShardSource,
    ) -> Result<(), Stop> {
        let (kind, geometry) = match size {
            0 => (EntryKind::Tombstone, Geometry::EMPTY),
            size => (EntryKind::Put, Geometry::new(1, 1, size)),
        };
        let ballot = Ballot { generation: 1, time, writer: WriterId(7) };
        let entry = Entry {
            ballot,
            order: ballot,
            operation: OperationId(op.into()),
            kind,
            geometry,
            metadata: Bytes::from_static(b"power"),
            parts: Vec::new(),
        };
        let accept = Accept {
            scope: scope(),
            key: register_key(key),
            version: VersionId::NULL,
            entry,
            shard: SHARD,
            source,
            guard: None,
        };
        match self.call(DriveRequest::Accept(accept)).await {
            Ok(DriveReply::Accepted(_)) => Ok(()),
            Err(DriveError::Refused { refusal, .. }) => {
                Err(refusal.winner().map_or(Stop::Gone, |winner| Stop::Above(winner.time)))
            }
            _ => Err(Stop::Gone),
        }
    }

    /// Settles an operation: this drive is all of its set.
    pub async fn settle(&self, op: Op, key: u64) -> Result<(), Stop> {
        let settle = Settle {
            scope: scope(),
            key: register_key(key),
            version: VersionId::NULL,
            operation: OperationId(op.into()),
            holders: HolderMask::full(1),
            set_size: 1,
        };
        self.call(DriveRequest::Settle(settle)).await.map(drop).map_err(|_| Stop::Gone)
    }

    /// Purges a settled tombstone.
    pub async fn purge(&self, key: u64, time: HybridTime) -> Result<(), Stop> {
        let ballot = Ballot { generation: 1, time, writer: WriterId(7) };
        let purge =
            Purge { scope: scope(), key: register_key(key), version: VersionId::NULL, ballot };
        self.call(DriveRequest::Purge(purge)).await.map(drop).map_err(|_| Stop::Gone)
    }

    /// All that the drive shows of a key, each shard read and compared.
    pub async fn shows(&self, key: u64) -> Result<Vec<Shown>> {
        let (scope, register) = (scope(), register_key(key));
        let read = Read { scope, key: register, version: None, inline: true };
        let answer = self.call(DriveRequest::Read(read)).await;
        let DriveReply::View { view, inline } = answer.context("read a key")? else {
            bail!("key {key}: the drive answered something else");
        };
        let mut shown = Vec::new();
        for held in view.registers.values().flat_map(|register| &register.entries) {
            let entry = &held.entry;
            let op = u64::try_from(entry.operation.0).unwrap_or(u64::MAX);
            let right = match held.shard {
                ShardStatus::NoData => entry.kind == EntryKind::Tombstone,
                ShardStatus::Missing => false,
                ShardStatus::Present => {
                    let found = inline.iter().find(|shard| shard.operation == entry.operation);
                    let bytes = match found {
                        Some(shard) => Some(shard.bytes.clone()),
                        None => self.read_shard(entry).await,
                    };
                    bytes.is_some_and(|bytes| bytes == shard_of(op, &entry.geometry))
                }
            };
            shown.push(Shown { op, time: entry.ballot.time.0, right });
        }
        Ok(shown)
    }

    async fn read_shard(&self, entry: &Entry) -> Option<Bytes> {
        let read = ShardRead {
            drive: DRIVE,
            scope: scope(),
            operation: entry.operation,
            shard: SHARD,
            geometry: entry.geometry,
            first_block: 0,
            block_count: entry.geometry.stripe_count(),
        };
        let mut stream = self.node.read_shard(read).await.ok()?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.ok()?);
        }
        Some(bytes.freeze())
    }
}
