//! What operators see: the cluster with its drives, and where an object lies. Asked afresh each time,
//! and answered however ill the cluster is.

use std::{collections::BTreeMap, time::Duration};

use holdfast_drive::api::{DriveFacts, DriveReply, DriveRequest, DriveResult};
use holdfast_register::{KeyView, ShardStatus};
use holdfast_types::{
    BucketStamp, ClusterId, DriveId, DriveState, Geometry, NodeIndex, OperationId, RegisterKey,
    SetEpoch, SetIndex, VersionId,
};
use serde::Serialize;

use crate::{
    engine::Engine,
    error::StoreError,
    object::check_key,
    read::{Question, check_scope},
    round::Calls,
    set::{SetHandle, describe},
    workers::WorkerStatus,
};

/// An operator waits this long for a node; a healthy one answers in milliseconds.
const FACTS_WAIT: Duration = Duration::from_secs(3);

/// The cluster.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterView {
    /// Its id.
    pub cluster: ClusterId,
    /// Generation of its layout.
    pub generation: u32,
    /// Its nodes, by index.
    pub nodes: Vec<NodeView>,
    /// Its pools, by index.
    pub pools: Vec<PoolView>,
    /// Its drives, set by set.
    pub drives: Vec<DriveView>,
    /// Background workers of the node that answered.
    pub workers: Vec<WorkerStatus>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Its URL.
    pub url: String,
    /// Whether any of its drives was heard of.
    pub online: bool,
    /// Drives it has.
    pub drives: usize,
}

/// A pool.
#[derive(Clone, Debug, Serialize)]
pub struct PoolView {
    /// Its share of new keys.
    pub weight: u64,
    /// Bytes of its drives that were heard of.
    pub capacity_bytes: u64,
    /// Bytes its drives can still store.
    pub free_bytes: u64,
    /// Live bytes of shards.
    pub used_bytes: u64,
    /// Its sets.
    pub sets: Vec<SetView>,
}

/// An erasure set.
#[derive(Clone, Debug, Serialize)]
pub struct SetView {
    /// Its index over all pools.
    pub index: SetIndex,
    /// Its membership epoch.
    pub epoch: SetEpoch,
    /// Drives it has.
    pub size: u8,
    /// Data shards of a version at full width.
    pub data_shards: u8,
    /// Drives a write needs.
    pub write_quorum: u8,
    /// Drives a read asks.
    pub read_quorum: u8,
    /// Drives that serve.
    pub serving: u8,
    /// Repair records on its drives: versions that are not at full width, counted once a holder.
    pub repairs: u64,
    /// Drives that may fail in addition before objects at full width cannot be read.
    pub survives_for_reads: u8,
    /// Drives that may fail in addition before writes stop.
    pub survives_for_writes: u8,
}

/// A drive.
#[derive(Clone, Debug, Serialize)]
pub struct DriveView {
    /// Its identity.
    pub drive: DriveId,
    /// The URL of its node.
    pub node: String,
    /// Its path there.
    pub path: String,
    /// The set it is in.
    pub set: SetIndex,
    /// Its state.
    pub state: DriveState,
    /// One line of cause and cure when it does not serve.
    pub reason: String,
    /// Bytes of its file system.
    pub capacity_bytes: u64,
    /// Bytes it can still store.
    pub free_bytes: u64,
    /// Live bytes of shards.
    pub used_bytes: u64,
    /// Registers held.
    pub registers: u64,
    /// Repair records held.
    pub repairs: u64,
    /// How often it was opened.
    pub open_count: u64,
    /// fdatasyncs since it was opened.
    pub syncs: u64,
}

/// Where an object lies.
#[derive(Clone, Debug, Serialize)]
pub struct Located {
    /// The set.
    pub set: SetIndex,
    /// The version.
    pub version: String,
    /// The operation that wrote it.
    pub operation: OperationId,
    /// Bytes of the body.
    pub size: u64,
    /// Data shards needed; 0 for an entry without data of its own.
    pub data_shards: u8,
    /// Shards there are.
    pub total_shards: u8,
    /// Bytes of a full block.
    pub block_bytes: u32,
    /// Parts it is made of.
    pub parts: usize,
    /// Each shard.
    pub shards: Vec<LocatedShard>,
}

/// One shard of an object.
#[derive(Clone, Debug, Serialize)]
pub struct LocatedShard {
    /// Its index.
    pub shard: u8,
    /// Its drive.
    pub drive: DriveId,
    /// The URL of the drive's node.
    pub node: String,
    /// The drive's path there.
    pub path: String,
    /// `present`, `missing` (the entry is held without its shard), `absent` (the entry is not held) or
    /// `unreachable`.
    pub state: &'static str,
}

impl Engine {
    /// The cluster as it stands now.
    pub async fn cluster_view(&self) -> ClusterView {
        let answers = self.facts().await;
        let drives: Vec<DriveView> = self.sets.iter().flat_map(|s| views(s, &answers)).collect();
        let node = |(index, spec): (usize, &holdfast_placement::NodeSpec)| {
            let at = |slot: &&holdfast_placement::DriveSlot| slot.node.get() == index;
            let slots: Vec<_> = self.layout.sets().flat_map(|set| &set.drives).filter(at).collect();
            let online = slots.iter().any(|slot| matches!(answers.get(&slot.drive), Some(Ok(_))));
            NodeView { url: spec.url.clone(), online, drives: slots.len() }
        };
        let pool = |pool: &holdfast_placement::Pool| {
            let sets: Vec<SetIndex> = pool.sets.iter().map(|set| set.index).collect();
            let of = drives.iter().filter(|drive| sets.contains(&drive.set));
            let sum = |part: fn(&DriveView) -> u64| of.clone().map(part).sum();
            PoolView {
                weight: pool.weight,
                capacity_bytes: sum(|drive| drive.capacity_bytes),
                free_bytes: sum(|drive| drive.free_bytes),
                used_bytes: sum(|drive| drive.used_bytes),
                sets: sets.iter().map(|set| set_view(&self.sets[set.get()], &drives)).collect(),
            }
        };
        ClusterView {
            cluster: self.layout.cluster,
            generation: self.layout.generation,
            nodes: self.layout.nodes.iter().enumerate().map(node).collect(),
            pools: self.layout.pools.iter().map(pool).collect(),
            workers: self.workers(),
            drives,
        }
    }

    /// What every drive says of itself, one message a node.
    async fn facts(&self) -> BTreeMap<DriveId, Result<DriveFacts, String>> {
        let mut by_node: BTreeMap<NodeIndex, Vec<DriveId>> = BTreeMap::new();
        for slot in self.layout.sets().flat_map(|set| &set.drives) {
            by_node.entry(slot.node).or_default().push(slot.drive);
        }
        let calls = by_node.into_iter().map(|(node, drives)| {
            let node = self.nodes[node.get()].clone();
            async move {
                let batch = drives.iter().map(|drive| (*drive, DriveRequest::Facts)).collect();
                let call = node.call(FACTS_WAIT, batch);
                let answers = tokio::time::timeout(FACTS_WAIT * 2, call).await.unwrap_or_default();
                let mut answers = answers.into_iter();
                let each = |drive| (drive, facts_of(answers.next()));
                drives.into_iter().map(each).collect::<Vec<_>>()
            }
        });
        futures::future::join_all(calls).await.into_iter().flatten().collect()
    }

    /// Where an object's current version lies.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBucket`], [`StoreError::NoSuchKey`], [`StoreError::BelowQuorum`].
    pub async fn locate(&self, bucket: &str, key: &[u8]) -> Result<Located, StoreError> {
        check_key(key)?;
        self.with_bucket(bucket, |stamp| self.locate_under(stamp, key)).await
    }

    async fn locate_under(&self, stamp: BucketStamp, key: &[u8]) -> Result<Located, StoreError> {
        let key = RegisterKey::object(stamp.id, key.to_vec());
        let set = self.set_for(&key);
        let found = set.read(stamp, &key, None).await?;
        let live = found.filter(|c| c.entry.kind == holdfast_types::EntryKind::Put);
        let candidate = live.ok_or(StoreError::NoSuchKey { delete_marker: false })?;
        let shared = &set.shared;
        let route = shared.route(&key)?;
        let version = Some(candidate.version);
        let question = Question { scope: stamp, route: route.clone(), version, inline: false };
        let mut calls = Calls::default();
        let all = (0..shared.n()).map(|shard| (shard, question.request(shared)));
        shared.send(&route, 0, all.collect(), &mut calls);
        let mut shards = Vec::new();
        for (shard, result) in calls.all().await {
            if let Err(error) = &result {
                check_scope(error)?;
            }
            let slot = &shared.slots[route.slots[usize::from(shard)]];
            let state = shard_state(&result, candidate.version, candidate.entry.operation);
            let node = self.layout.nodes[slot.node.get()].url.clone();
            let (drive, path) = (slot.drive, slot.path.clone());
            shards.push(LocatedShard { shard, drive, node, path, state });
        }
        shards.sort_by_key(|shard| shard.shard);
        let Geometry { data_shards, total_shards, block_bytes, .. } = candidate.entry.geometry;
        Ok(Located {
            set: shared.index,
            version: candidate.version.to_string(),
            operation: candidate.entry.operation,
            size: candidate.entry.body_len(),
            data_shards,
            total_shards,
            block_bytes,
            parts: candidate.entry.parts.len(),
            shards,
        })
    }
}

fn facts_of(answer: Option<DriveResult>) -> Result<DriveFacts, String> {
    match answer {
        Some(Ok(DriveReply::Facts(facts))) => Ok(facts),
        Some(Ok(_)) => Err("unexpected reply".to_owned()),
        Some(Err(error)) => Err(describe(&error)),
        None => Err("no answer from its node".to_owned()),
    }
}

/// A set's drives with what they said of themselves; one that said nothing is offline.
fn views(
    set: &SetHandle,
    answers: &BTreeMap<DriveId, Result<DriveFacts, String>>,
) -> Vec<DriveView> {
    let shared = &set.shared;
    let view = |slot: &crate::set::Slot| {
        let silent = Err("no answer from its node".to_owned());
        let facts = answers.get(&slot.drive).cloned().unwrap_or(silent);
        let facts = facts.unwrap_or_else(|reason| DriveFacts {
            drive: slot.drive,
            path: slot.path.clone(),
            state: DriveState::Offline,
            reason,
            capacity_bytes: 0,
            free_bytes: 0,
            used_bytes: 0,
            registers: 0,
            repairs: 0,
            open_count: 0,
            syncs: 0,
        });
        DriveView {
            drive: slot.drive,
            node: shared.nodes[slot.node.get()].name().to_owned(),
            path: slot.path.clone(),
            set: shared.index,
            state: facts.state,
            reason: facts.reason,
            capacity_bytes: facts.capacity_bytes,
            free_bytes: facts.free_bytes,
            used_bytes: facts.used_bytes,
            registers: facts.registers,
            repairs: facts.repairs,
            open_count: facts.open_count,
            syncs: facts.syncs,
        }
    };
    shared.slots.iter().map(view).collect()
}

fn set_view(set: &SetHandle, drives: &[DriveView]) -> SetView {
    let quorum = set.quorum();
    let mine = drives.iter().filter(|drive| drive.set == set.index());
    let serving = mine.clone().filter(|drive| drive.state.serves()).count() as u8;
    let away = quorum.n() - serving.min(quorum.n());
    SetView {
        index: set.index(),
        epoch: set.shared.epoch,
        size: quorum.n(),
        data_shards: quorum.data(),
        write_quorum: quorum.write(),
        read_quorum: quorum.read(),
        serving,
        repairs: mine.map(|drive| drive.repairs).sum(),
        survives_for_reads: quorum.parity().saturating_sub(away),
        survives_for_writes: quorum.away().saturating_sub(away),
    }
}

fn shard_state(result: &DriveResult, version: VersionId, operation: OperationId) -> &'static str {
    let held = |view: &KeyView| {
        let register = view.registers.get(&version)?;
        register.of_operation(operation).map(|held| held.shard)
    };
    match result {
        Ok(DriveReply::View { view, .. }) => match held(view) {
            Some(ShardStatus::Missing) => "missing",
            Some(_) => "present",
            None => "absent",
        },
        _ => "unreachable",
    }
}
