//! Conditional writes: Prepare, judge, decide, Accept under the promise (PROTOCOL.md section 3).

use holdfast_drive::api::{DriveReply, DriveRequest, Prepare};
use holdfast_register::{Answer, Candidate, Judgement, Verdict, judge};
use holdfast_types::{BucketStamp, HybridTime, RegisterKey, VersionId};

use crate::{
    draft::Decision,
    error::StoreError,
    read::{Question, check_scope},
    round::Calls,
    set::{SetHandle, describe},
    staged::Staged,
};

impl SetHandle {
    /// Decides on the current value of a register and writes under the promise that nothing came in between. `decide` may be called
    /// again when another writer wins meanwhile. A tombstone is shown as such.
    ///
    /// # Errors
    /// What `decide` answers; [`StoreError::BelowQuorum`], [`StoreError::Unknown`].
    #[tracing::instrument(level = "debug", skip_all, fields(set = %self.index(), ?key))]
    pub async fn update<T: Send>(
        &self,
        scope: BucketStamp,
        key: RegisterKey,
        version: VersionId,
        mut decide: impl FnMut(Option<&Candidate>) -> Result<Decision<T>, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let set = &self.shared;
        let route = set.route(&key)?;
        let mut floor = HybridTime(0);
        for _ in 0..set.knobs.attempts_max {
            set.check_writable()?;
            let ballot = set.draw_above(floor);
            floor = ballot.time;
            let prepare = |shard: u8| {
                let prepare = Prepare {
                    scope: set.scope(scope),
                    key: key.clone(),
                    ballot,
                    since: ballot.time,
                    inline: false,
                };
                (shard, DriveRequest::Prepare(prepare))
            };
            let mut calls = Calls::default();
            set.send(&route, set.up(&route).into_iter().map(prepare).collect(), &mut calls);
            let mut answers = vec![Answer::None; usize::from(set.n())];
            let mut refused = false;
            let mut failures = Vec::new();
            for (shard, result) in calls.all().await {
                match result {
                    Ok(DriveReply::View { view, .. }) => {
                        answers[usize::from(shard)] = Answer::View(view);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        check_scope(&error)?;
                        if let holdfast_drive::api::DriveError::Refused { refusal, .. } = &error {
                            refused = true;
                            floor = floor.max(refusal.winner().unwrap_or_default().time);
                        }
                        failures.push((route.slots[usize::from(shard)], describe(&error)));
                    }
                }
            }
            if refused {
                continue;
            }
            let current = match judge(set.quorum, &answers, version) {
                Judgement::Absent => None,
                Judgement::Unknown { have, need } => {
                    return Err(set.below_quorum(need, have, &failures));
                }
                Judgement::Found(candidate) if candidate.verdict == Verdict::Open => {
                    let route = route.clone();
                    set.resolve(&Question { scope, route, version: Some(version), inline: false })
                        .await?;
                    continue;
                }
                Judgement::Found(candidate) => Some(candidate),
            };
            let (draft, answer) = match decide(current.as_ref())? {
                Decision::Keep(answer) => return Ok(answer),
                Decision::Write(draft, answer) => (draft, answer),
            };
            let staged = Staged::new(set, &route, draft);
            let tally = set.accept_round(scope, &route, version, &staged, ballot).await?;
            let need = set.quorum.acknowledged(staged.data_shards());
            if tally.holders.count() >= need {
                return Ok(answer);
            }
            if tally.accepted.count() > 0 {
                return Err(set.below_quorum(need, tally.holders.count(), &tally.failures));
            }
        }
        Err(StoreError::ConditionalConflict)
    }
}
