//! [`SetHandle`]: the cheap way to a set. Any number of requests share it; what a set owns in mutable
//! state lives in its actor and in [`crate::health`].

use std::sync::Arc;

use bytes::Bytes;
use holdfast_drive::{
    api::{DriveError, DriveRequest, DriveResult, Guard, Scope},
    node::Node,
};
use holdfast_placement::{Layout, SetLayout};
use holdfast_register::HolderMask;
use holdfast_types::{
    Ballot, BallotClock, BucketStamp, DriveId, ErrorClass, Geometry, HybridTime, Keyspace,
    NodeIndex, OperationId, Quorum, RegisterKey, SetEpoch, SetIndex,
    codec::CodecError,
    limits,
    seam::{Clock, Random},
};
use tokio::sync::Semaphore;

use crate::{
    actor::Mail,
    admission::Admission,
    error::StoreError,
    health::Health,
    knobs::Knobs,
    members::Members,
    turns::Turns,
    upload_record::{self, UploadPhase},
};

/// One drive's place in a set.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) drive: DriveId,
    pub(crate) node: NodeIndex,
    pub(crate) path: Arc<str>,
    /// Its answers do not count yet.
    pub(crate) rebuilding: bool,
}

/// What all handles of a set share.
pub(crate) struct SetShared {
    pub(crate) index: SetIndex,
    pub(crate) generation: u32,
    pub(crate) quorum: Quorum,
    pub(crate) members: Members,
    pub(crate) nodes: Arc<[Arc<dyn Node>]>,
    pub(crate) local: Option<NodeIndex>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) ballots: Arc<BallotClock>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) knobs: Arc<Knobs>,
    pub(crate) health: Health,
    pub(crate) admission: Arc<Admission>,
    pub(crate) mail: Mail,
    /// One for each report of a shard that could not be read.
    pub(crate) reports: Arc<Semaphore>,
    /// Of conditional writers.
    pub(crate) turns: Turns,
}

/// The way to one set.
#[derive(Clone)]
pub struct SetHandle {
    pub(crate) shared: Arc<SetShared>,
}

/// Where the shards of one key live, and under which condition drives accept anything for it.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) key: RegisterKey,
    /// By shard index: the slot.
    pub(crate) slots: Arc<[usize]>,
    /// What every Accept on this route is conditional on, whoever sends it and whatever it carries: a
    /// part is changed, adoptions included, only in the phase of its upload that allows it
    /// (INV-UPLOAD-1, ADR 0005). `None` for all other keys.
    guard: Option<Guard>,
    /// An operation known to be chosen: accepting it again changes nothing, so no guard binds it.
    chosen: Option<OperationId>,
    /// The slots that are asked at all; every one when `None`.
    heard: Option<HolderMask>,
}

/// What a completion has frozen of its upload: the drives whose word on its parts is final, and the
/// condition under which it may change them.
#[derive(Clone, Debug)]
pub(crate) struct Frozen {
    pub(crate) guard: Guard,
    /// By slot.
    pub(crate) slots: HolderMask,
}

impl Route {
    /// The condition for an Accept of an operation.
    pub(crate) fn guard_of(&self, operation: OperationId) -> Option<Guard> {
        self.guard.clone().filter(|_| self.chosen != Some(operation))
    }

    /// Whether Accepts are conditional.
    pub(crate) const fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// The same for the completion that has frozen the key's upload: it alone may change parts, and it
    /// hears only drives that let nobody else do so. One that missed the freeze may take a part that
    /// others took before it, and so make it chosen after it was judged (ADR 0005).
    pub(crate) fn of_completion(self, frozen: &Frozen) -> Self {
        Self { guard: Some(frozen.guard.clone()), heard: Some(frozen.slots), ..self }
    }

    /// Whether the drive in a slot is asked.
    pub(crate) fn hears(&self, slot: usize) -> bool {
        self.heard.is_none_or(|slots| slots.has(slot as u8))
    }

    /// The same without a condition: for who frees a part of a finished upload.
    pub(crate) fn unguarded(self) -> Self {
        Self { guard: None, ..self }
    }

    /// The same with an operation excepted that was chosen: for who heals or rebuilds.
    pub(crate) fn excepting(self, chosen: OperationId) -> Self {
        Self { chosen: Some(chosen), ..self }
    }

    /// The shard index that a slot holds.
    pub(crate) fn shard_of(&self, slot: usize) -> u8 {
        shard_in(&self.slots, slot)
    }
}

impl SetHandle {
    /// Its index.
    #[must_use]
    pub fn index(&self) -> SetIndex {
        self.shared.index
    }

    /// Its quorums.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        self.shared.quorum
    }

    /// The largest body whose shards travel inside Accept, as the set stands now.
    #[must_use]
    pub fn inline_max(&self) -> usize {
        inline_max(self.inline_width())
    }

    /// The width that [`Self::inline_max`] is for.
    pub(crate) fn inline_width(&self) -> u8 {
        self.shared.quorum.data_shards(self.shared.health.down_count())
    }

    /// A ballot above all this process drew or was shown.
    #[must_use]
    pub fn draw(&self) -> Ballot {
        self.shared.ballots.draw(self.shared.generation)
    }
}

impl SetShared {
    pub(crate) fn scope(&self, bucket: BucketStamp) -> Scope {
        self.scope_at(bucket, self.members.epoch())
    }

    /// The scope of a request that rests on what was asked under `set_epoch`.
    pub(crate) fn scope_at(&self, bucket: BucketStamp, set_epoch: SetEpoch) -> Scope {
        Scope { bucket, set: self.index, set_epoch }
    }

    /// Who holds a slot now.
    pub(crate) fn slot(&self, slot: usize) -> Slot {
        self.members.now().slots[slot].clone()
    }

    pub(crate) fn n(&self) -> u8 {
        self.quorum.n()
    }

    pub(crate) fn draw_above(&self, floor: HybridTime) -> Ballot {
        self.ballots.draw_above(self.generation, floor)
    }

    pub(crate) fn layout_of(&self) -> &SetLayout {
        let mine = self.layout.sets().find(|set| set.index == self.index);
        mine.expect("the set was made from this layout")
    }

    /// By shard index: the slots that hold the shards of `key`.
    pub(crate) fn order(&self, key: &RegisterKey) -> Result<Vec<usize>, StoreError> {
        let order = self.layout.order(self.layout_of(), key);
        let order =
            order.map_err(|e| StoreError::Internal { message: format!("place key: {e}") })?;
        assert_eq!(order.len(), usize::from(self.n()), "an order names every slot");
        Ok(order)
    }

    /// Where the shards of `key` live.
    pub(crate) fn route(&self, key: &RegisterKey) -> Result<Route, StoreError> {
        let order = self.order(key)?;
        let guard = part_guard(key)
            .map_err(|e| StoreError::Internal { message: format!("guard {key:?}: {e}") })?;
        Ok(Route { key: key.clone(), slots: order.into(), guard, chosen: None, heard: None })
    }

    /// Shards whose drives are believed to be up.
    pub(crate) fn up(&self, route: &Route) -> Vec<u8> {
        let up = |shard: &u8| !self.health.is_down(route.slots[usize::from(*shard)]);
        self.asked(route).filter(up).collect()
    }

    /// Shards whose drives are asked on a route.
    pub(crate) fn asked<'a>(&self, route: &'a Route) -> impl Iterator<Item = u8> + use<'a> {
        (0..self.n()).filter(|shard| route.hears(route.slots[usize::from(*shard)]))
    }

    /// The width of a new version of `size` bytes as the set stands now.
    pub(crate) fn width(&self, size: u64) -> u8 {
        let down = self.health.down_count().min(self.quorum.away());
        if size <= limits::TINY_OBJECT_BYTES {
            self.quorum.data_shards_tiny(down)
        } else {
            self.quorum.data_shards(down)
        }
    }

    /// The shape of a new version of `size` bytes as the set stands now.
    pub(crate) fn geometry(&self, size: u64) -> Geometry {
        if size == 0 { Geometry::EMPTY } else { Geometry::new(self.width(size), self.n(), size) }
    }

    pub(crate) fn node_of(&self, slot: usize) -> &Arc<dyn Node> {
        &self.nodes[self.slot(slot).node.get()]
    }

    /// `http://node:9000/mnt/x`, for messages to people.
    pub(crate) fn place(&self, slot: usize) -> String {
        format!("{}{}", self.node_of(slot).name(), self.slot(slot).path)
    }

    /// 503, naming the set and the drives that are missing with what they said.
    pub(crate) fn below_quorum(&self, need: u8, have: u8, why: &[(usize, String)]) -> StoreError {
        let mut missing: Vec<String> =
            why.iter().map(|(slot, what)| format!("{}: {what}", self.place(*slot))).collect();
        for slot in 0..usize::from(self.n()) {
            if self.health.is_down(slot) && !why.iter().any(|(named, _)| *named == slot) {
                missing.push(format!("{}: down", self.place(slot)));
            }
        }
        StoreError::BelowQuorum { set: self.index, need, have, detail: missing.join("; ") }
    }

    /// Whether enough drives are up for a write to succeed.
    pub(crate) fn is_writable(&self) -> bool {
        self.n() - self.health.down_count() >= self.quorum.write()
    }

    /// Fails when so many drives are known to be down that no write can succeed.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        if self.is_writable() {
            return Ok(());
        }
        let up = self.n() - self.health.down_count();
        Err(self.below_quorum(self.quorum.write(), up, &[]))
    }
}

/// The shard index that a slot holds in an order.
pub(crate) fn shard_in(order: &[usize], slot: usize) -> u8 {
    let found = order.iter().position(|s| *s == slot);
    found.expect("an order is a permutation of the slots") as u8
}

/// The condition for changing a part as long as nobody completes its upload: it is open.
fn part_guard(key: &RegisterKey) -> Result<Option<Guard>, CodecError> {
    if key.space != Keyspace::Part {
        return Ok(None);
    }
    let (object, upload, _) = key.upload_parts()?;
    let register = RegisterKey::upload(key.bucket, &object, upload);
    Ok(Some(upload_record::guard(register, UploadPhase::Open)))
}

/// The largest body whose shards travel inside Accept at this width.
pub(crate) fn inline_max(width: u8) -> usize {
    usize::from(width) * limits::INLINE_SHARD_BYTES_MAX as usize
}

/// Requests to shards of one key, to be sent with one message a node.
pub(crate) type ShardRequests = Vec<(u8, DriveRequest)>;

/// Answers by shard index.
pub(crate) type ShardResults = Vec<(u8, DriveResult)>;

/// Bytes of a name behind every name that begins with `name`'s bytes and is `name` itself: the start of
/// the page after it.
pub(crate) fn name_after(name: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(name.len() + 1);
    next.extend_from_slice(name);
    next.push(0);
    next.into()
}

/// What a drive's failure says to a person: how it failed, and why.
pub(crate) fn describe(error: &DriveError) -> String {
    match error {
        DriveError::Refused { refusal, .. } => format!("refused: {refusal}"),
        DriveError::Failed { class, message, .. } => match class {
            ErrorClass::Unavailable => format!("down: {message}"),
            ErrorClass::TimedOut => format!("timed out: {message}"),
            ErrorClass::Full => format!("full: {message}"),
            ErrorClass::Overloaded => format!("overloaded: {message}"),
            _ => message.clone(),
        },
    }
}
