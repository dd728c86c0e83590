//! Bodies on their way out: verified blocks of just enough shards, stripe by stripe, in order, with
//! bounded read-ahead; a shard that is late, rotten or gone is replaced by a spare.
//!
//! ```text
//!  k sources --fetch stripe s--> payloads --k of them--> decode --> channel (one stripe) --> client
//!      ^            | late: hedge with a spare, first k win and stay
//!      `-- spares --+ error, rot: a spare at once
//! ```
//!
//! Of a stripe that is wanted in part, only the data blocks with wanted bytes are fetched while their
//! drives serve; when one is late or fails, the stripe is restored from any k.
//!
//! An open stream keeps its drive's bytes, so a body of one piece is pinned only when reading it takes
//! long, for the spares' sake; the pieces still to come of a body of several are pinned at once.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use holdfast_drive::{
    api::{DriveError, DriveRequest, Pin},
    node::BlockStream,
};
use holdfast_erasure::decode_stripe;
use holdfast_register::Candidate;
use holdfast_types::{BucketStamp, Geometry, OperationId, RegisterKey};
use tokio::sync::mpsc;

use crate::{
    admission::Permit,
    api::ByteStream,
    blocks::{Target, is_of_block, next_block, open_blocks},
    error::StoreError,
    health::Kind,
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

/// A body of one piece that takes longer is pinned.
const PIN_AFTER: Duration = Duration::from_millis(250);

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
        let lease = self.set.knobs.pin_lease;
        let several = self.pieces.len() > 1;
        let mut pinned = false;
        let mut pin_at = task::after(if several { Duration::ZERO } else { PIN_AFTER });
        'pieces: for piece in &self.pieces {
            let mut body = self.body(piece);
            loop {
                if task::until(pin_at).is_zero() {
                    pin_at = task::after(lease / 3);
                    pinned = true;
                    self.pin(lease);
                }
                let Some(stripe) = body.next_stripe().await else { break };
                let failed = stripe.is_err();
                if sender.send(stripe).await.is_err() || failed {
                    break 'pieces;
                }
            }
        }
        drop(sender);
        if pinned {
            self.pin(Duration::ZERO);
        }
    }

    /// Pins the body's operations on the drives that are up (zero gives the pins back), so that an
    /// overwrite meanwhile does not free what is yet to be read. Nobody waits for it.
    fn pin(&self, lease: Duration) {
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
        let (set, requests) = (self.set.clone(), pinned.map(request).collect());
        task::detach(async move {
            set.ask_slots(requests).await;
        });
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
        let ready = chosen.map(Source::of).collect();
        BodyReader {
            target: Arc::new(target),
            wanted: piece.range.clone(),
            stripe: at,
            ready,
            spares,
            resting: Vec::new(),
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

/// One shard's stream of blocks.
struct Source {
    shard: u8,
    /// Opened at the first fetch.
    stream: Option<Opened>,
}

/// An open stream of blocks.
struct Opened {
    /// The block that comes next, and the last one.
    next: u64,
    last: u64,
    blocks: BlockStream,
}

impl Source {
    const fn of(shard: u8) -> Self {
        Self { shard, stream: None }
    }
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
    /// Shards of which a block of this stripe is rotten. From the next one on they are spares again,
    /// behind all others: as long as every stripe has k good blocks, whosever they are, it is read.
    resting: Vec<u8>,
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
        let needed = self.needed(stripe);
        let payloads = self.gather(stripe, needed.clone()).await?;
        let geometry = self.target.geometry;
        let start = stripe * geometry.stripe_bytes();
        let here =
            |shards: Range<u8>| shards.into_iter().all(|s| payloads[usize::from(s)].is_some());
        if here(needed.clone()) {
            let len = u64::from(geometry.payload_len(stripe));
            let from = start + u64::from(needed.start) * len;
            let data = needed.filter_map(|shard| payloads[usize::from(shard)].clone());
            return Ok(trim(data.collect(), from, &self.wanted));
        }
        let damaged = |e| StoreError::Internal { message: format!("decode stripe: {e}") };
        let bytes = if geometry.stripe_len(stripe) > HEAVY_BYTES {
            let decode = move || decode_stripe(&geometry, stripe, &payloads);
            task::heavy(decode).await.map_err(damaged)?
        } else {
            decode_stripe(&geometry, stripe, &payloads).map_err(damaged)?
        };
        Ok(trim(bytes, start, &self.wanted))
    }

    /// The data shards whose blocks of a stripe have wanted bytes.
    fn needed(&self, stripe: u64) -> Range<u8> {
        let geometry = self.target.geometry;
        let start = stripe * geometry.stripe_bytes();
        let end = start + geometry.stripe_len(stripe);
        let len = u64::from(geometry.payload_len(stripe));
        let from = self.wanted.start.clamp(start, end) - start;
        let to = self.wanted.end.clamp(start, end) - start;
        (from / len) as u8..to.div_ceil(len) as u8
    }

    /// The last block of a data shard with wanted bytes: all but the first and the last stripe are wanted
    /// whole.
    fn last_needed(&self, shard: u8) -> u64 {
        let last = self.target.last;
        if self.needed(last).contains(&shard) { last } else { last.saturating_sub(1) }
    }

    /// Verified payloads of one stripe, by shard: the `needed` ones, or any k.
    async fn gather(
        &mut self,
        stripe: u64,
        needed: Range<u8>,
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let k = usize::from(self.target.geometry.data_shards);
        let slots = &self.target.route.slots;
        let rested: Vec<usize> = self.resting.iter().map(|s| slots[usize::from(*s)]).collect();
        self.failures.retain(|(slot, _)| !rested.contains(slot));
        self.spares.extend(self.resting.drain(..));
        let mut payloads: Vec<Option<Bytes>> = vec![None; usize::from(self.target.set.n())];
        let mut running: FuturesUnordered<BoxFuture<'static, Fetched>> = FuturesUnordered::new();
        // Sources whose blocks are not wanted, as long as all is well.
        let mut idle = Vec::new();
        let ready = std::mem::take(&mut self.ready);
        let lean = needed.clone().all(|shard| ready.iter().any(|source| source.shard == shard));
        for source in ready {
            if lean && !needed.contains(&source.shard) {
                idle.push(source);
            } else {
                let last = if lean { self.last_needed(source.shard) } else { self.target.last };
                running.push(fetch(self.target.clone(), source, stripe, last.max(stripe)));
            }
        }
        let mut enough = if lean { needed.len() } else { k };
        loop {
            if self.ready.len() >= enough {
                self.ready.append(&mut idle);
                return Ok(payloads);
            }
            let late = tokio::time::timeout(self.patience(), running.next()).await;
            let well = match late {
                Ok(Some(fetched)) => self.take(fetched, &mut payloads),
                Err(_) if self.spares.is_empty() && idle.is_empty() => {
                    // Nobody is left to ask: wait for whom was asked.
                    let Some(fetched) = running.next().await else { return Err(self.too_few()) };
                    self.take(fetched, &mut payloads);
                    true
                }
                Ok(None) if self.spares.is_empty() && idle.is_empty() => {
                    return Err(self.too_few());
                }
                Err(_) | Ok(None) => false,
            };
            if !well {
                enough = k;
                for source in idle.drain(..) {
                    running.push(fetch(self.target.clone(), source, stripe, self.target.last));
                }
                self.call_spare(stripe, &running);
            }
        }
    }

    /// Takes what a source fetched; false when it failed.
    fn take(&mut self, fetched: Fetched, payloads: &mut [Option<Bytes>]) -> bool {
        let (shard, took, result) = fetched;
        let slot = self.target.route.slots[usize::from(shard)];
        match result {
            Ok((source, payload)) => {
                self.target.set.health.sample(slot, Kind::Block, took);
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
                self.target.set.learn(slot, &Err(error.clone()));
                self.failures.push((slot, describe(&error)));
                self.resting.extend(is_of_block(&error).then_some(shard));
                false
            }
        }
    }

    fn call_spare(&mut self, stripe: u64, running: &FuturesUnordered<BoxFuture<'static, Fetched>>) {
        if let Some(shard) = self.spares.pop_front() {
            running.push(fetch(self.target.clone(), Source::of(shard), stripe, self.target.last));
        }
    }

    /// How long a block may take before a spare is asked as well.
    fn patience(&self) -> Duration {
        self.target.set.late(&self.target.route, Kind::Block)
    }

    fn too_few(&self) -> StoreError {
        let need = self.target.geometry.data_shards;
        self.target.set.below_quorum(need, self.ready.len() as u8, &self.failures)
    }
}

/// From this size on restoring a stripe takes longer than a task may hold a worker.
const HEAVY_BYTES: u64 = 256 << 10;

/// The next block of a source, verified: the one of `stripe`.
fn fetch(
    target: Arc<Target>,
    source: Source,
    stripe: u64,
    last: u64,
) -> BoxFuture<'static, Fetched> {
    Box::pin(async move {
        let shard = source.shard;
        let begun = target.set.clock.monotonic_micros();
        let idle = target.set.knobs.stream_idle;
        let fetched = tokio::time::timeout(idle, fetch_block(&target, source, stripe, last)).await;
        let took = target.set.clock.monotonic_micros().saturating_sub(begun);
        let fetched = fetched.unwrap_or_else(|_| Err(target.late(shard)));
        (shard, Duration::from_micros(took), fetched)
    })
}

async fn fetch_block(
    target: &Target,
    mut source: Source,
    stripe: u64,
    last: u64,
) -> Result<(Source, Bytes), DriveError> {
    let mut opened = match source.stream.take() {
        Some(opened) if opened.next == stripe && stripe <= opened.last => opened,
        _ => {
            let blocks = open_blocks(target, source.shard, stripe, last - stripe + 1).await?;
            Opened { next: stripe, last, blocks }
        }
    };
    let block = next_block(target, source.shard, stripe, &mut opened.blocks).await?;
    opened.next += 1;
    source.stream = Some(opened);
    Ok((source, block))
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
