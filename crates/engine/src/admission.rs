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
    wait: Duration,
}

impl Admission {
    pub(crate) fn new(knobs: &Knobs) -> Self {
        // One request never asks for more than a u32 of permits.
        let bytes_max = knobs.body_bytes_max.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self {
            operations: Arc::new(Semaphore::new(knobs.operations_max)),
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
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
