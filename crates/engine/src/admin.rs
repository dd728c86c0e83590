//! What operators see: the cluster with its drives, and where an object lies. Asked afresh each time,
//! and answered however ill the cluster is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all, stream};
use holdfast_drive::api::{DriveFacts, DriveReply, DriveRequest, DriveResult};
use holdfast_register::{Candidate, KeyView, ShardStatus};
use holdfast_types::{
    BucketStamp, DriveId, DriveState, EntryKind, Geometry, NodeIndex, OperationId, RegisterKey,
    VersionId,
    view::{
        ClusterView, DriveView, HealView, NodeView, ObjectView, PoolView, SetView, ShardState,
        ShardView, WorkerView,
    },
};

use crate::{
    blocks::{Target, open_blocks},
    engine::Engine,
    error::StoreError,
    object::check_key,
    read::{Question, check_scope},
    report::tells_of_rot,
    round::Calls,
    set::{Route, SetHandle, SetShared, describe},
    staged::rides_inline,
};

/// An operator waits this long for a node; a healthy one answers in milliseconds.
const FACTS_WAIT: Duration = Duration::from_secs(3);

/// Parts of one object whose shards are looked for: each costs a read of one block a drive.
const PARTS_PROBED_MAX: usize = 64;

/// Shards looked for at once.
const PROBES: usize = 16;

/// What each drive answered, or why it did not.
pub(crate) type Answers = BTreeMap<DriveId, Result<DriveReply, String>>;

type Facts = BTreeMap<DriveId, Result<DriveFacts, String>>;

impl Engine {
    /// The cluster as it stands now.
    pub async fn cluster_view(&self) -> ClusterView {
        // A node without traffic meets no refusals: it asks who is in the sets now.
        self.hear_memberships().await;
        let facts = self.facts().await;
        let drives: Vec<DriveView> =
            self.sets.iter().flat_map(|s| drive_views(s, &facts)).collect();
        let (mut sets, mut pools) = (Vec::new(), Vec::new());
        for (index, pool) in self.layout.pools.iter().enumerate() {
            let mut view = PoolView { index: index as u32, ..PoolView::default() };
            for set in &pool.sets {
                let mine = drives.iter().filter(|drive| drive.set == u32::from(set.index.0));
                view.sets += 1;
                view.drives += set.drives.len() as u32;
                view.capacity_bytes += mine.clone().map(|drive| drive.capacity_bytes).sum::<u64>();
                view.used_bytes += mine.clone().map(|drive| drive.used_bytes).sum::<u64>();
                let serving = mine.filter(|drive| drive.state.serves()).count();
                sets.push(set_view(&self.sets[set.index.get()], index as u32, serving as u8));
            }
            pools.push(view);
        }
        ClusterView {
            cluster: self.layout.cluster.to_string(),
            layout_generation: self.layout.generation,
            nodes: self.node_views(&facts),
            pools,
            sets,
            drives,
        }
    }

    /// What this process does to bring drives back to full width.
    #[must_use]
    pub fn heal_view(&self) -> HealView {
        let (paused, bytes_per_second) = self.rebuild_pace();
        let worker = |status: crate::workers::WorkerStatus| WorkerView {
            name: status.name.to_owned(),
            doing: format!("{:?}", status.state).to_lowercase(),
            done: status.done,
            left: status.left,
            error: status.error,
        };
        let local = self.local.and_then(|node| self.nodes.get(node.get()));
        HealView {
            node: local.map_or_else(String::new, |node| node.name().to_owned()),
            paused,
            bytes_per_second,
            rebuilds: self.rebuilds(),
            workers: self.workers().into_iter().map(worker).collect(),
            error: String::new(),
        }
    }

    /// One pass of every worker over this node's drives, now.
    pub async fn heal_now(&self) {
        if let Some(node) = self.local {
            self.work_off(node).await;
        }
    }

    fn node_views(&self, facts: &Facts) -> Vec<NodeView> {
        let layout = self.current_layout();
        let view = |(index, spec): (usize, &holdfast_placement::NodeSpec)| {
            let slots = layout.sets().flat_map(|set| &set.drives);
            let mine: Vec<_> = slots.filter(|slot| slot.node.get() == index).collect();
            let answers = mine.iter().any(|slot| matches!(facts.get(&slot.drive), Some(Ok(_))));
            let (node, drives) = (spec.url.clone(), mine.len() as u32);
            NodeView { index: index as u32, node, answers, drives }
        };
        self.layout.nodes.iter().enumerate().map(view).collect()
    }

    /// What every drive says of itself.
    async fn facts(&self) -> Facts {
        let answers = self.ask_every_drive(&DriveRequest::Facts).await;
        answers.into_iter().map(|(drive, answer)| (drive, facts_of(answer))).collect()
    }

    /// Asks every drive, one message a node.
    pub(crate) async fn ask_every_drive(&self, request: &DriveRequest) -> Answers {
        let mut by_node: BTreeMap<NodeIndex, Vec<DriveId>> = BTreeMap::new();
        for slot in self.current_layout().sets().flat_map(|set| &set.drives) {
            by_node.entry(slot.node).or_default().push(slot.drive);
        }
        let calls = by_node.into_iter().map(|(node, drives)| {
            let node = self.nodes[node.get()].clone();
            async move {
                let batch = drives.iter().map(|drive| (*drive, request.clone())).collect();
                let call = node.call(FACTS_WAIT, batch);
                let answers = tokio::time::timeout(FACTS_WAIT * 2, call).await.unwrap_or_default();
                let mut answers = answers.into_iter();
                let each = |drive| (drive, answer_of(answers.next()));
                drives.into_iter().map(each).collect::<Vec<_>>()
            }
        });
        join_all(calls).await.into_iter().flatten().collect()
    }

    /// Where an object's current version lies.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBucket`], [`StoreError::NoSuchKey`], [`StoreError::BelowQuorum`].
    pub async fn locate(&self, bucket: &str, key: &[u8]) -> Result<ObjectView, StoreError> {
        check_key(key)?;
        let work = |stamp| self.locate_under(stamp, bucket, key);
        self.with_bucket(bucket, work).await
    }

    async fn locate_under(
        &self,
        stamp: BucketStamp,
        bucket: &str,
        name: &[u8],
    ) -> Result<ObjectView, StoreError> {
        let key = RegisterKey::object(stamp.id, name.to_vec());
        let set = self.set_for(&key);
        let found = set.read(stamp, &key, None).await?;
        let live = found.filter(|c| c.entry.kind == EntryKind::Put);
        let candidate = live.ok_or(StoreError::NoSuchKey { delete_marker: false })?;
        let route = set.shared.route(&key)?;
        let shards = if candidate.entry.parts.is_empty() {
            set.shared.own_shards(stamp, &route, &candidate).await?
        } else {
            set.shared.part_shards(stamp, &route, &candidate).await
        };
        let part = candidate.entry.parts.first().map(|part| part.geometry);
        let shape = part.unwrap_or(candidate.entry.geometry);
        Ok(ObjectView {
            bucket: bucket.to_owned(),
            key: String::from_utf8_lossy(name).into_owned(),
            set: set.shared.index.0.into(),
            size: candidate.entry.body_len(),
            data_shards: shape.data_shards.into(),
            parity_shards: (shape.total_shards - shape.data_shards).into(),
            block_bytes: shape.block_bytes,
            shards,
        })
    }
}

impl SetShared {
    /// The shards of an entry's own data, as its drives tell.
    async fn own_shards(
        self: &Arc<Self>,
        stamp: BucketStamp,
        route: &Route,
        candidate: &Candidate,
    ) -> Result<Vec<ShardView>, StoreError> {
        let version = Some(candidate.version);
        let question = Question { scope: stamp, route: route.clone(), version, inline: false };
        let mut calls = Calls::default();
        let all = (0..self.n()).map(|shard| (shard, question.request(self)));
        self.send(route, 0, all.collect(), &mut calls);
        let mut shards = Vec::new();
        for (shard, result) in calls.all().await {
            if let Err(error) = &result {
                check_scope(error)?;
            }
            let state = state_of(&result, candidate.version, candidate.entry.operation);
            shards.push(self.shard_view(route, shard, None, &candidate.entry.geometry, state));
        }
        shards.sort_by_key(|view| view.shard);
        Ok(shards)
    }

    /// The shards of the parts an object is made of, by reading the first block of each.
    async fn part_shards(
        self: &Arc<Self>,
        stamp: BucketStamp,
        route: &Route,
        candidate: &Candidate,
    ) -> Vec<ShardView> {
        let all = candidate.entry.parts.iter().enumerate();
        let each = all.flat_map(|part| (0..self.n()).map(move |shard| (part, shard)));
        let probes = each.map(|((at, part), shard)| {
            let target = Target {
                set: self.clone(),
                route: route.clone(),
                scope: stamp,
                version: candidate.version,
                operation: part.operation,
                geometry: part.geometry,
                last: 0,
            };
            async move {
                let state = if at < PARTS_PROBED_MAX {
                    probe(&target, shard).await
                } else {
                    ShardState::Unknown
                };
                target.set.shard_view(
                    &target.route,
                    shard,
                    Some(part.number),
                    &part.geometry,
                    state,
                )
            }
        });
        stream::iter(probes.collect::<Vec<_>>()).buffered(PROBES).collect().await
    }

    fn shard_view(
        &self,
        route: &Route,
        shard: u8,
        part: Option<u16>,
        geometry: &Geometry,
        state: ShardState,
    ) -> ShardView {
        let slot = route.slots[usize::from(shard)];
        let place = match state {
            ShardState::Present if !geometry.has_data() => "",
            ShardState::Present if rides_inline(geometry) => "inline",
            ShardState::Present => "volume",
            ShardState::Missing | ShardState::Unknown => "",
        };
        ShardView {
            shard: shard.into(),
            part: part.map(u32::from),
            node: self.node_of(slot).name().to_owned(),
            drive: self.slot(slot).drive.to_string(),
            path: self.slot(slot).path.to_string(),
            place: place.to_owned(),
            state,
        }
    }
}

/// Whether the first block of a shard can be read. Whoever meets rot tells its drive (ADR 0009): the
/// operator who was shown it may have been the only reader of that shard.
async fn probe(target: &Target, shard: u8) -> ShardState {
    let first = async { open_blocks(target, shard, 0, 1).await?.next().await.transpose() };
    match tokio::time::timeout(FACTS_WAIT, first).await {
        Ok(Ok(Some(_))) => ShardState::Present,
        Ok(Ok(None)) => ShardState::Missing,
        Ok(Err(error)) if tells_of_rot(&error) => {
            target.unreadable(shard, &error);
            ShardState::Missing
        }
        Ok(Err(_)) | Err(_) => ShardState::Unknown,
    }
}

fn answer_of(answer: Option<DriveResult>) -> Result<DriveReply, String> {
    match answer {
        Some(Ok(reply)) => Ok(reply),
        Some(Err(error)) => Err(describe(&error)),
        None => Err("no answer from its node".to_owned()),
    }
}

fn facts_of(answer: Result<DriveReply, String>) -> Result<DriveFacts, String> {
    match answer? {
        DriveReply::Facts(facts) => Ok(facts),
        _ => Err("unexpected reply".to_owned()),
    }
}

/// A set's drives with what they said of themselves; one that said nothing is offline.
fn drive_views(set: &SetHandle, facts: &Facts) -> Vec<DriveView> {
    let shared = &set.shared;
    let view = |slot: &crate::set::Slot| {
        let said = facts.get(&slot.drive);
        let heard = said.and_then(|facts| facts.as_ref().ok());
        let why = said.and_then(|facts| facts.as_ref().err().cloned()).unwrap_or_default();
        DriveView {
            node: shared.nodes[slot.node.get()].name().to_owned(),
            drive: slot.drive.to_string(),
            path: slot.path.to_string(),
            state: heard.map_or(DriveState::Offline, |facts| facts.state),
            set: shared.index.0.into(),
            capacity_bytes: heard.map_or(0, |facts| facts.capacity_bytes),
            used_bytes: heard.map_or(0, |facts| facts.used_bytes),
            detail: heard.map_or(why, |facts| facts.reason.clone()),
        }
    };
    shared.members.now().slots.iter().map(view).collect()
}

fn set_view(set: &SetHandle, pool: u32, serving: u8) -> SetView {
    let quorum = set.quorum();
    let members = set.shared.members.now();
    let rebuilding = members.set.rebuilding().count() as u8;
    // A drive that does not count yet holds nothing that may be lost.
    let away = quorum.n().saturating_sub(serving.saturating_sub(rebuilding));
    SetView {
        set: set.index().0.into(),
        pool,
        drives: quorum.n().into(),
        drives_serving: serving.into(),
        drives_rebuilding: members.set.rebuilding().count() as u32,
        epoch: members.epoch.0,
        write_failures_left: quorum.away().checked_sub(away).map(u32::from),
        read_failures_left: quorum.parity().checked_sub(away).map(u32::from),
    }
}

fn state_of(result: &DriveResult, version: VersionId, operation: OperationId) -> ShardState {
    let held = |view: &KeyView| {
        let register = view.registers.get(&version)?;
        register.of_operation(operation).map(|held| held.shard)
    };
    match result {
        Ok(DriveReply::View { view, .. }) => match held(view) {
            Some(ShardStatus::Present | ShardStatus::NoData) => ShardState::Present,
            Some(ShardStatus::Missing) | None => ShardState::Missing,
        },
        _ => ShardState::Unknown,
    }
}
