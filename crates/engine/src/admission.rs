//! Bounds on what goes on at once: operations and bytes of bodies in memory. What finds no room in
//! time is refused with [`StoreError::Overloaded`]; nothing queues without end.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{error::StoreError, knobs::Knobs};

/// Room taken; given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Permit {
    _room: Arc<OwnedSemaphorePermit>,
}

/// The bounds of one engine.
pub(crate) struct Admission {
    operations: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    stragglers: Arc<Semaphore>,
    straggler_bytes: Arc<Semaphore>,
    wait: Duration,
}

/// Room for a write that waits for its last drives after its answer.
pub(crate) struct StragglerPermit {
    _operation: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// What is in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Writes that were answered and still wait for some drives.
    pub stragglers: usize,
    /// Bytes of shards on their way to those drives.
    pub straggler_bytes: usize,
}

impl Admission {
    pub(crate) fn new(knobs: &Knobs) -> Self {
        // One request never asks for more than a u32 of permits.
        let bytes_max = knobs.body_bytes_max.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self {
            operations: Arc::new(Semaphore::new(knobs.operations_max)),
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            stragglers: Arc::new(Semaphore::new(knobs.stragglers_max)),
            straggler_bytes: Arc::new(Semaphore::new(straggler_bytes_max(knobs))),
            wait: knobs.admission_wait,
        }
    }

    /// Room for one operation.
    pub(crate) async fn operation(&self) -> Result<Permit, StoreError> {
        self.admit(&self.operations, 1, "operations in flight").await
    }

    /// Room for `bytes` of bodies in memory; a request larger than all there is waits for all of it.
    pub(crate) async fn bytes(&self, bytes: usize) -> Result<Permit, StoreError> {
        let bytes = bytes.min(self.bytes_max) as u32;
        self.admit(&self.bytes, bytes, "bytes of bodies in memory").await
    }

    /// Room for a write that waits for its last drives, at once or not at all: a client never waits for
    /// it.
    pub(crate) fn straggler(&self, bytes: usize) -> Option<StragglerPermit> {
        let bytes = u32::try_from(bytes).ok()?;
        Some(StragglerPermit {
            _operation: self.stragglers.clone().try_acquire_owned().ok()?,
            _bytes: self.straggler_bytes.clone().try_acquire_many_owned(bytes).ok()?,
        })
    }

    /// What of the bounds is taken.
    pub(crate) fn load(&self, knobs: &Knobs) -> Load {
        let bytes_max = straggler_bytes_max(knobs);
        Load {
            stragglers: knobs.stragglers_max - self.stragglers.available_permits(),
            straggler_bytes: bytes_max - self.straggler_bytes.available_permits(),
        }
    }

    async fn admit(
        &self,
        semaphore: &Arc<Semaphore>,
        permits: u32,
        what: &str,
    ) -> Result<Permit, StoreError> {
        if let Ok(room) = semaphore.clone().try_acquire_many_owned(permits) {
            return Ok(Permit { _room: Arc::new(room) });
        }
        let acquire = semaphore.clone().acquire_many_owned(permits);
        match tokio::time::timeout(self.wait, acquire).await {
            Ok(room) => {
                let room = room.expect("the engine never closes its semaphores");
                Ok(Permit { _room: Arc::new(room) })
            }
            Err(_) => Err(StoreError::Overloaded { message: format!("bound on {what} reached") }),
        }
    }
}

fn straggler_bytes_max(knobs: &Knobs) -> usize {
    knobs.straggler_bytes_max.min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the bound holds, is given back, and a wait ends. Method: take all, ask again.
    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_in_time_is_refused() {
        let knobs = Knobs { operations_max: 1, body_bytes_max: 100, ..Knobs::default() };
        let admission = Admission::new(&knobs);
        let first = admission.operation().await.unwrap();
        let second = admission.operation().await;
        assert!(matches!(second, Err(StoreError::Overloaded { .. })));
        drop(first);
        assert!(admission.operation().await.is_ok());
        let all = admission.bytes(1000).await.unwrap();
        assert!(admission.bytes(1).await.is_err());
        drop(all);
        assert!(admission.bytes(1).await.is_ok());
    }
}
