//! Restoring lost shards of a body from k others: for adoption and for the healer.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use holdfast_drive::{
    api::{DriveError, ShardSource, UploadTarget},
    node::{BlockStream, ShardUpload},
};
use holdfast_erasure::{restore_payload, seal_owned};
use holdfast_types::{
    BucketStamp, Entry, Geometry, OperationId, PartRef, ShardIndex, VersionId,
    sabotage::{Bug, planted},
};

use crate::{
    blocks::{Target, is_of_block, next_block, open_blocks},
    error::StoreError,
    set::{Route, SetShared, describe},
    staged::rides_inline,
};

/// Shards made anew, ready to be named by an Accept or an Install.
#[derive(Default)]
pub(crate) struct Restored {
    sources: BTreeMap<u8, ShardSource>,
}

impl Restored {
    /// Where the drive of `shard` finds its bytes.
    pub(crate) fn source(&self, shard: u8) -> Option<ShardSource> {
        self.sources.get(&shard).cloned()
    }
}

/// One body whose shards are restored.
#[derive(Clone)]
pub(crate) struct Body {
    /// The register that names it.
    pub(crate) version: VersionId,
    pub(crate) operation: OperationId,
    pub(crate) geometry: Geometry,
}

impl Body {
    /// That of a part, which an entry of `version` names.
    pub(crate) const fn of_part(version: VersionId, part: &PartRef) -> Self {
        Self { version, operation: part.operation, geometry: part.geometry }
    }
}

impl SetShared {
    /// Makes `shards` of an entry's own data anew: small ones come back as bytes, large ones lie on
    /// their drives as uploads.
    pub(crate) async fn restore(
        self: &Arc<Self>,
        scope: BucketStamp,
        route: &Route,
        version: VersionId,
        entry: &Entry,
        shards: &[u8],
    ) -> Result<Restored, StoreError> {
        let body = Body { version, operation: entry.operation, geometry: entry.geometry };
        self.restore_body(scope, route, body, shards).await
    }

    /// As [`Self::restore`], of any body whose shards lie where the key's do: a part's, say.
    pub(crate) async fn restore_body(
        self: &Arc<Self>,
        scope: BucketStamp,
        route: &Route,
        body: Body,
        shards: &[u8],
    ) -> Result<Restored, StoreError> {
        let target = Arc::new(Target {
            set: self.clone(),
            route: route.clone(),
            scope,
            version: body.version,
            operation: body.operation,
            geometry: body.geometry,
            last: body.geometry.stripe_count() - 1,
        });
        let room = body.geometry.stripe_bytes().min(body.geometry.size) * 2;
        let _permit = self.admission.bytes(room as usize).await?;
        let mut sources = Sources::open(&target, shards).await?;
        let mut sinks = Sinks::open(&target, shards).await;
        for stripe in 0..body.geometry.stripe_count() {
            let payloads = sources.next(&target, stripe).await?;
            for shard in shards {
                let wanted = ShardIndex(*shard);
                let payload = restore_payload(&body.geometry, stripe, &payloads, wanted);
                let failed = |e| StoreError::Internal { message: format!("restore shard: {e}") };
                let mut payload = payload.map_err(failed)?;
                if planted(Bug::HealStaleShard) {
                    payload.reverse();
                }
                let salt = self.salt(route, body.operation, *shard);
                let block = seal_owned(&salt, stripe, payload);
                sinks.push(*shard, block).await;
            }
        }
        Ok(Restored { sources: sinks.finish().await })
    }
}

/// k shards that can be read. A rotten block costs a shard that block alone: it comes behind all other
/// spares from the next stripe on, for shards that are rotten in different stripes restore each other.
struct Sources {
    open: Vec<(u8, BlockStream)>,
    /// The next is the last.
    spares: Vec<u8>,
    /// Failed in this stripe.
    resting: Vec<u8>,
}

impl Sources {
    async fn open(target: &Arc<Target>, wanted: &[u8]) -> Result<Self, StoreError> {
        let (set, route) = (&target.set, &target.route);
        // What is left of the wanted ones comes last (INV-ROT-1).
        let others = (0..set.n()).filter(|shard| !wanted.contains(shard));
        let spares = others.chain(wanted.iter().copied());
        let up = |shard: &u8| !set.health.is_down(route.slots[usize::from(*shard)]);
        let spares: Vec<u8> = spares.filter(up).collect();
        let spares = spares.into_iter().rev().collect();
        let mut sources = Self { open: Vec::new(), spares, resting: Vec::new() };
        sources.fill(target, 0).await?;
        Ok(sources)
    }

    /// Opens spares from block `stripe` on until there are k sources.
    async fn fill(&mut self, target: &Arc<Target>, stripe: u64) -> Result<(), StoreError> {
        let k = usize::from(target.geometry.data_shards);
        let mut failures = Vec::new();
        while self.open.len() < k {
            let Some(shard) = self.spares.pop() else {
                let have = self.open.len() as u8;
                return Err(target.set.below_quorum(k as u8, have, &failures));
            };
            match open_blocks(target, shard, stripe, target.last - stripe + 1).await {
                Ok(blocks) => self.open.push((shard, blocks)),
                Err(error) => {
                    target.unreadable(shard, &error);
                    self.resting.extend(is_of_block(&error).then_some(shard));
                    failures.push((target.route.slots[usize::from(shard)], describe(&error)));
                }
            }
        }
        Ok(())
    }

    /// k payloads of the next stripe.
    async fn next(
        &mut self,
        target: &Arc<Target>,
        stripe: u64,
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut payloads = vec![None; usize::from(target.set.n())];
        self.spares.splice(..0, self.resting.drain(..));
        loop {
            let open = std::mem::take(&mut self.open);
            let missing = open.into_iter().map(|(shard, mut blocks)| {
                let here: Option<Bytes> = payloads[usize::from(shard)].clone();
                async move {
                    let idle = target.set.knobs.stream_idle;
                    let payload = match here {
                        Some(payload) => Ok(payload),
                        None => {
                            let next = next_block(target, shard, stripe, &mut blocks);
                            let next = tokio::time::timeout(idle, next).await.ok();
                            if let Some(Err(error)) = &next {
                                target.unreadable(shard, error);
                            }
                            next.unwrap_or_else(|| Err(target.late(shard)))
                        }
                    };
                    (shard, payload.map(|payload| (blocks, payload)))
                }
            });
            for (shard, read) in join_all(missing).await {
                match read {
                    Ok((blocks, payload)) => {
                        payloads[usize::from(shard)] = Some(payload);
                        self.open.push((shard, blocks));
                    }
                    Err(error) => self.resting.extend(is_of_block(&error).then_some(shard)),
                }
            }
            if self.open.len() >= usize::from(target.geometry.data_shards) {
                return Ok(payloads);
            }
            self.fill(target, stripe).await?;
        }
    }
}

/// Where restored shards go.
struct Sinks {
    inline: BTreeMap<u8, BytesMut>,
    uploads: BTreeMap<u8, Box<dyn ShardUpload>>,
}

impl Sinks {
    async fn open(target: &Arc<Target>, shards: &[u8]) -> Self {
        let mut sinks = Self { inline: BTreeMap::new(), uploads: BTreeMap::new() };
        if rides_inline(&target.geometry) {
            sinks.inline = shards.iter().map(|shard| (*shard, BytesMut::new())).collect();
            return sinks;
        }
        for shard in shards {
            let slot = target.route.slots[usize::from(*shard)];
            let upload = UploadTarget {
                drive: target.set.slot(slot).drive,
                scope: target.set.scope(target.scope),
                key: target.route.key.clone(),
                operation: target.operation,
                shard: ShardIndex(*shard),
                geometry: target.geometry,
            };
            match target.set.node_of(slot).upload(vec![upload]).await {
                Ok(stream) => drop(sinks.uploads.insert(*shard, stream)),
                Err(error) => tracing::debug!(%error, "restored shard finds no place"),
            }
        }
        sinks
    }

    async fn push(&mut self, shard: u8, block: Bytes) {
        if let Some(bytes) = self.inline.get_mut(&shard) {
            bytes.extend_from_slice(&block);
        }
        if let Some(stream) = self.uploads.get_mut(&shard) {
            let sent: Result<(), DriveError> = stream.send(0, block).await;
            if sent.is_err() {
                self.uploads.remove(&shard);
            }
        }
    }

    async fn finish(self) -> BTreeMap<u8, ShardSource> {
        let inline = self.inline.into_iter();
        let mut sources: BTreeMap<u8, ShardSource> =
            inline.map(|(shard, bytes)| (shard, ShardSource::Inline(bytes.freeze()))).collect();
        for (shard, stream) in self.uploads {
            if let Some(Ok(handle)) = stream.finish().await.pop() {
                sources.insert(shard, ShardSource::Upload(handle));
            }
        }
        sources
    }
}
