//! Lists of work for background workers, and pins.

use std::collections::HashMap;

use bytes::Bytes;
use holdfast_register::HolderMask;
use holdfast_types::{Ballot, BucketId, BucketPhase, OperationId, RegisterKey, VersionId};

use crate::{
    api::{Chore, ChoreKind, DriveReply, ListChores, Pin},
    table::Dropped,
    value::{PlaceRecord, REPAIR_SPACE, RegisterRecord, TOMBSTONE_SPACE, UNSETTLED_SPACE},
};

use super::{Decision, Drive, Stop};

/// Most operations one lease names: the parts of a multipart object.
const PIN_OPERATIONS_MAX: usize = holdfast_types::limits::PARTS_MAX;

/// Longest lease: a reader renews it by progress.
const PIN_TTL_MICROS_MAX: u64 = 10 * holdfast_types::limits::REQUEST_MICROS_MAX;

/// Operations whose bytes are kept, and dropped shards that are kept for them.
#[derive(Default)]
pub(super) struct Pins {
    leases: HashMap<OperationId, Lease>,
    pinned: HashMap<OperationId, u32>,
    lingering: HashMap<OperationId, Vec<PlaceRecord>>,
}

struct Lease {
    operations: Vec<OperationId>,
    expires: u64,
}

impl Pins {
    pub(super) fn holds(&self, operation: OperationId) -> bool {
        self.pinned.contains_key(&operation)
    }

    pub(super) fn linger(&mut self, dropped: Dropped) {
        self.lingering.entry(dropped.operation).or_default().push(dropped.record);
    }

    pub(super) fn lingering(&self, operation: OperationId) -> Option<PlaceRecord> {
        self.lingering.get(&operation).and_then(|records| records.first()).cloned()
    }

    /// Whether a kept shard lies in a segment of the log.
    pub(super) fn linger_in(&self, segment: u32) -> bool {
        let inside = |r: &PlaceRecord| matches!(r.place, crate::value::Place::Inline { segment: s, .. } if s == segment);
        self.lingering.values().flatten().any(inside)
    }

    /// Ends a lease; returns the shards nobody keeps any more.
    fn end(&mut self, lease: OperationId) -> Vec<Dropped> {
        let Some(lease) = self.leases.remove(&lease) else { return Vec::new() };
        let mut free = Vec::new();
        for operation in lease.operations {
            let left = self.pinned.get(&operation).map_or(0, |count| count - 1);
            if left > 0 {
                self.pinned.insert(operation, left);
                continue;
            }
            self.pinned.remove(&operation);
            let kept = self.lingering.remove(&operation).unwrap_or_default();
            free.extend(kept.into_iter().map(|record| Dropped { operation, record }));
        }
        free
    }

    fn begin(&mut self, lease: OperationId, operations: Vec<OperationId>, expires: u64) {
        for operation in &operations {
            *self.pinned.entry(*operation).or_default() += 1;
        }
        self.leases.insert(lease, Lease { operations, expires });
    }

    fn expired(&self, now: u64) -> Vec<OperationId> {
        let old = self.leases.iter().filter(|(_, lease)| lease.expires <= now);
        old.map(|(id, _)| *id).collect()
    }
}

impl Drive {
    pub(super) fn pin(&mut self, pin: Pin) -> Decision {
        if pin.operations.len() > PIN_OPERATIONS_MAX {
            return Err(Stop::invalid("pin: too many operations"));
        }
        let now = self.clock.monotonic_micros();
        if pin.ttl_micros > 0 {
            // The new lease begins before the old one ends, so that renewing never lets go.
            let renewed = self.pins.leases.remove(&pin.lease);
            let expires = now + pin.ttl_micros.min(PIN_TTL_MICROS_MAX);
            self.pins.begin(pin.lease, pin.operations, expires);
            if let Some(old) = renewed {
                let temporary = OperationId::NIL;
                self.pins.leases.insert(temporary, old);
                self.let_go(temporary);
            }
        } else {
            self.let_go(pin.lease);
        }
        Ok(DriveReply::Done)
    }

    /// Ends leases whose time is over.
    pub(super) fn expire_pins(&mut self) {
        for lease in self.pins.expired(self.clock.monotonic_micros()) {
            self.let_go(lease);
        }
    }

    /// Whether a dropped operation's shard is still somewhere: pinned, or waiting for its batch.
    pub(super) fn dropped_place(&self, operation: OperationId) -> Option<PlaceRecord> {
        let waiting = self.freeing.values().flatten().find(|d| d.operation == operation);
        waiting.map(|d| d.record.clone()).or_else(|| self.pins.lingering(operation))
    }

    fn let_go(&mut self, lease: OperationId) {
        for dropped in self.pins.end(lease) {
            self.release(dropped);
        }
    }

    /// Work of one kind in cursor order. Looks at a bounded number of records.
    pub(super) fn list_chores(&mut self, list: &ListChores) -> Decision {
        let space = match list.kind {
            ChoreKind::Buckets => return Ok(DriveReply::Chores(self.known_buckets(list))),
            ChoreKind::Repairs => REPAIR_SPACE,
            ChoreKind::Unsettled => UNSETTLED_SPACE,
            ChoreKind::Tombstones => TOMBSTONE_SPACE,
        };
        let newest = self.clock.wall_micros().saturating_sub(list.age_micros);
        let mut start = match &list.after {
            Some(cursor) if cursor.first() == Some(&space) => [cursor, &[0_u8][..]].concat(),
            Some(_) => return Err(Stop::invalid("list chores: foreign cursor")),
            None => vec![space],
        };
        let mut chores = Vec::new();
        loop {
            let end = [space + 1];
            // What rot hides is not listed here; the other drives list it, too (ADR 0017).
            let page = self.table.layers.scan(&start, Some(&end), list.limit as usize)?;
            let register_at = if space == REPAIR_SPACE { 1 } else { 9 };
            // All at once, so that they are brought up by one trip to the I/O threads.
            let shown = |key: &Bytes| {
                let register = (key.len() > register_at).then(|| key.slice(register_at..));
                register.filter(|register| self.table.layers.rot().of(register).is_none())
            };
            self.table.layers.ready(page.items.iter().filter_map(|(key, _)| shown(key)))?;
            for (cursor, _) in &page.items {
                let Some(register) = shown(cursor) else { continue };
                let register = &register[..];
                let (record, _) = self.table.register(register)?;
                // Of a register that was void and has not come back: nobody's, until chores are counted anew.
                let Some(note) = record.notes.first() else { continue };
                if note.at > newest {
                    if space == REPAIR_SPACE {
                        continue;
                    }
                    return Ok(DriveReply::Chores(chores));
                }
                chores.extend(chore(cursor, register, &record));
                if chores.len() >= list.limit as usize {
                    return Ok(DriveReply::Chores(chores));
                }
            }
            match page.next {
                Some(next) => start = next.to_vec(),
                None => return Ok(DriveReply::Chores(chores)),
            }
        }
    }
}

impl Drive {
    fn known_buckets(&self, list: &ListChores) -> Vec<Chore> {
        let behind = |id: &[u8; 16]| list.after.as_ref().is_none_or(|after| id[..] > after[..]);
        let known = self.table.buckets.values().map(|known| known.stamp);
        let known = known.filter(|stamp| stamp.phase != BucketPhase::Deleted);
        let mut ids: Vec<[u8; 16]> =
            known.map(|stamp| stamp.id.to_bytes()).filter(behind).collect();
        ids.sort_unstable();
        ids.truncate(list.limit as usize);
        let chore = |id: [u8; 16]| Chore {
            cursor: Bytes::copy_from_slice(&id),
            key: RegisterKey::object(BucketId::from_bytes(id), Bytes::new()),
            version: VersionId::NULL,
            operation: OperationId::NIL,
            ballot: Ballot::ZERO,
            missing: HolderMask::default(),
        };
        ids.into_iter().map(chore).collect()
    }
}

/// The chore of a register; a repair is about its settled entry, the others about its head.
fn chore(cursor: &Bytes, register: &[u8], record: &RegisterRecord) -> Option<Chore> {
    let (key, version) = RegisterKey::decode_register(register).ok()?;
    let repair = cursor.first() == Some(&REPAIR_SPACE);
    let held = if repair { record.state.settled() } else { record.state.head() }?;
    Some(Chore {
        cursor: cursor.clone(),
        key,
        version,
        operation: held.entry.operation,
        ballot: held.entry.ballot,
        missing: record.missing(),
    })
}

const _: () = assert!(REPAIR_SPACE < UNSETTLED_SPACE && UNSETTLED_SPACE < TOMBSTONE_SPACE);
