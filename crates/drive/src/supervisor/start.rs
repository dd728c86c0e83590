//! [`start_supervisor`]: the actix system of a node on an operating system thread of its own, and the
//! handle that tokio code uses.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use holdfast_types::{DriveId, DriveState};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Fail, NodeConfig, NodeShared, NodeSupervisor, Reseat, SeatView, Shutdown, Trouble};
use crate::{
    actor::Place,
    api::{DriveFacts, DriveReply, DriveRequest},
    local::LocalNode,
    node::Node as _,
};

/// Drives on one Arbiter, unless told otherwise: few enough that one drive's bursts do not delay many
/// others, enough that a request to a node costs few thread hops (DESIGN section 5).
const DRIVES_PER_ARBITER: usize = 4;

/// Why a node's drives cannot be started at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system gives no thread.
    #[error("start the drives' threads: {0}")]
    Thread(#[from] std::io::Error),
    /// The actor system ended before it began.
    #[error("start the drives' actors: their thread ended")]
    System,
}

/// Arbiters for `drives` drives: the number asked for, else one for every four.
#[must_use]
pub fn arbiters_of(drives: usize, asked: Option<usize>) -> usize {
    asked.unwrap_or(drives.div_ceil(DRIVES_PER_ARBITER)).clamp(1, drives.max(1))
}

/// Starts a node's drives. Returns at once: drives are opened in the background, see
/// [`NodeHandle::opened`].
///
/// # Errors
/// [`StartError`].
pub fn start_supervisor(config: NodeConfig) -> Result<NodeHandle, StartError> {
    let shared = Arc::new(NodeShared::new(
        config.name.clone(),
        config.clock.clone(),
        config.limits,
        config.seats.len(),
    ));
    let (started, address) = std::sync::mpsc::sync_channel(1);
    let given = Arc::clone(&shared);
    let body = move || {
        let system = System::new();
        system.block_on(async move {
            let count = arbiters_of(config.seats.len(), config.arbiters);
            let places: Vec<_> = (0..count).map(|_| Place::On(Arbiter::new().handle())).collect();
            let supervisor = NodeSupervisor::new(config, given, &places).start();
            // The starter waits for it.
            let _ = started.send((supervisor, System::current()));
        });
        if let Err(error) = system.run() {
            tracing::error!(%error, "the drives' actor system ended");
        }
    };
    let thread = std::thread::Builder::new().name("hf-node".to_owned()).spawn(body)?;
    let (supervisor, system) = address.recv().map_err(|_| StartError::System)?;
    Ok(NodeHandle { shared, supervisor, system, thread: Arc::new(Mutex::new(Some(thread))) })
}

/// A seat of a running node, without asking its drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeatReport {
    /// Its path.
    pub path: String,
    /// Who serves there; else who is expected.
    pub drive: Option<DriveId>,
    /// Whether a drive serves there.
    pub serves: bool,
    /// Whether one is being opened, or closed: its folder is not free.
    pub is_busy: bool,
    /// What is the matter, when none does.
    pub trouble: Trouble,
    /// Why, in words.
    pub reason: String,
}

/// A running node.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<NodeShared>,
    supervisor: Addr<NodeSupervisor>,
    system: System,
    thread: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl NodeHandle {
    /// The carrier to its drives.
    #[must_use]
    pub fn node(&self) -> Arc<LocalNode> {
        Arc::new(LocalNode::new(Arc::clone(&self.shared)))
    }

    /// The seats, in the order of the configuration.
    #[must_use]
    pub fn seats(&self) -> Vec<SeatReport> {
        let report = |seat: &SeatView| SeatReport {
            path: seat.path.clone(),
            drive: seat.drive,
            serves: seat.route.is_some(),
            is_busy: seat.is_opening || seat.is_closing,
            trouble: seat.trouble,
            reason: seat.reason.clone(),
        };
        self.shared.routes().seats.iter().flatten().map(report).collect()
    }

    /// Another drive is in a seat's folder: opens it, after closing the one that serves.
    pub fn reseat(&self, seat: usize, expected: DriveId) {
        self.supervisor.do_send(Reseat { seat, expected: Some(expected) });
    }

    /// What `drive` lies on is gone from under it: it serves no more.
    pub fn fail(&self, seat: usize, drive: DriveId, state: DriveState, reason: String) {
        self.supervisor.do_send(Fail { seat, drive, state, reason });
    }

    /// Waits until each drive serves or is known not to, at most for `patience`. `false` when some
    /// are still being opened: they join when they are.
    pub async fn opened(&self, patience: Duration) -> bool {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                // Listening begins before the look, so that no change falls between.
                changed.as_mut().enable();
                if self.shared.is_settled() {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(patience, wait).await.is_ok()
    }

    /// Facts of every seat, in the order of the configuration; a drive that does not answer within
    /// `patience` is listed with what is known of it.
    pub async fn drives(&self, patience: Duration) -> Vec<DriveFacts> {
        let routes = self.shared.routes();
        let seats: Vec<_> = routes.seats.iter().flatten().cloned().collect();
        let serving: Vec<_> = seats
            .iter()
            .filter(|seat| seat.route.is_some())
            .filter_map(|seat| seat.drive)
            .collect();
        let batch = serving.iter().map(|drive| (*drive, DriveRequest::Facts)).collect();
        let answers = self.node().call(patience, batch).await;
        let mut found = std::collections::HashMap::new();
        for (drive, answer) in serving.into_iter().zip(answers) {
            match answer {
                Ok(DriveReply::Facts(facts)) => found.insert(drive, Ok(facts)),
                Ok(_) => None,
                Err(error) => found.insert(drive, Err(error.to_string())),
            };
        }
        let facts_of = |seat: SeatView| {
            let serving = seat.route.as_ref().and(seat.drive);
            match serving.and_then(|drive| found.remove(&drive)) {
                Some(Ok(facts)) => DriveFacts { path: seat.path, ..facts },
                Some(Err(reason)) => {
                    DriveFacts { state: DriveState::Suspect, reason, ..seat.facts() }
                }
                None => seat.facts(),
            }
        };
        seats.into_iter().map(facts_of).collect()
    }

    /// Ends the node: new requests are refused, what is under way has `patience` to end, each drive's
    /// log gets a last flush. `false` when some drive did not close in time: what it acknowledged is
    /// safe all the same.
    pub async fn shutdown(&self, patience: Duration) -> bool {
        self.shared.close();
        let drained = self.shared.operations.acquire_many(self.shared.limits.operations as u32);
        let drained = tokio::time::timeout(patience / 2, drained).await.is_ok();
        let (done, closed) = oneshot::channel();
        let tell = move || {
            let _ = done.send(());
        };
        self.supervisor.do_send(Shutdown { done: Box::new(tell) });
        let closed = tokio::time::timeout(patience, closed).await.is_ok_and(|sent| sent.is_ok());
        self.system.stop();
        let thread = self.thread.lock().take();
        if let (true, Some(thread)) = (closed, thread) {
            // It ends by itself now; waiting for it is not this runtime's work.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        drained && closed
    }
}
