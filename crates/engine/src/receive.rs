//! Bodies on their way in: small ones are gathered whole, large ones are cut into stripes, encoded and
//! streamed to the drives, one stream a node, in constant memory.
//!
//! ```text
//! body --push--> StripeCutter --stripe--> encode (off the workers) --blocks--> one stream a node
//!                while stripe s is sent, stripe s + 1 comes in and is encoded
//! ```

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, future::join_all};
use holdfast_drive::{
    api::{DriveError, UploadHandle, UploadTarget},
    node::ShardUpload,
};
use holdfast_erasure::{Salt, StripeBody, StripeCutter, encode_pieces};
use holdfast_types::{
    BucketStamp, ErrorClass, Geometry, OperationId, RegisterKey, ShardIndex, limits,
};

use crate::{
    api::BoxBody,
    draft::{Data, Received, Uploaded},
    error::StoreError,
    set::{Route, SetHandle, SetShared, describe, inline_max},
    task,
};

/// Stripes of one request in memory at most: one coming in, one being encoded, one on its way, and
/// their parity.
const STRIPES_IN_MEMORY: usize = 4;

/// From this size on encoding takes longer than a task may hold a worker (about 500 us at 1 GB/s).
const HEAVY_BYTES: usize = 256 << 10;

impl SetHandle {
    /// Takes a body in. Small ones come back whole; larger ones lie fsynced on the drives under
    /// `operation` until an entry names them, or are dropped there when none does.
    ///
    /// # Errors
    /// What the body's stream answers; [`StoreError::EntityTooLarge`]; [`StoreError::BelowQuorum`]
    /// when too few drives can take their shards; [`StoreError::Overloaded`].
    #[tracing::instrument(name = "set.receive", target = "holdfast_trace", skip_all, fields(set = %self.index(), ?key))]
    pub async fn receive(
        &self,
        scope: BucketStamp,
        key: &RegisterKey,
        operation: OperationId,
        mut body: BoxBody,
        length: Option<u64>,
    ) -> Result<Received, StoreError> {
        let set = &self.shared;
        set.check_writable()?;
        if length.is_some_and(|length| length > limits::PART_BYTES_MAX) {
            return Err(StoreError::EntityTooLarge);
        }
        let inline_width = self.inline_width();
        let inline_max = inline_max(inline_width);
        let small = length.map_or(inline_max, |l| (l as usize).min(inline_max));
        // The body itself, its shards and their parity.
        let permit = set.admission.bytes(small * 3).await?;
        let head = gather(&mut body, inline_max).await?;
        if let Head::Whole(bytes) = head {
            let size = bytes.len() as u64;
            let digest = body.digest();
            return Ok(Received { data: Data::Inline(bytes), size, digest, permit });
        }
        let Head::More(pieces) = head else { unreachable!("the other variant was handled") };
        // Readers tell by its shape whether a body rides inline. Drives that came back while it came in
        // would make one that is streamed as wide as one that does: no wider than the bound was for.
        let width = set.width(length.unwrap_or(u64::MAX)).min(inline_width);
        let geometry = Geometry::new(width, set.n(), length.unwrap_or(0));
        let room = geometry.stripe_bytes() as usize * STRIPES_IN_MEMORY;
        drop(permit);
        let permit = set.admission.bytes(room).await?;
        let route = set.route(key)?;
        let mut upload = Upload::open(set, scope, &route, operation, geometry).await?;
        let incoming = upload.incoming(pieces, Some(&mut body));
        let size = upload.send_body(incoming).await?;
        let digest = body.digest();
        let uploaded = upload.finish(size).await?;
        Ok(Received { data: Data::Uploaded(uploaded), size, digest, permit })
    }
}

/// The beginning of a body.
enum Head {
    /// It ended within the bound.
    Whole(Bytes),
    /// It goes on behind these pieces.
    More(Vec<Bytes>),
}

/// Takes bytes until the body ends or there are more than `most`.
async fn gather(body: &mut BoxBody, most: usize) -> Result<Head, StoreError> {
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut total = 0;
    while total <= most {
        let Some(chunk) = body.next().await else { return Ok(Head::Whole(join(pieces, total))) };
        let chunk = chunk?;
        total += chunk.len();
        pieces.push(chunk);
    }
    Ok(Head::More(pieces))
}

/// One buffer of all pieces; a single piece is not copied.
fn join(mut pieces: Vec<Bytes>, total: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop().expect("there is one");
    }
    let mut whole = BytesMut::with_capacity(total);
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}

/// The stream to one node, with the shards it carries.
struct Lane {
    shards: Vec<u8>,
    stream: Option<Box<dyn ShardUpload>>,
}

/// Shards of one body on their way to their drives.
pub(crate) struct Upload {
    set: Arc<SetShared>,
    route: Route,
    geometry: Geometry,
    salts: Arc<[Salt]>,
    lanes: Vec<Lane>,
    failures: Vec<(usize, String)>,
}

impl Upload {
    /// Opens one stream a node for the shards whose drives are up.
    pub(crate) async fn open(
        set: &Arc<SetShared>,
        scope: BucketStamp,
        route: &Route,
        operation: OperationId,
        geometry: Geometry,
    ) -> Result<Self, StoreError> {
        let mut by_node: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
        for shard in set.up(route) {
            let slot = route.slots[usize::from(shard)];
            by_node.entry(set.slot(slot).node.0).or_default().push(shard);
        }
        let target = |shard: u8| UploadTarget {
            drive: set.slot(route.slots[usize::from(shard)]).drive,
            scope: set.scope(scope),
            key: route.key.clone(),
            operation,
            shard: ShardIndex(shard),
            geometry,
        };
        let opens = by_node.into_values().map(|shards| {
            let targets: Vec<UploadTarget> = shards.iter().map(|shard| target(*shard)).collect();
            let node = set.node_of(route.slots[usize::from(shards[0])]).clone();
            async move {
                let open = tokio::time::timeout(set.knobs.call, node.upload(targets)).await;
                (shards, open.unwrap_or_else(|_| Err(late(set, route))))
            }
        });
        let mut upload = Self {
            set: set.clone(),
            route: route.clone(),
            geometry,
            salts: set.salts(route, operation).into(),
            lanes: Vec::new(),
            failures: Vec::new(),
        };
        for (shards, opened) in join_all(opens).await {
            let stream = opened.map_err(|error| upload.lost(&shards, &error)).ok();
            upload.lanes.push(Lane { shards, stream });
        }
        upload.check_enough()?;
        Ok(upload)
    }

    /// Streams a body and answers its size.
    async fn send_body(&mut self, body: Incoming<'_>) -> Result<u64, StoreError> {
        let mut body = body;
        let mut next = body.next_blocks().await?;
        while let Some(blocks) = next {
            let (set, route) = (self.set.clone(), self.route.clone());
            let sending = send(&set, &route, &mut self.lanes, &blocks);
            let (lost, coming) = tokio::join!(sending, body.next_blocks());
            for (shards, error) in lost {
                self.lost(&shards, &error);
            }
            self.check_enough()?;
            next = coming?;
        }
        Ok(body.total)
    }

    fn incoming<'a>(&self, head: Vec<Bytes>, rest: Option<&'a mut BoxBody>) -> Incoming<'a> {
        let mut incoming = Incoming {
            cutter: Some(StripeCutter::new(&self.geometry)),
            rest,
            geometry: self.geometry,
            salts: self.salts.clone(),
            stripe: 0,
            total: 0,
        };
        head.into_iter().for_each(|piece| incoming.push(piece));
        incoming
    }

    /// Streams a body that is in memory.
    pub(crate) async fn send_whole(mut self, body: &Bytes) -> Result<Uploaded, StoreError> {
        let incoming = self.incoming(vec![body.clone()], None);
        let size = self.send_body(incoming).await?;
        self.finish(size).await
    }

    /// Ends all streams and gathers the handles.
    pub(crate) async fn finish(mut self, size: u64) -> Result<Uploaded, StoreError> {
        self.geometry.size = size;
        let mut handles: Vec<Option<UploadHandle>> = vec![None; usize::from(self.set.n())];
        let lanes = std::mem::take(&mut self.lanes);
        let (set, route) = (self.set.clone(), self.route.clone());
        let ends = lanes.into_iter().filter_map(|lane| {
            let stream = lane.stream?;
            let (set, route) = (set.clone(), route.clone());
            Some(async move {
                let done = tokio::time::timeout(set.knobs.stream_idle, stream.finish()).await;
                let late = || lane.shards.iter().map(|_| Err(late(&set, &route))).collect();
                let results = done.unwrap_or_else(|_| late());
                (lane.shards, results)
            })
        });
        for (shards, results) in join_all(ends).await {
            for (shard, result) in shards.into_iter().zip(results) {
                match result {
                    Ok(handle) => handles[usize::from(shard)] = Some(handle),
                    Err(error) => self.lost(&[shard], &error),
                }
            }
        }
        let have = handles.iter().flatten().count() as u8;
        let need = self.set.quorum.acknowledged(self.geometry.data_shards);
        if have < need {
            return Err(self.set.below_quorum(need, have, &self.failures));
        }
        Ok(Uploaded { geometry: self.geometry, handles })
    }

    fn lost(&mut self, shards: &[u8], error: &DriveError) {
        for shard in shards {
            let slot = self.route.slots[usize::from(*shard)];
            self.set.learn(slot, &Err(error.clone()));
            self.failures.push((slot, describe(error)));
        }
    }

    /// Fails as soon as too few drives are left for the version to be acknowledged.
    fn check_enough(&self) -> Result<(), StoreError> {
        let left = self.lanes.iter().filter(|lane| lane.stream.is_some());
        let have = left.map(|lane| lane.shards.len()).sum::<usize>() as u8;
        let need = self.set.quorum.acknowledged(self.geometry.data_shards);
        if have >= need { Ok(()) } else { Err(self.set.below_quorum(need, have, &self.failures)) }
    }
}

/// A body on its way in, cut and encoded stripe by stripe.
struct Incoming<'a> {
    /// `None` once the rest was taken.
    cutter: Option<StripeCutter>,
    rest: Option<&'a mut BoxBody>,
    geometry: Geometry,
    salts: Arc<[Salt]>,
    stripe: u64,
    total: u64,
}

impl Incoming<'_> {
    fn push(&mut self, chunk: Bytes) {
        self.total += chunk.len() as u64;
        if let Some(cutter) = &mut self.cutter {
            cutter.push(chunk);
        }
    }

    /// The blocks of the next stripe, by shard; `None` behind the end.
    async fn next_blocks(&mut self) -> Result<Option<Vec<Bytes>>, StoreError> {
        let Some(body) = self.next_stripe().await? else { return Ok(None) };
        let (geometry, salts, stripe) = (self.geometry, self.salts.clone(), self.stripe);
        self.stripe += 1;
        let encode = move |body: &StripeBody| encode_pieces(&geometry, stripe, body, &salts);
        if body.len() < HEAVY_BYTES {
            return Ok(Some(encode(&body)));
        }
        Ok(Some(task::heavy(move || encode(&body)).await))
    }

    async fn next_stripe(&mut self) -> Result<Option<StripeBody>, StoreError> {
        loop {
            let Some(cutter) = &mut self.cutter else { return Ok(None) };
            if let Some(full) = cutter.next_stripe() {
                return Ok(Some(full));
            }
            let chunk = match &mut self.rest {
                Some(body) => body.next().await.transpose()?,
                None => None,
            };
            match chunk {
                Some(chunk) => self.push(chunk),
                None => return Ok(self.cutter.take().and_then(StripeCutter::finish)),
            }
            if self.total > limits::PART_BYTES_MAX {
                return Err(StoreError::EntityTooLarge);
            }
        }
    }
}

/// Sends one stripe's blocks down all lanes at once; answers which shards were lost and why.
async fn send(
    set: &SetShared,
    route: &Route,
    lanes: &mut [Lane],
    blocks: &[Bytes],
) -> Vec<(Vec<u8>, DriveError)> {
    let sends = lanes.iter_mut().map(|lane| async move {
        let stream = lane.stream.as_mut()?;
        let all = async {
            for (target, shard) in lane.shards.iter().enumerate() {
                stream.send(target, blocks[usize::from(*shard)].clone()).await?;
            }
            Ok(())
        };
        let sent = tokio::time::timeout(set.knobs.stream_idle, all).await;
        match sent.unwrap_or_else(|_| Err(late(set, route))) {
            Ok(()) => None,
            Err(error) => {
                lane.stream = None;
                Some((lane.shards.clone(), error))
            }
        }
    });
    join_all(sends).await.into_iter().flatten().collect()
}

/// That a node let a stream wait too long.
fn late(set: &SetShared, route: &Route) -> DriveError {
    let drive = set.slot(route.slots[0]).drive;
    DriveError::failed(drive, ErrorClass::TimedOut, "its node took no bytes in time")
}
