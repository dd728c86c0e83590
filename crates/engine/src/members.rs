//! Who is in a set, as this process knows it: the newest membership it was told of, replaced whole.
//!
//! A membership is decided by a register of the set and issued to its drives (`membership`); this is the
//! copy under which requests go out. It may be old: drives that have adopted a newer epoch refuse, and
//! [`SetShared::refresh`] asks them for theirs.

use std::{collections::HashSet, sync::Arc};

use holdfast_drive::api::{DriveReply, DriveRequest, DriveResult, MemberReply, MemberRequest};
use holdfast_placement::SetLayout;
use holdfast_types::{NodeIndex, SetEpoch};
use parking_lot::RwLock;
use tokio::sync::{Mutex, watch};

use crate::set::{SetShared, Slot};

/// Times a request starts again because its set's drives changed. Each means that a drive was replaced
/// meanwhile, which takes seconds.
pub(crate) const SET_CHANGES_MAX: u32 = 4;

/// Counts the changes of all sets' memberships, for whoever keeps copies.
#[derive(Clone)]
pub(crate) struct Changes(Arc<watch::Sender<u64>>);

impl Default for Changes {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Changes {
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn note(&self) {
        self.0.send_modify(|count| *count += 1);
    }
}

/// One membership.
pub(crate) struct Roll {
    /// Under which epoch requests go out: that of the document, or a newer one that drives named while
    /// its document is not to be had.
    pub(crate) epoch: SetEpoch,
    /// The document.
    pub(crate) set: SetLayout,
    /// Its slots.
    pub(crate) slots: Vec<Slot>,
}

impl Roll {
    fn of(set: SetLayout) -> Self {
        let slot = |slot: &holdfast_placement::DriveSlot| Slot {
            drive: slot.drive,
            node: slot.node,
            path: slot.path.as_str().into(),
            rebuilding: slot.rebuilding,
        };
        let slots = set.drives.iter().map(slot).collect();
        Self { epoch: set.epoch, set, slots }
    }

    /// The slots of a node's drives.
    pub(crate) fn of_node(&self, node: NodeIndex) -> Vec<usize> {
        (0..self.slots.len()).filter(|slot| self.slots[*slot].node == node).collect()
    }
}

/// The newest membership of a set.
pub(crate) struct Members {
    roll: RwLock<Arc<Roll>>,
    changes: Changes,
    /// Held while drives are asked: many requests learn at once that they are outdated.
    asking: Mutex<()>,
}

impl Members {
    pub(crate) fn new(set: SetLayout, changes: Changes) -> Self {
        let roll = RwLock::new(Arc::new(Roll::of(set)));
        Self { roll, changes, asking: Mutex::default() }
    }

    /// The membership now.
    pub(crate) fn now(&self) -> Arc<Roll> {
        Arc::clone(&self.roll.read())
    }

    /// Its epoch.
    pub(crate) fn epoch(&self) -> SetEpoch {
        self.roll.read().epoch
    }

    /// Takes in a membership. True when it is newer and of the same width.
    pub(crate) fn learn(&self, set: &SetLayout, nodes: usize) -> bool {
        let mut roll = self.roll.write();
        let known = &roll.set;
        let fits = set.index == known.index
            && set.drives.len() == known.drives.len()
            && set.drives.iter().all(|slot| slot.node.get() < nodes);
        if !fits || set.epoch <= known.epoch {
            return false;
        }
        let epoch = roll.epoch.max(set.epoch);
        *roll = Arc::new(Roll { epoch, ..Roll::of(set.clone()) });
        drop(roll);
        self.changes.note();
        true
    }

    /// Takes in an epoch whose document no drive has: a request brought it, and its issuer is gone.
    fn learn_number(&self, epoch: SetEpoch) {
        let mut roll = self.roll.write();
        if epoch > roll.epoch {
            let (set, slots) = (roll.set.clone(), roll.slots.clone());
            *roll = Arc::new(Roll { epoch, set, slots });
        }
    }
}

impl SetShared {
    /// Takes in a newer membership; says so.
    pub(crate) fn learn_membership(&self, set: &SetLayout) -> bool {
        let before = self.members.now();
        if !self.members.learn(set, self.nodes.len()) {
            return false;
        }
        let known: HashSet<_> = before.slots.iter().map(|slot| slot.drive).collect();
        for slot in set.drives.iter().filter(|slot| !known.contains(&slot.drive)) {
            let (drive, path) = (slot.drive, &slot.path);
            tracing::info!(set = %self.index, epoch = set.epoch.0, %drive, path, "a drive took a slot over");
        }
        true
    }

    /// A drive has adopted `current`: asks all drives for the membership, unless it is known by now.
    pub(crate) async fn refresh(&self, current: SetEpoch) {
        if self.members.epoch() >= current {
            return;
        }
        let _alone = self.members.asking.lock().await;
        if self.members.epoch() >= current {
            return;
        }
        self.hear_members().await;
        self.members.learn_number(current);
    }

    /// Takes in what the drives have adopted, by their own word.
    pub(crate) async fn hear_members(&self) {
        for (_, result) in self.ask_members(MemberRequest::Membership).await {
            if let Ok(DriveReply::Member(MemberReply::Membership { document, .. })) = result
                && !document.is_empty()
            {
                match SetLayout::from_bytes(&document) {
                    Ok(set) => drop(self.learn_membership(&set)),
                    Err(error) => tracing::error!(set = %self.index, %error, "read membership"),
                }
            }
        }
    }

    /// Asks every drive of the set, each with a call of its own, bypassing what is believed of them.
    pub(crate) async fn ask_members(&self, request: MemberRequest) -> Vec<(usize, DriveResult)> {
        let roll = self.members.now();
        let ask = |slot: usize| {
            let node = self.nodes[roll.slots[slot].node.get()].clone();
            let batch = vec![(roll.slots[slot].drive, DriveRequest::Member(request.clone()))];
            async move {
                let call = node.call(self.knobs.call, batch);
                let answers = tokio::time::timeout(self.knobs.call * 2, call).await;
                let answer = answers.ok().and_then(|mut results| results.pop());
                (slot, answer.unwrap_or_else(|| self.silence(slot)))
            }
        };
        futures::future::join_all((0..roll.slots.len()).map(ask)).await
    }
}
