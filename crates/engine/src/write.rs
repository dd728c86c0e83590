//! Blind writes: one round (PROTOCOL.md section 3).

use std::sync::Arc;

use holdfast_drive::api::{DriveReply, DriveResult};
use holdfast_register::{HolderMask, ShardStatus};
use holdfast_types::{Ballot, BucketStamp, HybridTime, RegisterKey, VersionId};

use crate::{
    actor::Note,
    draft::Draft,
    error::StoreError,
    read::check_scope,
    round::Calls,
    set::{Route, SetHandle, SetShared, describe},
    staged::Staged,
};

/// What came back from one round of Accepts.
#[derive(Default)]
pub(crate) struct Tally {
    /// Drives that hold entry and shard.
    pub(crate) holders: HolderMask,
    /// Drives that accepted, with or without their shard.
    pub(crate) accepted: HolderMask,
    pub(crate) refused: u8,
    pub(crate) winner: Option<Ballot>,
    pub(crate) failures: Vec<(usize, String)>,
}

impl Tally {
    pub(crate) fn take(
        &mut self,
        route: &Route,
        shard: u8,
        result: DriveResult,
    ) -> Result<(), StoreError> {
        match result {
            Ok(DriveReply::Accepted(status)) => {
                self.accepted = self.accepted.with(shard);
                if status != ShardStatus::Missing {
                    self.holders = self.holders.with(shard);
                }
            }
            Ok(_) => {}
            Err(error) => {
                if self.accepted.count() == 0 {
                    check_scope(&error)?;
                }
                if let holdfast_drive::api::DriveError::Refused { refusal, .. } = &error {
                    self.refused += 1;
                    self.winner = self.winner.max(refusal.winner());
                }
                self.failures.push((route.slots[usize::from(shard)], describe(&error)));
            }
        }
        Ok(())
    }
}

impl SetHandle {
    /// Writes an entry, whatever is there.
    ///
    /// # Errors
    /// [`StoreError::BelowQuorum`] when too few drives are there, [`StoreError::Unknown`] when the
    /// outcome cannot be known.
    #[tracing::instrument(level = "debug", skip_all, fields(set = %self.index(), ?key))]
    pub async fn write(
        &self,
        scope: BucketStamp,
        key: RegisterKey,
        version: VersionId,
        draft: Draft,
    ) -> Result<Ballot, StoreError> {
        let set = &self.shared;
        let route = set.route(&key)?;
        let mut floor = HybridTime(0);
        for _ in 0..set.knobs.attempts_max {
            set.check_writable()?;
            let staged = Staged::new(set, &route, draft.clone());
            let ballot = set.draw_above(floor);
            let tally = set.accept_round(scope, &route, version, &staged, ballot).await?;
            let need = set.quorum.acknowledged(staged.data_shards());
            if tally.holders.count() >= need {
                return Ok(ballot);
            }
            match tally.winner {
                Some(winner) if tally.accepted.count() == 0 => floor = winner.time,
                _ => return Err(set.below_quorum(need, tally.holders.count(), &tally.failures)),
            }
        }
        Err(StoreError::Unknown { message: "too many attempts".to_owned() })
    }
}

impl SetShared {
    /// One round of Accepts: returns when all drives that are up have answered, or some time after
    /// enough have. What is chosen is settled, once the stragglers are in.
    pub(crate) async fn accept_round(
        self: &Arc<Self>,
        scope: BucketStamp,
        route: &Route,
        version: VersionId,
        staged: &Staged,
        ballot: Ballot,
    ) -> Result<Tally, StoreError> {
        let entry = staged.entry(ballot);
        let accept =
            |shard: u8| (shard, staged.accept(self, scope, route, version, &entry, shard, None));
        let mut calls = Calls::default();
        self.send(route, self.up(route).into_iter().map(accept).collect(), &mut calls);
        let need = self.quorum.acknowledged(staged.data_shards());
        let mut tally = Tally::default();
        loop {
            let enough = tally.holders.count() >= need;
            let results = if enough {
                calls.next_within(self.knobs.ack_grace).await
            } else {
                calls.next().await
            };
            let Some(results) = results else { break };
            for (shard, result) in results {
                tally.take(route, shard, result)?;
            }
        }
        if tally.holders.count() >= need {
            self.mail.settle(Note {
                route: route.clone(),
                scope,
                version,
                operation: entry.operation,
                holders: tally.holders,
            });
        }
        Ok(tally)
    }
}
