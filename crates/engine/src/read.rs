//! Reading a key: just enough drives, locals first; more only when what they say is not conclusive
//! (PROTOCOL.md section 4).
//!
//! ```text
//!  ask R drives, others when one is late --conclusive--> answer
//!       | open
//!  give a young writer a moment, ask all --conclusive--> answer
//!       | open
//!  resolve --> answer
//! ```

use std::{sync::Arc, time::Duration};

use holdfast_drive::api::{self, DriveError, DriveReply, DriveRequest, InlineShard};
use holdfast_register::{
    Answer, Basis, Candidate, Drives, Failure, HolderMask, Judgement, KeyView, Machine, Reach,
    Read, Refusal, Seen, Target, judge_latest,
};
use holdfast_types::{BucketStamp, RegisterKey, VersionId};

use crate::{
    conversation::{Conversation, Pause},
    error::StoreError,
    health::Kind,
    round::Calls,
    set::{Route, SetHandle, SetShared},
};

/// What is asked of a key.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) scope: BucketStamp,
    pub(crate) route: Route,
    /// The latest when `None`.
    pub(crate) version: Option<VersionId>,
    /// Whether shards that ride in the log are wanted along.
    pub(crate) inline: bool,
}

/// A key's value, with what the drives sent along.
pub(crate) struct Found {
    pub(crate) candidate: Candidate,
    pub(crate) inline: Vec<InlineShard>,
}

impl SetHandle {
    /// The value of a register (or of the key's latest version, when `version` is `None`), a tombstone
    /// included: linearizable, so what is open is resolved first.
    ///
    /// # Errors
    /// [`StoreError::BelowQuorum`] when too few drives answer.
    pub async fn read(
        &self,
        scope: BucketStamp,
        key: &RegisterKey,
        version: Option<VersionId>,
    ) -> Result<Option<Candidate>, StoreError> {
        let route = self.shared.route(key)?;
        let question = Question { scope, route, version, inline: false };
        Ok(self.shared.look(&question).await?.map(|found| found.candidate))
    }
}

/// How a read goes about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// R drives; others when one is late.
    Quick,
    /// Everybody, for as long as a call may take.
    Thorough,
}

impl SetShared {
    /// As [`SetHandle::read`], with the inline shards the drives sent.
    #[tracing::instrument(
        name = "set.read",
        target = "holdfast_trace",
        skip_all,
        fields(set = %self.index, key = ?question.route.key)
    )]
    pub(crate) async fn look(
        self: &Arc<Self>,
        question: &Question,
    ) -> Result<Option<Found>, StoreError> {
        match self.ask(question, Manner::Quick).await {
            Ok((Seen::Found(found), inline)) => return Ok(found.map(|c| with_inline(c, inline))),
            Ok((Seen::Open(_), _)) => tokio::time::sleep(self.knobs.young_writer).await,
            Err(StoreError::BelowQuorum { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.ask(question, Manner::Thorough).await? {
            (Seen::Found(found), inline) => Ok(found.map(|c| with_inline(c, inline))),
            (Seen::Open(open), _) => {
                tracing::debug!(set = %self.index, operation = %open.entry.operation, "resolving");
                let target = question.target();
                let (scope, route) = (question.scope, &question.route);
                let resolved = self.resolve(scope, route, target, Reach::Open).await?;
                Ok(resolved.map(|candidate| with_inline(candidate, Vec::new())))
            }
        }
    }

    /// What all drives together say of a key, nothing resolved.
    pub(crate) async fn judged(
        self: &Arc<Self>,
        scope: BucketStamp,
        route: &Route,
    ) -> Result<Judgement, StoreError> {
        let question = Question { scope, route: route.clone(), version: None, inline: false };
        let mut answers = vec![Answer::None; usize::from(self.n())];
        for (shard, view) in self.views(&question).await? {
            answers[usize::from(shard)] = Answer::View(view);
        }
        Ok(judge_latest(Basis::Reads, self.quorum, &answers))
    }

    /// What each drive that answers shows, by shard. All of them are waited for.
    pub(crate) async fn views(
        self: &Arc<Self>,
        question: &Question,
    ) -> Result<Vec<(u8, KeyView)>, StoreError> {
        let mut calls = Calls::default();
        let all = (0..self.n()).map(|shard| (shard, question.request(self)));
        self.send(&question.route, 0, all.collect(), &mut calls);
        let mut views = Vec::new();
        for (shard, result) in calls.all().await {
            match result {
                Ok(DriveReply::View { view, .. }) => views.push((shard, view)),
                Ok(_) => {}
                Err(error) => check_scope(&error)?,
            }
        }
        Ok(views)
    }

    async fn ask(
        self: &Arc<Self>,
        question: &Question,
        manner: Manner,
    ) -> Result<(Seen, Vec<InlineShard>), StoreError> {
        let quick = manner == Manner::Quick;
        let route = &question.route;
        let order = if quick { self.nearest(route) } else { self.asked(route).collect() };
        let up = order.iter().fold(HolderMask::default(), |mask, shard| mask.with(*shard));
        let drives = Drives { quorum: self.quorum, up };
        let machine = Read::new(drives, question.target(), &order);
        let patience =
            if quick { self.late(&question.route, Kind::Look) } else { self.knobs.call * 2 };
        let talk = Conversation::new(self, question.scope, &question.route, machine);
        let mut talk = talk.reading(question.version, question.inline, patience);
        let first = talk.machine.start();
        let Pause::Done(outcome) = talk.run(first).await else {
            unreachable!("reads have no condition")
        };
        match outcome {
            Ok(seen) => Ok((seen, std::mem::take(&mut talk.inline))),
            // Refusals of the bucket's epoch, and too few drives.
            Err(failure @ (Failure::Unavailable { .. } | Failure::Refused(_))) => {
                Err(talk.explain(failure))
            }
            Err(failure) => Err(talk.explain(failure)),
        }
    }

    /// When an answer of the key's drives is late, by what was seen of those that are up.
    pub(crate) fn late(&self, route: &Route, kind: Kind) -> Duration {
        let up = route.slots.iter().copied().filter(|slot| !self.health.is_down(*slot));
        let seen = self.health.late(kind, up).unwrap_or(self.knobs.hedge_unknown);
        seen.max(self.knobs.hedge_min)
    }

    /// Shards whose drives are up: suspect ones last, local ones first, then node by node, so that few nodes are asked;
    /// which nodes come first varies with the key.
    pub(crate) fn nearest(&self, route: &Route) -> Vec<u8> {
        let mut shards = self.up(route);
        if shards.len() < usize::from(self.quorum.read()) {
            shards = self.asked(route).collect();
        }
        let members = self.members.now();
        let slot_of = |shard: u8| &members.slots[route.slots[usize::from(shard)]];
        let node_of = |shard: u8| slot_of(shard).node;
        let slow = |shard: u8| self.health.is_suspect(route.slots[usize::from(shard)]);
        let mut turn: Vec<_> = Vec::new();
        for shard in &shards {
            let node = node_of(*shard);
            if !turn.contains(&node) {
                turn.push(node);
            }
        }
        let rank = |shard: u8| {
            let node = node_of(shard);
            let turn = turn.iter().position(|n| *n == node);
            let health = (slot_of(shard).rebuilding, slow(shard));
            (health, Some(node) != self.local, turn, shard)
        };
        shards.sort_by_key(|shard| rank(*shard));
        shards
    }
}

impl Question {
    /// The question as one drive is asked it.
    pub(crate) fn request(&self, set: &SetShared) -> DriveRequest {
        DriveRequest::Read(api::Read {
            scope: set.scope(self.scope),
            key: self.route.key.clone(),
            version: self.version,
            inline: self.inline,
        })
    }

    fn target(&self) -> Target {
        self.version.map_or(Target::Latest, Target::Version)
    }
}

fn with_inline(candidate: Candidate, mut inline: Vec<InlineShard>) -> Found {
    inline.retain(|shard| shard.operation == candidate.entry.operation);
    Found { candidate, inline }
}

/// Fails when the drive says that the caller's view of the bucket, or of the set, is old: the request starts again.
pub(crate) fn check_scope(error: &DriveError) -> Result<(), StoreError> {
    match error {
        DriveError::Refused {
            refusal: Refusal::BucketOutdated { current } | Refusal::BucketNotLive { current },
            ..
        } => Err(StoreError::BucketChanged { current: *current }),
        DriveError::Refused { refusal: Refusal::SetOutdated { current }, .. } => {
            Err(StoreError::SetChanged { current: *current })
        }
        _ => Ok(()),
    }
}
