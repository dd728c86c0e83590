//! Bodies on their way out: verified blocks of just enough shards, stripe by stripe, in order, with
//! bounded read-ahead; a shard that is late, rotten or gone is replaced by a spare.
//!
//! ```text
//!  k sources --fetch stripe s--> payloads --k of them--> decode --> channel (one stripe) --> client
//!      ^            | late: hedge with a spare, first k win and stay
//!      `-- spares --+ error, rot: a spare at once
//! ```

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use holdfast_drive::{
    api::{DriveError, DriveRequest, Pin, ShardRead},
    node::BlockStream,
};
use holdfast_erasure::{decode_stripe, open_block};
use holdfast_register::{Candidate, Refusal};
use holdfast_types::{
    BucketStamp, ErrorClass, Geometry, OperationId, RegisterKey, ShardIndex, VersionId,
};
use tokio::sync::mpsc;

use crate::{
    admission::Permit,
    api::ByteStream,
    error::StoreError,
    report::{Suspected, tells_of_rot},
    set::{Route, SetHandle, SetShared, describe},
    task,
};

/// Stripes of one request in memory at most: one at the client, one in the channel, one being read,
/// one ahead in the drives' streams.
const STRIPES_IN_MEMORY: usize = 4;

/// One body, or one part of one, and what of it is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) operation: OperationId,
    pub(crate) geometry: Geometry,
    pub(crate) range: Range<u64>,
}

/// Cuts `range` of an entry's body into pieces of its own data or of its parts.
pub(crate) fn pieces(candidate: &Candidate, range: &Range<u64>) -> Vec<Piece> {
    let entry = &candidate.entry;
    let own = entry.geometry.has_data().then_some((entry.operation, entry.geometry));
    let parts = entry.parts.iter().map(|part| (part.operation, part.geometry));
    let mut start = 0;
    let mut found = Vec::new();
    for (operation, geometry) in own.into_iter().chain(parts) {
        let end = start + geometry.size;
        let from = range.start.clamp(start, end) - start;
        let to = range.end.clamp(start, end) - start;
        if from < to {
            found.push(Piece { operation, geometry, range: from..to });
        }
        start = end;
    }
    found
}

impl SetHandle {
    /// The bytes `range` of a candidate's body, its first stripe read already: every later chunk is
    /// verified, too, and the same entry is read to the end.
    ///
    /// # Errors
    /// [`StoreError::BelowQuorum`] when fewer than k shards can be read.
    pub async fn open_body(
        &self,
        scope: BucketStamp,
        key: &RegisterKey,
        candidate: &Candidate,
        range: Range<u64>,
    ) -> Result<ByteStream, StoreError> {
        let pieces = pieces(candidate, &range);
        let set = &self.shared;
        let Some(widest) = pieces.iter().map(|piece| piece.geometry.stripe_bytes()).max() else {
            return Ok(stream::empty().boxed());
        };
        let wanted: u64 = pieces.iter().map(|piece| piece.range.end - piece.range.start).sum();
        let room = wanted.min(widest).saturating_mul(STRIPES_IN_MEMORY as u64);
        let permit = set.admission.bytes(room as usize).await?;
        let reader = Reader {
            set: set.clone(),
            route: set.route(key)?,
            scope,
            pieces,
            candidate: candidate.clone(),
            lease: OperationId::draw(set.random.as_ref()),
            _permit: permit,
        };
        let (sender, mut receiver) = mpsc::channel(1);
        task::detach(reader.run(sender));
        let first = match receiver.recv().await {
            Some(first) => first?,
            None => return Ok(stream::empty().boxed()),
        };
        let rest = stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let all = stream::once(async { Ok(first) }).chain(rest);
        let flat = all.flat_map(|stripe: Result<Vec<Bytes>, StoreError>| match stripe {
            Ok(chunks) => stream::iter(chunks.into_iter().map(Ok)).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        });
        Ok(flat.boxed())
    }
}

type StripeSender = mpsc::Sender<Result<Vec<Bytes>, StoreError>>;

/// Reads the pieces of one body one after the other.
struct Reader {
    set: Arc<SetShared>,
    route: Route,
    scope: BucketStamp,
    pieces: Vec<Piece>,
    candidate: Candidate,
    lease: OperationId,
    _permit: Permit,
}

impl Reader {
    async fn run(self, sender: StripeSender) {
        self.pin(self.set.knobs.pin_lease).await;
        let lease = self.set.knobs.pin_lease;
        let mut renew_at = task::after(lease / 3);
        'pieces: for piece in &self.pieces {
            let mut body = self.body(piece);
            while let Some(stripe) = body.next_stripe().await {
                let failed = stripe.is_err();
                if sender.send(stripe).await.is_err() || failed {
                    break 'pieces;
                }
                if task::until(renew_at).is_zero() {
                    renew_at = task::after(lease / 3);
                    self.pin(lease).await;
                }
            }
        }
        drop(sender);
        self.pin(Duration::ZERO).await;
    }

    /// Pins the body's operations on the drives that are up (zero gives the pins back), so that an
    /// overwrite meanwhile does not free what is being read.
    async fn pin(&self, lease: Duration) {
        let pin = Pin {
            operations: self.pieces.iter().map(|piece| piece.operation).collect(),
            lease: self.lease,
            ttl_micros: lease.as_micros() as u64,
        };
        let k = self.pieces.iter().map(|p| usize::from(p.geometry.data_shards)).max();
        let shards = self.set.sources(&self.route, &self.candidate, k.unwrap_or_default() as u8);
        let pinned = shards.into_iter().take(k.unwrap_or_default() + 1);
        let request =
            |shard: u8| (self.route.slots[usize::from(shard)], DriveRequest::Pin(pin.clone()));
        self.set.ask_slots(pinned.map(request).collect()).await;
    }

    fn body(&self, piece: &Piece) -> BodyReader {
        let k = piece.geometry.data_shards;
        let mut spares: VecDeque<u8> = self.set.sources(&self.route, &self.candidate, k).into();
        let at = piece.range.start / piece.geometry.stripe_bytes();
        let target = Target {
            set: self.set.clone(),
            route: self.route.clone(),
            scope: self.scope,
            version: self.candidate.version,
            operation: piece.operation,
            geometry: piece.geometry,
            last: (piece.range.end - 1) / piece.geometry.stripe_bytes(),
        };
        let chosen = spares.drain(..usize::from(k).min(spares.len()));
        let ready = chosen.map(|shard| Source { shard, stream: None }).collect();
        BodyReader {
            target: Arc::new(target),
            wanted: piece.range.clone(),
            stripe: at,
            ready,
            spares,
            failures: Vec::new(),
        }
    }
}

impl SetShared {
    /// Shards in the order in which they should be read: drives that are up and known to hold theirs
    /// first, then data shards before parity, then local ones.
    pub(crate) fn sources(&self, route: &Route, candidate: &Candidate, k: u8) -> Vec<u8> {
        let mut shards: Vec<u8> = (0..self.n()).collect();
        let own = candidate.entry.geometry.has_data();
        let rank = |shard: u8| {
            let slot = route.slots[usize::from(shard)];
            let away = self.health.is_down(slot);
            let unsure = own && !candidate.shards.has(shard);
            let local = Some(self.slot(slot).node) == self.local;
            (away, self.health.is_suspect(slot), shard >= k, unsure, !local, shard)
        };
        shards.sort_by_key(|shard| rank(*shard));
        shards
    }
}

/// What is read, shared by all sources.
pub(crate) struct Target {
    pub(crate) set: Arc<SetShared>,
    pub(crate) route: Route,
    pub(crate) scope: BucketStamp,
    /// The register that names the bytes.
    pub(crate) version: VersionId,
    pub(crate) operation: OperationId,
    pub(crate) geometry: Geometry,
    /// The last stripe wanted.
    pub(crate) last: u64,
}

impl Target {
    /// Takes note that a shard could not be read: its drive is told, when it may be the shard's fault.
    pub(crate) fn unreadable(&self, shard: u8, error: &DriveError) {
        if tells_of_rot(error) {
            let (version, operation) = (self.version, self.operation);
            self.set.report(self.scope, &self.route, Suspected { version, operation, shard });
        }
    }
}

/// One shard's stream of blocks.
struct Source {
    shard: u8,
    /// Opened at the first fetch.
    stream: Option<BlockStream>,
}

type Fetched = (u8, Duration, Result<(Source, Bytes), DriveError>);

/// Reads one body, or one part, stripe by stripe.
struct BodyReader {
    target: Arc<Target>,
    /// Bytes of the body that are wanted.
    wanted: Range<u64>,
    /// The next stripe.
    stripe: u64,
    /// The k sources of the next stripe.
    ready: Vec<Source>,
    spares: VecDeque<u8>,
    failures: Vec<(usize, String)>,
}

impl BodyReader {
    /// The next stripe's wanted bytes; `None` behind the last one.
    async fn next_stripe(&mut self) -> Option<Result<Vec<Bytes>, StoreError>> {
        if self.stripe > self.target.last {
            return None;
        }
        let stripe = self.stripe;
        self.stripe += 1;
        Some(self.read_stripe(stripe).await)
    }

    async fn read_stripe(&mut self, stripe: u64) -> Result<Vec<Bytes>, StoreError> {
        let payloads = self.gather(stripe).await?;
        let geometry = self.target.geometry;
        let damaged = |e| StoreError::Internal { message: format!("decode stripe: {e}") };
        let lost_data = payloads[..usize::from(geometry.data_shards)].iter().any(Option::is_none);
        let bytes = if lost_data && geometry.stripe_len(stripe) > HEAVY_BYTES {
            let decode = move || decode_stripe(&geometry, stripe, &payloads);
            task::heavy(decode).await.map_err(damaged)?
        } else {
            decode_stripe(&geometry, stripe, &payloads).map_err(damaged)?
        };
        Ok(trim(bytes, stripe * geometry.stripe_bytes(), &self.wanted))
    }

    /// k verified payloads of one stripe, by shard.
    async fn gather(&mut self, stripe: u64) -> Result<Vec<Option<Bytes>>, StoreError> {
        let k = usize::from(self.target.geometry.data_shards);
        let mut payloads: Vec<Option<Bytes>> = vec![None; usize::from(self.target.set.n())];
        let mut running: FuturesUnordered<BoxFuture<'static, Fetched>> = FuturesUnordered::new();
        for source in std::mem::take(&mut self.ready) {
            running.push(fetch(self.target.clone(), source, stripe));
        }
        while self.ready.len() < k {
            let late = tokio::time::timeout(self.patience(), running.next()).await;
            match late {
                Err(_) if !self.spares.is_empty() => self.call_spare(stripe, &running),
                Err(_) => {
                    // Nobody is left to ask: wait for whom was asked.
                    let Some(fetched) = running.next().await else { return Err(self.too_few()) };
                    self.take(fetched, &mut payloads);
                }
                Ok(Some(fetched)) => {
                    if !self.take(fetched, &mut payloads) {
                        self.call_spare(stripe, &running);
                    }
                }
                Ok(None) if self.spares.is_empty() => return Err(self.too_few()),
                Ok(None) => self.call_spare(stripe, &running),
            }
        }
        Ok(payloads)
    }

    /// Takes what a source fetched; false when it failed.
    fn take(&mut self, fetched: Fetched, payloads: &mut [Option<Bytes>]) -> bool {
        let (shard, took, result) = fetched;
        let slot = self.target.route.slots[usize::from(shard)];
        match result {
            Ok((source, payload)) => {
                self.target.set.health.sample(slot, took);
                payloads[usize::from(shard)] = Some(payload);
                self.ready.push(source);
                true
            }
            Err(error) => {
                tracing::warn!(
                    set = %self.target.set.index, drive = %self.target.set.place(slot), shard,
                    operation = %self.target.operation, %error, "shard not read"
                );
                self.target.unreadable(shard, &error);
                self.target.set.learn(slot, &Err(error.clone()), took);
                self.failures.push((slot, describe(&error)));
                false
            }
        }
    }

    fn call_spare(&mut self, stripe: u64, running: &FuturesUnordered<BoxFuture<'static, Fetched>>) {
        if let Some(shard) = self.spares.pop_front() {
            running.push(fetch(self.target.clone(), Source { shard, stream: None }, stripe));
        }
    }

    /// How long a block may take before a spare is asked as well.
    fn patience(&self) -> Duration {
        let set = &self.target.set;
        let slots = self.target.route.slots.iter().filter(|slot| !set.health.is_down(**slot));
        let late = slots.map(|slot| set.health.late_after(*slot)).min().unwrap_or_default();
        (late * 2).max(set.knobs.hedge_min)
    }

    fn too_few(&self) -> StoreError {
        let need = self.target.geometry.data_shards;
        self.target.set.below_quorum(need, self.ready.len() as u8, &self.failures)
    }
}

/// From this size on restoring a stripe takes longer than a task may hold a worker.
const HEAVY_BYTES: u64 = 256 << 10;

/// The next block of a source, verified: the one of `stripe`.
fn fetch(target: Arc<Target>, source: Source, stripe: u64) -> BoxFuture<'static, Fetched> {
    Box::pin(async move {
        let shard = source.shard;
        let begun = target.set.clock.monotonic_micros();
        let idle = target.set.knobs.stream_idle;
        let fetched = tokio::time::timeout(idle, fetch_block(&target, source, stripe)).await;
        let slot = target.route.slots[usize::from(shard)];
        let late = || {
            let drive = target.set.slot(slot).drive;
            Err(DriveError::failed(drive, ErrorClass::TimedOut, "no block in time"))
        };
        let took = target.set.clock.monotonic_micros().saturating_sub(begun);
        (shard, Duration::from_micros(took), fetched.unwrap_or_else(|_| late()))
    })
}

async fn fetch_block(
    target: &Target,
    mut source: Source,
    stripe: u64,
) -> Result<(Source, Bytes), DriveError> {
    let mut blocks = match source.stream.take() {
        Some(blocks) => blocks,
        None => open_blocks(target, source.shard, stripe, target.last - stripe + 1).await?,
    };
    let block = next_block(target, source.shard, stripe, &mut blocks).await?;
    source.stream = Some(blocks);
    Ok((source, block))
}

/// Opens a stream of single blocks of a shard.
pub(crate) async fn open_blocks(
    target: &Target,
    shard: u8,
    first_block: u64,
    block_count: u64,
) -> Result<BlockStream, DriveError> {
    let slot = target.route.slots[usize::from(shard)];
    let read = || ShardRead {
        drive: target.set.slot(slot).drive,
        scope: target.set.scope(target.scope),
        operation: target.operation,
        shard: ShardIndex(shard),
        geometry: target.geometry,
        first_block,
        block_count,
    };
    let drive = target.set.slot(slot).drive;
    let opened = target.set.node_of(slot).read_shard(read()).await;
    let mut chunks = match opened {
        Err(DriveError::Refused { refusal: Refusal::SetOutdated { current }, .. }) => {
            target.set.refresh(current).await;
            target.set.node_of(slot).read_shard(read()).await?
        }
        opened => opened?,
    };
    let geometry = target.geometry;
    // A chunk may hold several blocks, or a part of one: cut them anew.
    let mut rest = BytesMut::new();
    let mut block = first_block;
    let single = stream::poll_fn(move |cx| {
        loop {
            if block >= first_block + block_count || block >= geometry.stripe_count() {
                return std::task::Poll::Ready(None);
            }
            let len = geometry.block_len(block) as usize;
            if rest.len() >= len {
                block += 1;
                return std::task::Poll::Ready(Some(Ok(rest.split_to(len).freeze())));
            }
            match std::task::ready!(chunks.poll_next_unpin(cx)) {
                // The usual case: one block a chunk, not copied.
                Some(Ok(chunk)) if rest.is_empty() && chunk.len() == len => {
                    block += 1;
                    return std::task::Poll::Ready(Some(Ok(chunk)));
                }
                Some(Ok(mut chunk)) => {
                    rest.extend_from_slice(&chunk);
                    chunk.advance(chunk.len());
                }
                Some(Err(error)) => return std::task::Poll::Ready(Some(Err(error))),
                None => {
                    let short = "the shard's stream ended early";
                    let error = DriveError::failed(drive, ErrorClass::Damaged, short);
                    return std::task::Poll::Ready(Some(Err(error)));
                }
            }
        }
    });
    Ok(single.boxed())
}

/// The payload of the next block of a stream, verified (INV-BLOCK-1).
pub(crate) async fn next_block(
    target: &Target,
    shard: u8,
    block: u64,
    blocks: &mut BlockStream,
) -> Result<Bytes, DriveError> {
    let slot = target.route.slots[usize::from(shard)];
    let drive = target.set.slot(slot).drive;
    let ended = || DriveError::failed(drive, ErrorClass::Damaged, "the shard's stream ended early");
    let sealed = blocks.next().await.ok_or_else(ended)??;
    let salt = target.set.salt(&target.route, target.operation, shard);
    let payload = open_block(&salt, block, &sealed);
    let rotten = |e: holdfast_erasure::BlockError| {
        DriveError::failed(drive, ErrorClass::Damaged, e.to_string())
    };
    let len = payload.map_err(rotten)?.len();
    Ok(sealed.slice(..len))
}

/// Cuts a stripe's pieces, which begin at `start` of the body, down to what is wanted of it.
fn trim(pieces: Vec<Bytes>, start: u64, wanted: &Range<u64>) -> Vec<Bytes> {
    let mut at = start;
    let mut kept = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let end = at + piece.len() as u64;
        let from = wanted.start.clamp(at, end) - at;
        let to = wanted.end.clamp(at, end) - at;
        if from < to {
            kept.push(piece.slice(from as usize..to as usize));
        }
        at = end;
    }
    kept
}
