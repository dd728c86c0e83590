//! One register brought to a drive that is being rebuilt: what was chosen, with its shard, and the shards
//! of its parts.

use holdfast_drive::api::DriveReply;
use holdfast_register::{Candidate, Held, HolderMask};
use holdfast_types::{BucketEpoch, BucketId, BucketPhase, BucketStamp, RegisterKey};

use super::{Mended, Rebuild};
use crate::{
    compare::Compared,
    error::StoreError,
    read::{Question, check_scope},
    set::Route,
};

impl Rebuild {
    /// Brings one register to the drive, under the stamp its bucket has now.
    pub(super) async fn mend(&self, compared: &Compared) -> Result<Mended, StoreError> {
        let mut rounds = 0;
        loop {
            let stamp = self.stamp_of(&compared.key);
            if stamp.phase != BucketPhase::Live {
                return Ok(Mended::Void);
            }
            match self.mend_under(stamp, compared).await {
                Err(StoreError::BucketChanged { current }) if rounds < 2 => {
                    self.stamps.lock().insert(current.id, current);
                    rounds += 1;
                }
                Err(StoreError::SetChanged { .. }) if rounds < 2 => rounds += 1,
                outcome => return outcome,
            }
        }
    }

    /// Whether a register that could not be brought will never be: every drive shows what it has of it.
    pub(super) async fn judge_failed(
        &self,
        compared: &Compared,
        error: StoreError,
    ) -> Result<Mended, StoreError> {
        let Some(head) = compared.head() else { return Err(error) };
        let stamp = self.stamp_of(&compared.key);
        let (key, version) = (&compared.key, compared.version);
        match self.set.census(stamp, key, version, head.operation).await {
            Ok(census) if census.is_lost() => Ok(Mended::Lost(census, error)),
            _ => Err(error),
        }
    }

    /// As workers do: keys are known, buckets are not, so it begins below every epoch.
    fn stamp_of(&self, key: &RegisterKey) -> BucketStamp {
        if key.bucket == BucketId::NIL {
            return BucketStamp::REGISTRY;
        }
        let (epoch, phase) = (BucketEpoch(0), BucketPhase::Live);
        let unknown = BucketStamp { id: key.bucket, epoch, phase };
        self.stamps.lock().get(&key.bucket).copied().unwrap_or(unknown)
    }

    async fn mend_under(
        &self,
        scope: BucketStamp,
        compared: &Compared,
    ) -> Result<Mended, StoreError> {
        let shared = &self.set.shared;
        let route = shared.route(&compared.key)?;
        let version = Some(compared.version);
        let question = Question { scope, route: route.clone(), version, inline: false };
        // Linearizable: what is open is settled first. What it answers was chosen, and whatever comes
        // after it comes to this drive by itself.
        let Some(found) = shared.look(&question).await? else { return Ok(Mended::Whole(0)) };
        let candidate = found.candidate;
        let mut bytes = candidate.entry.geometry.shard_len();
        bytes += candidate.entry.parts.iter().map(|part| part.geometry.shard_len()).sum::<u64>();
        self.keep_pace(bytes).await;
        let shard = route.shard_of(self.slot);
        let whole = compared.whole(candidate.entry.operation).into_iter();
        let holders =
            whole.fold(HolderMask::default(), |mask, slot| mask.with(route.shard_of(slot)));
        let holders = holders.with(shard);
        let brought =
            self.engine.bring(&self.set, scope, &route, &candidate, holders, &[shard]).await?;
        if brought.is_some() && !self.holds(scope, &route, &candidate).await? {
            let why = [(self.slot, "it did not take the entry".to_owned())];
            return Err(shared.below_quorum(1, 0, &why));
        }
        shared.restock(scope, &route, &candidate, shard).await?;
        Ok(Mended::Whole(bytes.max(1)))
    }

    /// Whether the drive itself says that it holds the entry whole, or something newer.
    async fn holds(
        &self,
        scope: BucketStamp,
        route: &Route,
        candidate: &Candidate,
    ) -> Result<bool, StoreError> {
        let shared = &self.set.shared;
        let version = Some(candidate.version);
        let question = Question { scope, route: route.clone(), version, inline: false };
        let asked = vec![(self.slot, question.request(shared))];
        for (_, result) in shared.ask_slots(asked).await {
            match result {
                Ok(DriveReply::View { view, .. }) => {
                    let register = view.registers.get(&candidate.version);
                    let held = register.and_then(|r| r.of_operation(candidate.entry.operation));
                    let newer = register.and_then(|r| r.head());
                    let newer = newer.is_some_and(|h| h.entry.ballot > candidate.entry.ballot);
                    return Ok(held.is_some_and(Held::is_whole) || newer);
                }
                Ok(_) => {}
                Err(error) => check_scope(&error)?,
            }
        }
        Ok(false)
    }
}
