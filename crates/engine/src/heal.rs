//! What the workers do with one item: roll forward, heal, purge.

use holdfast_drive::api::{
    Chore, DriveError, DriveReply, DriveRequest, DriveResult, Install, Purge, ShardSource,
};
use holdfast_register::{Candidate, HolderMask, KeyView, Reach, Refusal, ShardStatus, Target};
use holdfast_types::{Ballot, BucketStamp, EntryKind, OperationId, Quorum, ShardIndex, VersionId};

use crate::{
    actor::Note,
    engine::Engine,
    error::StoreError,
    read::{Question, check_scope},
    restore::Restored,
    round::Calls,
    set::{Route, SetHandle},
    workers::Worked,
};

/// What came of Installs.
#[derive(Default)]
struct Installed {
    /// Drives that hold entry and shard now.
    whole: HolderMask,
    /// Drives that took the entry and lack the shard.
    short: Vec<u8>,
    /// Drives that cannot take the entry at its old ballot.
    refused: bool,
}

impl Engine {
    /// Settles what a writer left unsettled: finishes it when it may have been chosen, seals it when
    /// it was not (PROTOCOL.md section 3).
    pub(crate) async fn roll_forward(
        &self,
        set: &SetHandle,
        scope: BucketStamp,
        chore: &Chore,
    ) -> Result<Worked, StoreError> {
        let route = set.shared.route(&chore.key)?;
        let seal = OperationId::draw(self.random.as_ref());
        let target = Target::Version(chore.version);
        match set.shared.resolve(scope, &route, target, Reach::Sweep(seal)).await {
            // A part that is frozen: the completion, or the sweep after it, does what is to be done.
            Err(StoreError::UploadNotOpen) => Ok(Worked::Later),
            outcome => outcome.map(|_| Worked::Done),
        }
    }

    /// Brings a settled entry, with its shard, to the drives that miss it and are up.
    pub(crate) async fn heal(
        &self,
        set: &SetHandle,
        scope: BucketStamp,
        chore: &Chore,
    ) -> Result<Worked, StoreError> {
        let shared = &set.shared;
        let route = shared.route(&chore.key)?;
        let up = shared.up(&route);
        let lacking: Vec<u8> = up.into_iter().filter(|shard| chore.missing.has(*shard)).collect();
        if lacking.is_empty() {
            return Ok(Worked::Later);
        }
        let version = Some(chore.version);
        let question = Question { scope, route: route.clone(), version, inline: false };
        let found = shared.look(&question).await?;
        let Some(candidate) = found.map(|found| found.candidate) else { return Ok(Worked::Done) };
        if candidate.entry.operation != chore.operation {
            // Overwritten: what it was overwritten with has a record of its own.
            return Ok(Worked::Done);
        }
        let full = HolderMask::full(shared.n());
        let holders = HolderMask(full.0 & !chore.missing.0);
        let brought = self.bring(set, scope, &route, &candidate, holders, &lacking).await?;
        let Some(holders) = brought else { return Ok(Worked::Done) };
        let (version, operation) = (chore.version, chore.operation);
        let note = Note { route, scope, version, operation, holders };
        shared.settle_now(vec![note]).await;
        Ok(if holders == full { Worked::Done } else { Worked::Later })
    }

    /// Installs a settled entry on drives that lack it, with their shards. Answers who holds it then;
    /// `None` when it had to be written anew instead, which reached whoever is up.
    pub(crate) async fn bring(
        &self,
        set: &SetHandle,
        scope: BucketStamp,
        route: &Route,
        candidate: &Candidate,
        mut holders: HolderMask,
        lacking: &[u8],
    ) -> Result<Option<HolderMask>, StoreError> {
        let shared = &set.shared;
        if !candidate.is_firm(Quorum::of(shared.n())) {
            // Chosen, and not acknowledged: while this is on its way somebody may find it lost (ADR 0021).
            return self.write_anew(set, scope, route, candidate).await;
        }
        // Most drives that come back have the shard, or need none: ask before anything is restored.
        let mut installed =
            self.install(set, scope, route, candidate, holders, lacking, None).await?;
        holders = holders.union(installed.whole);
        if !installed.short.is_empty() {
            let short = std::mem::take(&mut installed.short);
            let (version, entry) = (candidate.version, &candidate.entry);
            let restored = if entry.geometry.has_data() {
                shared.restore(scope, route, version, entry, &short).await?
            } else {
                // It is short for the sake of parts.
                for shard in &short {
                    shared.restock(scope, route, candidate, *shard).await?;
                }
                Restored::default()
            };
            let again = self
                .install(set, scope, route, candidate, holders, &short, Some(&restored))
                .await?;
            holders = holders.union(again.whole);
            installed.refused |= again.refused;
        }
        if installed.refused {
            return self.write_anew(set, scope, route, candidate).await;
        }
        Ok(Some(holders))
    }

    /// Writes what a register holds anew, for whoever is up.
    async fn write_anew(
        &self,
        set: &SetHandle,
        scope: BucketStamp,
        route: &Route,
        candidate: &Candidate,
    ) -> Result<Option<HolderMask>, StoreError> {
        let seal = OperationId::draw(self.random.as_ref());
        let target = Target::Version(candidate.version);
        set.shared.resolve(scope, route, target, Reach::Rewrite(seal)).await?;
        Ok(None)
    }

    async fn install(
        &self,
        set: &SetHandle,
        scope: BucketStamp,
        route: &Route,
        candidate: &Candidate,
        holders: HolderMask,
        shards: &[u8],
        restored: Option<&Restored>,
    ) -> Result<Installed, StoreError> {
        let source = |shard: u8| match restored {
            _ if !candidate.entry.geometry.has_data() => Some(ShardSource::NoData),
            None => Some(ShardSource::Held),
            Some(restored) => restored.source(shard),
        };
        let request = |shard: &u8| {
            let install = Install {
                scope: set.shared.scope(scope),
                key: route.key.clone(),
                version: candidate.version,
                entry: candidate.entry.clone(),
                shard: ShardIndex(*shard),
                source: source(*shard)?,
                holders,
            };
            Some((*shard, DriveRequest::Install(install)))
        };
        let mut calls = Calls::default();
        set.shared.send(route, 0, shards.iter().filter_map(request).collect(), &mut calls);
        let mut installed = Installed::default();
        for (shard, result) in calls.all().await {
            installed.take(shard, result)?;
        }
        Ok(installed)
    }

    /// Removes a tombstone that every drive of the set holds settled.
    pub(crate) async fn purge(
        &self,
        set: &SetHandle,
        scope: BucketStamp,
        chore: &Chore,
    ) -> Result<Worked, StoreError> {
        let shared = &set.shared;
        let route = shared.route(&chore.key)?;
        let version = Some(chore.version);
        let question = Question { scope, route: route.clone(), version, inline: false };
        let views = shared.views(&question).await?;
        let views: Vec<KeyView> = views.into_iter().map(|(_, view)| view).collect();
        let full = HolderMask::full(shared.n());
        let Some(ballot) = purgeable(&views, full, chore.version, chore.operation) else {
            return Ok(Worked::Later);
        };
        let purge = |shard: u8| {
            let scope = shared.scope(scope);
            let (key, version) = (route.key.clone(), chore.version);
            (shard, DriveRequest::Purge(Purge { scope, key, version, ballot }))
        };
        let mut calls = Calls::default();
        shared.send(&route, 0, (0..shared.n()).map(purge).collect(), &mut calls);
        let done = calls.all().await.into_iter().all(|(_, result)| result.is_ok());
        Ok(if done { Worked::Done } else { Worked::Later })
    }
}

impl Installed {
    fn take(&mut self, shard: u8, result: DriveResult) -> Result<(), StoreError> {
        match result {
            Ok(DriveReply::Accepted(ShardStatus::Missing)) => self.short.push(shard),
            Ok(DriveReply::Accepted(_)) => self.whole = self.whole.with(shard),
            Ok(_) => {}
            Err(error) => {
                check_scope(&error)?;
                let stuck = matches!(
                    error,
                    DriveError::Refused {
                        refusal: Refusal::Purged { .. } | Refusal::BallotReused,
                        ..
                    }
                );
                self.refused |= stuck;
            }
        }
        Ok(())
    }
}

/// Up to which ballot a register can be purged: when all drives answered, each shows the tombstone
/// settled or (purged already) nothing, and the tombstone was once held by all (INV-PURGE-1: a drive
/// that never held it may still hold what it removed).
fn purgeable(
    views: &[KeyView],
    full: HolderMask,
    version: VersionId,
    operation: OperationId,
) -> Option<Ballot> {
    if views.len() != usize::from(full.count()) {
        return None;
    }
    let mut held = HolderMask::default();
    let mut highest = Ballot::ZERO;
    for register in views.iter().filter_map(|view| view.registers.get(&version)) {
        let head = register.head()?;
        let tombstone = head.entry.kind == EntryKind::Tombstone;
        if !(tombstone && head.settled && head.entry.operation == operation) {
            return None;
        }
        held = held.union(head.holders);
        highest = highest.max(head.entry.ballot);
    }
    (held == full).then_some(highest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_register::{Held, RegisterState};
    use holdfast_types::{Entry, Geometry, HybridTime};

    fn view(settled: bool, holders: u16) -> KeyView {
        let ballot = Ballot { time: HybridTime(5), ..Ballot::ZERO };
        let entry = Entry {
            ballot,
            order: ballot,
            operation: OperationId(1),
            kind: EntryKind::Tombstone,
            geometry: Geometry::EMPTY,
            metadata: bytes::Bytes::new(),
            parts: Vec::new(),
        };
        let shard = ShardStatus::NoData;
        let held = Held { entry, shard, settled, holders: HolderMask(holders) };
        let register = RegisterState { entries: vec![held] };
        KeyView { registers: [(VersionId::NULL, register)].into(), ..KeyView::default() }
    }

    /// Goal: a tombstone goes only when no drive can hold anything below it (INV-PURGE-1). Method: the
    /// table of what three drives may show.
    #[test]
    fn a_tombstone_is_purged_only_when_every_drive_has_held_it() {
        let (full, none) = (HolderMask(0b111), KeyView::default());
        let of = |views: &[KeyView]| purgeable(views, full, VersionId::NULL, OperationId(1));
        let all = [view(true, 0b111), view(true, 0b111), view(true, 0b111)];
        assert!(of(&all).is_some());
        assert!(of(&all[..2]).is_none(), "a silent drive");
        assert!(
            of(&[view(true, 0b111), view(true, 0b011), none.clone()]).is_some(),
            "purged there"
        );
        assert!(of(&[view(true, 0b011), view(true, 0b011), none]).is_none(), "never held there");
        assert!(of(&[view(false, 0), view(true, 0b111), view(true, 0b111)]).is_none(), "unsettled");
    }
}
