//! The set actor: owns what a set keeps in mutable state beside the drives' health: the settle notes
//! that wait for the next batch, and the probing of drives that are known to be down.
//!
//! ```text
//!  writers --Note--> [queue] --every settle_every, one message a node--> drives
//!  calls   --wake--> [probe] --Facts to drives that are down, until they answer--> health
//! ```
//!
//! A note that is lost costs nothing but a resolve: the drives hold the entry unsettled, and after
//! `resolve_after` their node resolves it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use holdfast_drive::api::{DriveReply, DriveRequest, Settle};
use holdfast_register::HolderMask;
use holdfast_types::{BucketStamp, DriveState, OperationId, VersionId, limits};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use crate::{
    set::{Route, SetShared},
    task,
};

/// Notes that wait at most; beyond it they are dropped and resolved later. About 200 bytes each.
const NOTES_MAX: usize = 65_536;

/// Every so many probes of drives that stay down, all are asked who is in the set.
const HEAR_EVERY: u32 = 10;

/// That an operation was chosen, and who holds its shards.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) route: Route,
    pub(crate) scope: BucketStamp,
    pub(crate) version: VersionId,
    pub(crate) operation: OperationId,
    pub(crate) holders: HolderMask,
}

/// The way to a set's actor.
pub(crate) struct Mail {
    notes: mpsc::Sender<Note>,
    wake: Arc<Notify>,
}

/// The receiving end of a [`Mail`].
pub(crate) struct Mailbox {
    notes: mpsc::Receiver<Note>,
    wake: Arc<Notify>,
}

/// A mailbox and the way to it.
pub(crate) fn mail() -> (Mail, Mailbox) {
    let (sender, receiver) = mpsc::channel(NOTES_MAX);
    let wake = Arc::new(Notify::new());
    (Mail { notes: sender, wake: wake.clone() }, Mailbox { notes: receiver, wake })
}

impl Mail {
    /// Hands over a note; a full queue drops it.
    pub(crate) fn settle(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            tracing::debug!("settle queue is full: left to the resolver");
        }
    }

    /// A drive went down: begin probing.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Starts the actor of `set`. It ends when the last handle of the set is gone.
pub(crate) fn start(set: &Arc<SetShared>, mailbox: Mailbox) {
    let actor = SetActor {
        set: Arc::downgrade(set),
        mailbox,
        queue: Vec::new(),
        flush_at: None,
        settle_every: set.knobs.settle_every,
        probe_every: set.knobs.probe_every,
        probes: 0,
        survey_every: set.knobs.background.then_some(set.knobs.survey_every),
    };
    task::detach(actor.run());
}

struct SetActor {
    set: Weak<SetShared>,
    mailbox: Mailbox,
    queue: Vec<Note>,
    flush_at: Option<Instant>,
    settle_every: Duration,
    probe_every: Duration,
    probes: u32,
    /// `None` when nothing runs in the background.
    survey_every: Option<Duration>,
}

impl SetActor {
    async fn run(mut self) {
        let mut probe_at: Option<Instant> = None;
        let mut survey_at = self.survey_every.map(task::after);
        loop {
            let flush_at = self.flush_at;
            tokio::select! {
                note = self.mailbox.notes.recv() => match note {
                    Some(note) => self.take(note),
                    None => return,
                },
                () = sleep_until(flush_at) => self.flush(),
                () = self.mailbox.wake.notified() => {
                    probe_at.get_or_insert_with(|| task::after(self.probe_every));
                }
                () = sleep_until(survey_at) => {
                    self.survey();
                    survey_at = self.survey_every.map(task::after);
                }
                () = sleep_until(probe_at) => {
                    let more = self.probe().await;
                    probe_at = more.then(|| task::after(self.probe_every));
                }
            }
        }
    }

    fn take(&mut self, note: Note) {
        self.queue.push(note);
        let most = limits::BATCH_REQUESTS_MAX / usize::from(holdfast_types::quorum::DRIVES_MAX);
        if self.queue.len() >= most {
            self.flush();
        } else if self.flush_at.is_none() {
            self.flush_at = Some(task::after(self.settle_every));
        }
    }

    /// Sends what has gathered, one message a node, without waiting for the answers.
    fn flush(&mut self) {
        self.flush_at = None;
        let notes = std::mem::take(&mut self.queue);
        let Some(set) = self.set.upgrade() else { return };
        task::detach(async move {
            set.settle_now(notes).await;
        });
    }

    /// Asks the drives that are up which of them are slow against their siblings, without waiting.
    fn survey(&self) {
        let Some(set) = self.set.upgrade() else { return };
        let mut nodes: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for slot in (0..usize::from(set.n())).filter(|slot| !set.health.is_down(*slot)) {
            nodes.entry(set.slot(slot).node).or_default().push(slot);
        }
        for slots in nodes.into_values() {
            let set = Arc::clone(&set);
            task::detach(async move {
                let batch = slots.iter().map(|s| (set.slot(*s).drive, DriveRequest::Facts));
                // Not counted as an answer: facts are told at once, however slow the device is.
                let call = set.node_of(slots[0]).call(set.knobs.call, batch.collect());
                let answers = tokio::time::timeout(set.knobs.call * 2, call).await;
                for (slot, answer) in slots.iter().zip(answers.unwrap_or_default()) {
                    if let Ok(DriveReply::Facts(facts)) = answer {
                        set.health.set_slow(*slot, facts.state == DriveState::Suspect);
                    }
                }
            });
        }
    }

    /// Asks the drives that are down for their facts. True while some are still down.
    async fn probe(&mut self) -> bool {
        let Some(set) = self.set.upgrade() else { return false };
        let down: Vec<usize> =
            (0..usize::from(set.n())).filter(|s| set.health.is_down(*s)).collect();
        // All at once: drives that hang must not keep one that is back from serving.
        let ask = |slot: usize| {
            let request = vec![(set.slot(slot).drive, DriveRequest::Facts)];
            let call = set.node_of(slot).call(self.probe_every, request);
            let answer = tokio::time::timeout(self.probe_every * 2, call);
            async move { (slot, answer.await.ok().and_then(|mut results| results.pop())) }
        };
        for (slot, facts) in futures::future::join_all(down.into_iter().map(ask)).await {
            // One that hangs tells its facts, too: while it is suspect it is not back.
            let is_back = |state: DriveState| state.serves() && state != DriveState::Suspect;
            let serves =
                matches!(&facts, Some(Ok(DriveReply::Facts(facts))) if is_back(facts.state));
            if serves && set.health.mark_up(slot) {
                tracing::info!(set = %set.index, drive = %set.place(slot), "drive is back");
            }
        }
        let more = set.health.down_count() > 0;
        self.probes += 1;
        if more && self.probes.is_multiple_of(HEAR_EVERY) {
            // Another drive may have taken the slot over, which nobody told.
            set.hear_members().await;
        }
        more
    }
}

/// Never, when there is no time to wait for.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl SetShared {
    /// Tells all drives that are up what was chosen, one message a node.
    pub(crate) async fn settle_now(self: &Arc<Self>, notes: Vec<Note>) {
        let mut requests = Vec::with_capacity(notes.len() * usize::from(self.n()));
        for note in notes {
            for shard in self.up(&note.route) {
                let settle = Settle {
                    scope: self.scope(note.scope),
                    key: note.route.key.clone(),
                    version: note.version,
                    operation: note.operation,
                    holders: note.holders,
                    set_size: self.n(),
                };
                let slot = note.route.slots[usize::from(shard)];
                requests.push((slot, DriveRequest::Settle(settle)));
            }
        }
        self.ask_slots(requests).await;
    }
}
