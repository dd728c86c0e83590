//! Reading a key: just enough drives, locals first; more only when what they say is not conclusive
//! (PROTOCOL.md section 4).
//!
//! ```text
//!  ask R drives --conclusive--> answer
//!       | open, or one is late or silent
//!  ask the rest --conclusive--> answer
//!       | open
//!  give a young writer a moment, ask all again --conclusive--> answer
//!       | open
//!  resolve --> answer
//! ```

use std::sync::Arc;

use holdfast_drive::api::{DriveError, DriveReply, DriveRequest, DriveResult, InlineShard, Read};
use holdfast_register::{Answer, Candidate, Judgement, Refusal, Verdict, judge, judge_latest};
use holdfast_types::{BucketStamp, RegisterKey, VersionId};

use crate::{
    error::StoreError,
    round::Calls,
    set::{Route, SetHandle, SetShared, describe},
};

/// What was asked of a key.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) scope: BucketStamp,
    pub(crate) route: Route,
    /// The latest when `None`.
    pub(crate) version: Option<VersionId>,
    /// Whether shards that ride in the log are wanted along.
    pub(crate) inline: bool,
}

/// What the drives said so far, by shard index.
pub(crate) struct Seen {
    pub(crate) answers: Vec<Answer>,
    pub(crate) inline: Vec<Vec<InlineShard>>,
    asked: Vec<bool>,
    failures: Vec<(usize, String)>,
}

impl Seen {
    fn new(n: u8) -> Self {
        let n = usize::from(n);
        Self {
            answers: vec![Answer::None; n],
            inline: vec![Vec::new(); n],
            asked: vec![false; n],
            failures: Vec::new(),
        }
    }

    /// Takes one answer in.
    fn take(&mut self, route: &Route, shard: u8, result: DriveResult) -> Result<(), StoreError> {
        let at = usize::from(shard);
        match result {
            Ok(DriveReply::View { view, inline }) => {
                self.answers[at] = Answer::View(view);
                self.inline[at] = inline;
            }
            Ok(_) => self.failures.push((route.slots[at], "unexpected reply".to_owned())),
            Err(error) => {
                check_scope(&error)?;
                self.failures.push((route.slots[at], describe(&error)));
            }
        }
        Ok(())
    }

    fn judge(&self, set: &SetShared, version: Option<VersionId>) -> Judgement {
        match version {
            Some(version) => judge(set.quorum, &self.answers, version),
            None => judge_latest(set.quorum, &self.answers),
        }
    }
}

/// Fails when the drive says that the caller's view of the bucket is old: the request starts again.
pub(crate) fn check_scope(error: &DriveError) -> Result<(), StoreError> {
    match error {
        DriveError::Refused {
            refusal: Refusal::BucketOutdated { current } | Refusal::BucketNotLive { current },
            ..
        } => Err(StoreError::BucketChanged { current: *current }),
        _ => Ok(()),
    }
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
    #[tracing::instrument(level = "debug", skip_all, fields(set = %self.index(), ?key))]
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

impl SetShared {
    /// As [`SetHandle::read`], with the inline shards the drives sent.
    pub(crate) async fn look(
        self: &Arc<Self>,
        question: &Question,
    ) -> Result<Option<Found>, StoreError> {
        let mut seen = Seen::new(self.n());
        match self.ask_enough(question, &mut seen).await? {
            Judgement::Found(candidate) if candidate.verdict == Verdict::Open => {}
            judgement => return self.conclude(question, judgement, &mut seen),
        }
        tokio::time::sleep(self.knobs.young_writer).await;
        let mut again = Seen::new(self.n());
        let mut calls = Calls::default();
        let all = self.up(&question.route);
        let judgement = self.ask(question, &all, &mut calls, &mut again).await?;
        match judgement {
            Judgement::Found(candidate) if candidate.verdict == Verdict::Open => {
                self.resolve(question).await
            }
            judgement => self.conclude(question, judgement, &mut again),
        }
    }

    /// Asks R drives, and the rest when those do not suffice.
    async fn ask_enough(
        self: &Arc<Self>,
        question: &Question,
        seen: &mut Seen,
    ) -> Result<Judgement, StoreError> {
        let order = self.nearest(&question.route);
        let (first, rest) = order.split_at(order.len().min(usize::from(self.quorum.read())));
        let mut calls = Calls::default();
        let judgement = self.ask(question, first, &mut calls, seen).await?;
        if is_conclusive(&judgement) || rest.is_empty() {
            return Ok(judgement);
        }
        self.ask(question, rest, &mut calls, seen).await
    }

    /// Asks `shards` and takes answers until they are conclusive, all are in, or one is late.
    async fn ask(
        self: &Arc<Self>,
        question: &Question,
        shards: &[u8],
        calls: &mut Calls,
        seen: &mut Seen,
    ) -> Result<Judgement, StoreError> {
        let requests = shards.iter().map(|shard| {
            seen.asked[usize::from(*shard)] = true;
            (*shard, question.request(self))
        });
        self.send(&question.route, requests.collect(), calls);
        let others_left = seen.asked.iter().filter(|asked| !**asked).count() > 0;
        loop {
            let results = if others_left {
                calls.next_within(self.late(&question.route, shards)).await
            } else {
                calls.next().await
            };
            let Some(results) = results else { return Ok(seen.judge(self, question.version)) };
            for (shard, result) in results {
                seen.take(&question.route, shard, result)?;
            }
            let judgement = seen.judge(self, question.version);
            if is_conclusive(&judgement) {
                return Ok(judgement);
            }
        }
    }

    /// When an answer to a read is late: the slowest drive's usual, at least `hedge_min`.
    fn late(&self, route: &Route, shards: &[u8]) -> std::time::Duration {
        let late = shards.iter().map(|s| self.health.late_after(route.slots[usize::from(*s)]));
        late.max().unwrap_or_default().max(self.knobs.hedge_min)
    }

    /// Shards whose drives are up: local ones first, then node by node, so that few nodes are asked;
    /// which nodes come first varies with the key.
    pub(crate) fn nearest(&self, route: &Route) -> Vec<u8> {
        let mut shards = self.up(route);
        if shards.len() < usize::from(self.quorum.read()) {
            shards = (0..self.n()).collect();
        }
        let node_of = |shard: u8| self.slots[route.slots[usize::from(shard)]].node;
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
            (Some(node) != self.local, turn, shard)
        };
        shards.sort_by_key(|shard| rank(*shard));
        shards
    }

    fn conclude(
        &self,
        question: &Question,
        judgement: Judgement,
        seen: &mut Seen,
    ) -> Result<Option<Found>, StoreError> {
        match judgement {
            Judgement::Absent => Ok(None),
            Judgement::Unknown { have, need } => {
                Err(self.below_quorum(need, have, &std::mem::take(&mut seen.failures)))
            }
            Judgement::Found(candidate) => {
                let operation = candidate.entry.operation;
                let inline = seen.inline.iter_mut().flat_map(std::mem::take);
                let inline = inline.filter(|shard| shard.operation == operation).collect();
                debug_assert!(question.version.is_none_or(|v| v == candidate.version));
                Ok(Some(Found { candidate, inline }))
            }
        }
    }
}

impl Question {
    fn request(&self, set: &SetShared) -> DriveRequest {
        DriveRequest::Read(Read {
            scope: set.scope(self.scope),
            key: self.route.key.clone(),
            version: self.version,
            inline: self.inline,
        })
    }
}

fn is_conclusive(judgement: &Judgement) -> bool {
    match judgement {
        Judgement::Absent => true,
        Judgement::Unknown { .. } => false,
        Judgement::Found(candidate) => candidate.verdict == Verdict::Settled,
    }
}
