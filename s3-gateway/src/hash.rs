//! Hashes a body while it passes: MD5, and one additional checksum, beside the engine's encoding.
//!
//! MD5 of one body runs at 0.7 GB/s and would be the ceiling of every PUT, and half of its work. The first
//! bytes are hashed where they arrive, which is cheaper than waking another thread; the rest of a longer
//! body is hashed in [`crate::hash_pool`] together with others', while the engine encodes and sends what
//! has already passed. A checksum that costs more than MD5 in company has a thread for its batches.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use holdfast_engine::{
    StoreError,
    api::BodyDigest,
    checksum::{Algorithm, Digester},
};
use tokio::task::JoinHandle;

use crate::hash_pool::PooledBody;

/// Hashed where they arrive: 256 KiB take about 400 us.
const INLINE_BYTES: u64 = 256 << 10;

/// One trip to another thread (about 20 us of wake-ups) is worth about 800 us of hashing.
const BATCH_BYTES: usize = 512 << 10;

/// What may wait for its hash; bounds the memory of one upload.
const BACKLOG_BYTES_MAX: usize = 4 << 20;

/// The hashes, and the bytes they have not seen yet.
pub(crate) struct HashLane {
    total: u64,
    state: State,
}

enum State {
    Here(Box<Digester>),
    Pooled(PooledBody),
    Alone(Alone),
    Gone,
}

impl HashLane {
    pub(crate) fn new(algorithm: Option<Algorithm>) -> Self {
        Self { total: 0, state: State::Here(Box::new(Digester::new(algorithm))) }
    }

    /// Takes in bytes of the body. They are shared, not copied.
    pub(crate) fn push(&mut self, bytes: &Bytes) {
        self.total += bytes.len() as u64;
        if self.total > INLINE_BYTES {
            self.send_away();
        }
        match &mut self.state {
            State::Here(hashes) => hashes.update(bytes),
            State::Pooled(body) => body.push(bytes),
            State::Alone(alone) => alone.push(bytes),
            State::Gone => unreachable!("nothing is pushed after the end"),
        }
    }

    /// Ready when more bytes may be pushed.
    pub(crate) fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        match &mut self.state {
            State::Pooled(body) => body.poll_room(context).map_err(|_| lost()),
            State::Alone(alone) => alone.poll_room(context),
            State::Here(_) | State::Gone => Poll::Ready(Ok(())),
        }
    }

    /// The hashes of everything pushed. Must not be called again once it was ready.
    pub(crate) fn poll_finish(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<BodyDigest, StoreError>> {
        match &mut self.state {
            State::Pooled(body) => {
                let hashes = ready!(body.poll_finish(context)).map_err(|_| lost())?;
                self.state = State::Here(hashes);
            }
            State::Alone(alone) => {
                let hashes = ready!(alone.poll_finish(context))?;
                self.state = State::Here(hashes);
            }
            State::Here(_) | State::Gone => {}
        }
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Here(hashes) => Poll::Ready(Ok(hashes.finish())),
            _ => Poll::Ready(Err(lost())),
        }
    }

    /// The body is long: from here on its hashes are computed elsewhere.
    fn send_away(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Here(hashes) if hashes.is_slow() => State::Alone(Alone::new(hashes)),
            State::Here(hashes) => State::Pooled(PooledBody::new(hashes)),
            elsewhere => elsewhere,
        };
    }
}

/// Hashes that work through batches on a blocking thread of their own.
struct Alone {
    /// `None` while they are away.
    hashes: Option<Box<Digester>>,
    away: Option<JoinHandle<Box<Digester>>>,
    backlog: Vec<Bytes>,
    backlog_bytes: usize,
}

impl Alone {
    const fn new(hashes: Box<Digester>) -> Self {
        Self { hashes: Some(hashes), away: None, backlog: Vec::new(), backlog_bytes: 0 }
    }

    fn push(&mut self, bytes: &Bytes) {
        self.backlog_bytes += bytes.len();
        self.backlog.push(bytes.clone());
        self.send_batch();
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        while self.backlog_bytes > BACKLOG_BYTES_MAX {
            ready!(self.poll_home(context))?;
            self.send_batch();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Box<Digester>, StoreError>> {
        ready!(self.poll_home(context))?;
        if self.backlog_bytes >= BATCH_BYTES {
            self.send_batch();
            ready!(self.poll_home(context))?;
        }
        let Some(mut hashes) = self.hashes.take() else { return Poll::Ready(Err(lost())) };
        self.backlog.drain(..).for_each(|bytes| hashes.update(&bytes));
        Poll::Ready(Ok(hashes))
    }

    fn send_batch(&mut self) {
        if self.backlog_bytes < BATCH_BYTES {
            return;
        }
        let Some(mut hashes) = self.hashes.take() else { return };
        let batch = std::mem::take(&mut self.backlog);
        self.backlog_bytes = 0;
        self.away = Some(tokio::task::spawn_blocking(move || {
            batch.iter().for_each(|bytes| hashes.update(bytes));
            hashes
        }));
    }

    fn poll_home(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        if let Some(job) = &mut self.away {
            let hashes = ready!(Pin::new(job).poll(context)).map_err(|_| lost())?;
            (self.hashes, self.away) = (Some(hashes), None);
        }
        Poll::Ready(Ok(()))
    }
}

fn lost() -> StoreError {
    StoreError::Internal { message: "hash body: the hashing thread ended early".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: where the bytes are hashed does not show. Method: bodies around every threshold, cut
    /// unevenly, against one pass.
    #[tokio::test]
    async fn inline_and_offloaded_hashes_agree() {
        let sizes = [0, 1, 262_144, 262_145, 800_000, 9_000_000];
        let algorithms = [Algorithm::Crc32c, Algorithm::Sha256];
        for (algorithm, size) in algorithms.iter().flat_map(|a| sizes.map(|size| (*a, size))) {
            let body = Bytes::from((0..size).map(|at: u32| (at % 251) as u8).collect::<Vec<_>>());
            let mut lane = HashLane::new(Some(algorithm));
            let mut rest = body.clone();
            while !rest.is_empty() {
                std::future::poll_fn(|context| lane.poll_room(context)).await.unwrap();
                lane.push(&rest.split_to(rest.len().min(70_001)));
            }
            let digest = std::future::poll_fn(|context| lane.poll_finish(context)).await.unwrap();
            let mut whole = Digester::new(Some(algorithm));
            whole.update(&body);
            assert_eq!(digest, whole.finish(), "{size}");
        }
    }
}
