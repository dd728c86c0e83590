//! How a set's membership changes (PROTOCOL.md section 5, INV-MEMBER-1).
//!
//! ```text
//! 1 decide  the set's register goes from epoch e to e + 1        crash: nobody acts on it; decided again
//! 2 issue   min(W, n - 1) others adopt e + 1, and tell floors    crash: issued again, by whoever finds it
//! 3 begin   the new drive gets its floor, and accepts            crash: it is joining, and begins again
//! 4 rebuild (`rebuild`)                                          crash: what is there is there
//! 5 counts  the drive first, then the register, epoch e + 2      crash: its node repeats it
//! ```
//!
//! With fewer than W drives that count (n <= 2, or after [`Engine::recover_set`]) the register cannot be
//! written: those are all there is, and what every one of them adopts is the decision.

use holdfast_drive::api::{
    Begin, DriveReply, DriveRequest, Issue, Issued, MemberReply, MemberRequest, Standing,
};
use holdfast_placement::{Layout, SetLayout, layout::DOCUMENT_BYTES_MAX};
use holdfast_register::Candidate;
use holdfast_types::{
    BucketStamp, DriveId, EntryKind, NodeIndex, OperationId, RegisterKey, SetEpoch, SetIndex,
    VersionId, limits,
};

use crate::{
    draft::{Decision, Draft},
    engine::Engine,
    error::StoreError,
    round::outdated,
    set::{SetHandle, SetShared, describe},
};

/// How a drive stands in its set, by its own word.
pub(crate) struct Stands {
    pub(crate) set: SetHandle,
    pub(crate) slot: usize,
    pub(crate) standing: Standing,
    /// Ranges of registers that rot hid and that are not filled.
    pub(crate) unfilled: u32,
}

/// What changes a membership, given the newest.
type Change<'a> = &'a (dyn Fn(&SetLayout) -> Result<SetLayout, StoreError> + Sync);

impl SetHandle {
    /// The newest membership this process knows.
    #[must_use]
    pub fn membership(&self) -> SetLayout {
        self.shared.members.now().set.clone()
    }

    /// Changes the membership, and issues the outcome. Answers what the others told.
    async fn change(&self, change: Change<'_>) -> Result<(SetLayout, Issued), StoreError> {
        self.change_beside(change, None).await
    }

    /// The membership under an epoch that is newer than `older`, adopted by enough drives beside `slot`: a new
    /// one is decided unless that was done before.
    pub(crate) async fn renew(
        &self,
        older: SetEpoch,
        slot: usize,
    ) -> Result<SetLayout, StoreError> {
        let set = &self.shared;
        let known = set.members.now();
        if known.set.epoch > older && known.epoch == known.set.epoch {
            set.issue(&known.set, Some(slot)).await?;
            return Ok(known.set.clone());
        }
        let change = |known: &SetLayout| Ok(known.renewed());
        Ok(self.change_beside(&change, Some(slot)).await?.0)
    }

    async fn change_beside(
        &self,
        change: Change<'_>,
        beside: Option<usize>,
    ) -> Result<(SetLayout, Issued), StoreError> {
        let set = &self.shared;
        // A register needs W drives that count; with fewer, what all that count adopt is the decision.
        set.hear_members().await;
        let proposed = change(&self.membership())?;
        let decides = usize::from(set.quorum.write()) <= proposed.counting();
        let next = if decides { self.decide(change).await? } else { proposed };
        if decides {
            set.learn_membership(&next);
        }
        let told = set.issue(&next, beside).await?;
        if !decides {
            // Not before all have adopted it: another decider may have been quicker.
            set.learn_membership(&next);
            // The register follows when it can be written again; until then what the drives have adopted
            // is what is asked.
            let kept = |known: &SetLayout| Ok(known.clone());
            let _ = self.decide(&kept).await;
        }
        Ok((next, told))
    }

    /// Step 1: the register.
    async fn decide(&self, change: Change<'_>) -> Result<SetLayout, StoreError> {
        let set = &self.shared;
        let decide = |current: Option<&Candidate>| {
            let known = self.newest(current)?;
            let next = change(&known)?;
            let stored = current.and_then(|c| SetLayout::from_bytes(&c.entry.metadata).ok());
            if stored.as_ref() == Some(&next) {
                return Ok(Decision::Keep(next));
            }
            let operation = OperationId::draw(set.random.as_ref());
            let draft = Draft::record(operation, next.to_bytes().into());
            Ok(Decision::Write(draft, next))
        };
        let key = SetLayout::register(set.index);
        self.update(BucketStamp::REGISTRY, key, VersionId::NULL, decide).await
    }

    /// The newer of what the register holds and what drives have adopted.
    fn newest(&self, current: Option<&Candidate>) -> Result<SetLayout, StoreError> {
        let known = self.membership();
        let Some(candidate) = current.filter(|c| c.entry.kind == EntryKind::Put) else {
            return Ok(known);
        };
        let damaged =
            |e| StoreError::Internal { message: format!("read membership register: {e}") };
        let stored = SetLayout::from_bytes(&candidate.entry.metadata).map_err(damaged)?;
        Ok(if stored.epoch > known.epoch { stored } else { known })
    }
}

impl SetShared {
    /// Step 2: the drives adopt `next`. Drives that are joining or away do not count; enough others
    /// must, so that no coordinator of an older epoch finds a quorum any more. Nor does the drive of the slot
    /// `beside`, for whose sake it is done.
    async fn issue(&self, next: &SetLayout, beside: Option<usize>) -> Result<Issued, StoreError> {
        let membership = next.to_bytes().into();
        let issue = Issue { set: self.index, epoch: next.epoch, membership };
        let (mut told, mut have) = (Issued::default(), 0);
        let mut missing = Vec::new();
        for (slot, result) in self.ask_members(MemberRequest::Issue(issue)).await {
            if let Some(current) = outdated(&result) {
                return Err(StoreError::SetChanged { current });
            }
            match result {
                Ok(DriveReply::Member(MemberReply::Issued(issued))) => {
                    have += u8::from(!next.drives[slot].rebuilding && beside != Some(slot));
                    told.absorb(issued);
                }
                Ok(_) => missing.push((slot, "unexpected reply".to_owned())),
                Err(error) => missing.push((slot, describe(&error))),
            }
        }
        // With fewer than W left that count (n <= 2, or a recovery) it takes all of them.
        let spared = usize::from(beside.is_some_and(|slot| !next.drives[slot].rebuilding));
        let left = (next.counting() - spared) as u8;
        let need = self.quorum.write().min(self.n() - 1).min(left);
        if have >= need { Ok(told) } else { Err(self.below_quorum(need, have, &missing)) }
    }
}

impl Engine {
    /// The layout with every set's newest membership.
    #[must_use]
    pub fn current_layout(&self) -> Layout {
        let mut layout = Layout::clone(&self.layout);
        for set in &self.sets {
            layout.absorb(&set.shared.members.now().set);
        }
        layout
    }

    /// A set with fewer drives than a write needs. Asks them: a link that is up, or no bad news, does not
    /// say that the drives behind it are open.
    pub async fn short_set(&self) -> Option<String> {
        for set in self.sets.iter().map(|set| &set.shared) {
            let answers = set.ask_members(MemberRequest::Membership).await;
            for (slot, answer) in &answers {
                set.learn(*slot, answer);
            }
            let have = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
            let need = set.quorum.write();
            if have < usize::from(need) {
                let index = set.index;
                return Some(format!(
                    "set {index} has {have} of the {need} drives that writes need"
                ));
            }
        }
        None
    }

    /// Told whenever a membership changed.
    #[must_use]
    pub fn membership_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn set_at(&self, index: SetIndex) -> Result<&SetHandle, StoreError> {
        let unknown =
            || StoreError::InvalidArgument { message: format!("there is no set {index}") };
        self.sets.get(index.get()).ok_or_else(unknown)
    }

    /// Gives the slot of `gone` to a new drive, `fresh`, which is to be formatted as joining and taken in
    /// by [`Self::take_in`] then. Repeating it for a slot whose drive never began is harmless.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::InvalidArgument`] when another drive of the set is being rebuilt.
    pub async fn replace_drive(
        &self,
        set: SetIndex,
        gone: DriveId,
        fresh: DriveId,
    ) -> Result<SetLayout, StoreError> {
        let change = |known: &SetLayout| {
            if known.slot_of(fresh).is_some() {
                return Ok(known.clone());
            }
            let slot = known.slot_of(gone).ok_or_else(|| StoreError::InvalidArgument {
                message: format!("drive {gone} is no member of set {set} any more"),
            })?;
            let wrong = |e: holdfast_placement::PlacementError| StoreError::InvalidArgument {
                message: e.to_string(),
            };
            known.with_replaced(slot, fresh).map_err(wrong)
        };
        let (membership, _) = self.set_at(set)?.change(&change).await?;
        self.publish_layout().await;
        Ok(membership)
    }

    /// Gives up drives that are gone for good, more of them than the set can do without: every other one
    /// adopts a membership in which their slots are to be rebuilt. New drives take them over then, as
    /// blank folders are found; what has too few shards left is listed by their rebuilds.
    ///
    /// # Errors
    /// [`StoreError::InvalidArgument`] when a named drive is no member, or serves; [`StoreError::BelowQuorum`]
    /// when fewer than R would be left, or one that is not named does not answer.
    pub async fn recover_set(
        &self,
        set: SetIndex,
        dead: &[DriveId],
    ) -> Result<SetLayout, StoreError> {
        let wrong = |message: String| StoreError::InvalidArgument { message };
        let handle = self.set_at(set)?;
        let shared = &handle.shared;
        shared.hear_members().await;
        let known = handle.membership();
        let mut gone = Vec::new();
        for drive in dead {
            let slot = known.slot_of(*drive);
            let slot =
                slot.ok_or_else(|| wrong(format!("drive {drive} is no member of set {set}")))?;
            gone.push((slot, DriveId::draw(self.random.as_ref())));
        }
        let is_dead = |slot: usize| gone.iter().any(|(dead, _)| *dead == slot);
        let mut missing = Vec::new();
        for (slot, result) in shared.ask_members(MemberRequest::Membership).await {
            match result {
                Ok(_) if is_dead(slot) => {
                    let place = shared.place(slot);
                    return Err(wrong(format!(
                        "{place} serves; only drives that are gone are given up"
                    )));
                }
                Err(error) if !is_dead(slot) => missing.push((slot, describe(&error))),
                _ => {}
            }
        }
        let next = known.with_given_up(&gone);
        let (need, have) = (shared.quorum.read(), next.counting() as u8);
        if have < need || !missing.is_empty() {
            return Err(shared.below_quorum(need, have, &missing));
        }
        shared.issue(&next, None).await?;
        shared.learn_membership(&next);
        self.publish_layout().await;
        Ok(next)
    }

    /// Steps 2 and 3 for a joining drive: the others issue the epoch (again), and it begins.
    ///
    /// # Errors
    /// [`StoreError`] when too few others answer, or the drive does not.
    pub async fn take_in(&self, set: SetIndex, drive: DriveId) -> Result<(), StoreError> {
        let shared = &self.set_at(set)?.shared;
        let membership = shared.members.now().set.clone();
        let slot = membership.slot_of(drive).ok_or_else(|| StoreError::InvalidArgument {
            message: format!("drive {drive} is no member of set {set}"),
        })?;
        let collected = shared.issue(&membership, None).await?;
        let (epoch, bytes) = (membership.epoch, membership.to_bytes().into());
        let issue = Issue { set, epoch, membership: bytes };
        let begin = MemberRequest::Begin(Begin { issue, collected });
        let answers = shared.ask_slots(vec![(slot, DriveRequest::Member(begin))]).await;
        match answers.into_iter().next() {
            Some((_, Ok(DriveReply::Done))) => Ok(()),
            Some((_, Err(error))) => Err(shared.below_quorum(1, 0, &[(slot, describe(&error))])),
            _ => Err(StoreError::Internal { message: "begin: unexpected reply".to_owned() }),
        }
    }

    /// Notes in the register that a rebuilt drive counts.
    pub(crate) async fn note_rebuilt(
        &self,
        set: &SetHandle,
        drive: DriveId,
    ) -> Result<(), StoreError> {
        let change = |known: &SetLayout| match known.slot_of(drive) {
            Some(slot) if known.drives[slot].rebuilding => Ok(known.with_rebuilt(slot)),
            _ => Ok(known.clone()),
        };
        set.change(&change).await?;
        self.publish_layout().await;
        Ok(())
    }

    /// Notes that a drive was moved to another place.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::InvalidArgument`] when another drive has that place.
    pub async fn move_drive(
        &self,
        drive: DriveId,
        node: NodeIndex,
        path: &str,
    ) -> Result<(), StoreError> {
        let layout = self.current_layout();
        let wrong = |message: String| StoreError::InvalidArgument { message };
        if let Some((set, slot)) = layout.slot_at(node, path) {
            let holder = set.drives[slot].drive;
            return Err(wrong(format!(
                "move drive {drive}: {path} is the place of drive {holder}; mount it elsewhere"
            )));
        }
        let Some((set, _)) = layout.slot_of(drive) else {
            return Err(wrong(format!("move drive {drive}: it is no member of the cluster")));
        };
        let change = |known: &SetLayout| match known.slot_of(drive) {
            Some(slot) => Ok(known.with_moved(slot, node, path)),
            None => Err(wrong(format!("move drive {drive}: it was replaced meanwhile"))),
        };
        self.set_at(set.index)?.change(&change).await?;
        self.publish_layout().await;
        Ok(())
    }

    /// Writes the layout register, so that who finds no file finds it there. A failure costs a try
    /// with the next change: the sets' own registers rule.
    async fn publish_layout(&self) {
        let decide = |current: Option<&Candidate>| {
            let mut layout = self.current_layout();
            if let Some(stored) = current.and_then(|c| Layout::from_bytes(&c.entry.metadata).ok()) {
                layout = layout.merged(&stored);
                if layout == stored {
                    return Ok(Decision::Keep(()));
                }
            }
            let bytes = layout.to_bytes();
            if bytes.len() > limits::METADATA_BYTES_MAX.min(DOCUMENT_BYTES_MAX) {
                return Ok(Decision::Keep(()));
            }
            Ok(Decision::Write(Draft::record(self.draw_operation(), bytes.into()), ()))
        };
        let key = RegisterKey::document("layout");
        let first = self.first_set();
        if let Err(error) = first.update(BucketStamp::REGISTRY, key, VersionId::NULL, decide).await
        {
            tracing::warn!(%error, "write the layout register");
        }
    }

    /// Whether a drive serves at a node, by the node's own word; `None` when it does not say.
    pub async fn serves_at(&self, node: NodeIndex, drive: DriveId) -> Option<bool> {
        let carrier = self.nodes.get(node.get())?;
        let ask = vec![(drive, DriveRequest::Facts)];
        let answers = carrier.call(self.knobs.call, ask).await;
        match answers.into_iter().next()? {
            Ok(DriveReply::Facts(facts)) => Some(facts.state.serves()),
            Ok(_) => None,
            // The node answers and does not have it; a node that is away has no word in it.
            Err(holdfast_drive::api::DriveError::Failed { class, message, .. }) => {
                let absent = message == holdfast_drive::supervisor::NOT_HERE;
                (class == holdfast_types::ErrorClass::Unavailable && absent).then_some(false)
            }
            Err(_) => None,
        }
    }

    /// Learns the newest memberships from the drives that are there: at the start, when files may be old.
    pub async fn hear_memberships(&self) {
        futures::future::join_all(self.sets.iter().map(|set| set.shared.hear_members())).await;
    }

    /// Learns the newest memberships from the registers: what was decided and reached no drive yet.
    pub async fn learn_memberships(&self) {
        for set in &self.sets {
            let key = SetLayout::register(set.index());
            match set.read(BucketStamp::REGISTRY, &key, Some(VersionId::NULL)).await {
                Ok(found) => match set.newest(found.as_ref()) {
                    Ok(newest) => drop(set.shared.learn_membership(&newest)),
                    Err(error) => tracing::error!(%error, "learn membership"),
                },
                Err(error) => tracing::debug!(set = %set.index(), %error, "learn membership"),
            }
        }
    }

    /// How each drive of `node` stands in its set, by its own word; nothing of those that are silent.
    pub(crate) async fn standings(&self, node: NodeIndex) -> Vec<Stands> {
        let mut all = Vec::new();
        for set in &self.sets {
            for slot in set.shared.members.now().of_node(node) {
                let ask = DriveRequest::Member(MemberRequest::Membership);
                let answers = set.shared.ask_slots(vec![(slot, ask)]).await;
                let Some((_, Ok(DriveReply::Member(told)))) = answers.into_iter().next() else {
                    continue;
                };
                if let MemberReply::Membership { standing, unfilled, .. } = told {
                    all.push(Stands { set: set.clone(), slot, standing, unfilled });
                }
            }
        }
        all
    }
}
