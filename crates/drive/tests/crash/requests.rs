//! The requests of a sequence, drawn at random, and what the model expects of them.

use bytes::Bytes;
use holdfast_drive::api::{
    Accept, DriveError, DriveReply, DriveRequest, DriveResult, Install, Prepare, Purge, Read,
    Settle, ShardSource, UploadTarget,
};
use holdfast_erasure::{Salt, encode_body};
use holdfast_register::{HolderMask, Refusal, ShardStatus};
use holdfast_types::{
    Ballot, Entry, EntryKind, ErrorClass, Geometry, HybridTime, OperationId, PartRef, RegisterKey,
    ScrubOrder, VersionId, WriterId,
    seam::{Clock, Random},
};

use crate::{
    model::Model,
    world::{DRIVE, Expected, SHARD, World},
};

impl World {
    /// Hands a request in. `changed` is the model after it, if it is another one.
    pub fn ask(
        &mut self,
        request: DriveRequest,
        answer: Result<Option<ShardStatus>, Refusal>,
        changed: Option<Model>,
        rests_on: Option<RegisterKey>,
    ) {
        let before = self.states.len();
        let accepts = matches!(request, DriveRequest::Accept(_) | DriveRequest::Install(_));
        let waits = !matches!(request, DriveRequest::Settle(_) | DriveRequest::Purge(_));
        let raises = matches!(request, DriveRequest::InstallBucket(_));
        let is_change = changed.is_some();
        self.states.extend(changed);
        let rested = rests_on.as_ref().and_then(|key| self.accepted_at.get(key).copied());
        let mut acknowledges = rested.unwrap_or(0);
        if is_change && waits {
            acknowledges = before;
        }
        if is_change && raises {
            for key in Self::keys() {
                self.accepted_at.insert(key, before);
            }
        }
        let number = self.expected.len();
        if std::env::var_os("HOLDFAST_TRACE").is_some() {
            eprintln!("{number} {}: {request:?} -> {answer:?}", self.clock.wall_micros());
        }
        self.expected.push(Expected { answer, acknowledges });
        let answers = self.answers.clone();
        let done = Box::new(move |result| answers.lock().unwrap().push((number, result)));
        self.drive().handle(request, done);
        self.look_up();
        for job in self.drive().take_read_jobs() {
            job.run();
        }
        let failed = |(n, result): &(usize, DriveResult)| {
            *n == number && matches!(result, Err(DriveError::Failed { .. }))
        };
        if self.answers.lock().unwrap().iter().any(failed) {
            // Refused on the spot: nothing was recorded.
            self.states.truncate(before);
        } else if is_change && accepts {
            let key = rests_on.expect("an Accept is of a key");
            self.accepted_at.insert(key, before);
        }
    }

    pub fn check_answers(&mut self) {
        for (number, result) in std::mem::take(&mut *self.answers.lock().unwrap()) {
            let expected = &self.expected[number];
            match (&result, &expected.answer) {
                (Err(DriveError::Failed { class, .. }), _) => {
                    use ErrorClass::{Damaged, Full, Overloaded, Unavailable};
                    // Damaged: a run that cannot be read, for the power is off.
                    let fits = matches!(class, Unavailable | Full | Overloaded)
                        || (*class == Damaged && self.disk.is_off());
                    assert!(fits, "seed {}: {result:?}", self.seed);
                    continue;
                }
                (Ok(DriveReply::Accepted(status)), Ok(Some(predicted))) => {
                    assert_eq!(status, predicted, "seed {}", self.seed);
                }
                (Ok(_), Ok(None)) => {}
                (Err(DriveError::Refused { refusal, .. }), Err(predicted)) => {
                    assert_eq!(refusal, predicted, "seed {}", self.seed);
                }
                other => panic!("seed {}: answered and predicted {other:?}", self.seed),
            }
            self.acknowledged = self.acknowledged.max(expected.acknowledges);
        }
    }

    pub fn fresh_ballot(&self) -> Ballot {
        let micros = self.clock.wall_micros();
        let time = if self.one_in(6) { micros - self.below(5_000_000) } else { micros };
        let time = HybridTime(HybridTime::from_micros(time).0 + self.below(4000));
        Ballot { generation: 1, time, writer: WriterId(u128::from(1 + self.below(3))) }
    }

    pub fn fresh_operation(&mut self) -> OperationId {
        self.operations += 1;
        OperationId(self.operations)
    }

    pub fn body(&self, max: u64) -> Vec<u8> {
        let mut body = vec![0; 1 + self.below(max) as usize];
        for chunk in body.chunks_mut(8) {
            let bytes = self.random.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        body
    }

    pub fn encode(operation: OperationId, body: &[u8]) -> (Geometry, Bytes) {
        let geometry = Geometry {
            data_shards: 1,
            total_shards: 1,
            block_bytes: 8192,
            size: body.len() as u64,
        };
        let salt = Salt { operation, drive: DRIVE, shard: SHARD };
        (geometry, encode_body(&geometry, body, &[salt]).remove(0))
    }

    pub fn entry(&mut self, kind: EntryKind, geometry: Geometry, operation: OperationId) -> Entry {
        let ballot = self.fresh_ballot();
        let metadata = self.body(300).into();
        Entry { ballot, order: ballot, operation, kind, geometry, metadata, parts: Vec::new() }
    }

    pub fn accept_new(&mut self) {
        let operation = self.fresh_operation();
        let key = self.any_key();
        let (entry, source) = match self.below(8) {
            0 => (self.entry(EntryKind::Tombstone, Geometry::EMPTY, operation), None),
            1 => {
                let mut entry = self.entry(EntryKind::Put, Geometry::EMPTY, operation);
                entry.parts = self.some_parts();
                (entry, None)
            }
            2..=4 => {
                let body = self.body(6000);
                let (geometry, shard) = Self::encode(operation, &body);
                let entry = self.entry(EntryKind::Put, geometry, operation);
                (entry, Some(ShardSource::Inline(shard)))
            }
            5 => {
                let (geometry, _) = Self::encode(operation, b"never comes");
                (self.entry(EntryKind::Put, geometry, operation), Some(ShardSource::Missing))
            }
            _ => {
                let body = self.body(60_000);
                let (geometry, shard) = Self::encode(operation, &body);
                let Some(source) = self.upload(&key, operation, geometry, &shard) else { return };
                (self.entry(EntryKind::Put, geometry, operation), Some(source))
            }
        };
        let accept = Accept {
            scope: self.current_scope(),
            key,
            version: self.any_version(),
            entry,
            shard: SHARD,
            source: source.unwrap_or(ShardSource::NoData),
            guard: None,
        };
        self.past.push(accept.clone());
        self.send_accept(accept);
    }

    /// Operations that the part register's entries wrote.
    pub fn some_parts(&self) -> Vec<PartRef> {
        let registers = self.model().registers_of(&Self::keys()[3]);
        let entries = registers.values().flat_map(|register| &register.entries);
        let with_data = entries.filter(|held| held.entry.geometry.has_data());
        let part = |(n, held): (usize, &holdfast_register::Held)| PartRef {
            number: n as u16 + 1,
            operation: held.entry.operation,
            geometry: held.entry.geometry,
        };
        with_data.enumerate().map(part).collect()
    }

    pub fn send_accept(&mut self, accept: Accept) {
        let (shard, handle) = match &accept.source {
            ShardSource::Inline(bytes) => (Some(bytes.clone()), None),
            ShardSource::Upload(handle) => {
                (self.uploads.get(&handle.upload).cloned(), Some(handle.upload))
            }
            _ => (None, None),
        };
        let mut next = self.model().clone();
        let before = next.clone();
        let answer = next.accept(&accept, shard, self.now());
        let changed = answer.is_ok() && differs(&before, &next);
        let operation = accept.entry.operation;
        let takes = next.shards.contains_key(&operation) && !before.shards.contains_key(&operation);
        let key = accept.key.clone();
        let states = self.states.len();
        self.ask(DriveRequest::Accept(accept), answer, changed.then_some(next), Some(key));
        if let Some(handle) = handle.filter(|_| takes && self.states.len() > states) {
            self.uploads.remove(&handle);
        }
    }

    /// The same again, or under a higher ballot with the shard that is held.
    pub fn repeat_or_adopt(&mut self) {
        if self.past.is_empty() {
            return;
        }
        let mut accept = self.past[self.below(self.past.len() as u64) as usize].clone();
        accept.scope = self.current_scope();
        if self.one_in(2) {
            accept.entry.ballot = self.fresh_ballot();
            accept.source = ShardSource::Held;
        }
        if !accept.entry.geometry.has_data() {
            accept.source = ShardSource::NoData;
        }
        self.send_accept(accept);
    }

    pub fn upload(
        &mut self,
        key: &RegisterKey,
        operation: OperationId,
        geometry: Geometry,
        shard: &Bytes,
    ) -> Option<ShardSource> {
        let announced = if self.one_in(2) { geometry.size } else { 0 };
        let target = UploadTarget {
            drive: DRIVE,
            scope: self.current_scope(),
            key: key.clone(),
            operation,
            shard: SHARD,
            geometry: Geometry { size: announced, ..geometry },
        };
        let piece = 1 + self.below(20_000) as usize;
        let mut upload = self.drive().upload_port().begin(&target).ok()?;
        for bytes in shard.chunks(piece) {
            upload.write(bytes).ok()?;
        }
        let handle = upload.finish().ok()?;
        self.uploads.insert(handle.upload, shard.clone());
        Some(ShardSource::Upload(handle))
    }

    pub fn abandon_upload(&mut self) {
        let operation = self.fresh_operation();
        let body = self.body(60_000);
        let (geometry, shard) = Self::encode(operation, &body);
        let key = self.any_key();
        let target = UploadTarget {
            drive: DRIVE,
            scope: self.current_scope(),
            key,
            operation,
            shard: SHARD,
            geometry,
        };
        if let Ok(mut upload) = self.drive().upload_port().begin(&target) {
            let _ = upload.write(&shard[..shard.len() / 2]);
        }
    }

    /// An operation that is held, of any register.
    pub fn any_held(&self) -> Option<(RegisterKey, VersionId, Entry)> {
        let model = self.model();
        let all: Vec<(RegisterKey, VersionId, Entry)> = model
            .keys
            .iter()
            .flat_map(|(key, state)| {
                state.registers.iter().flat_map(move |(version, register)| {
                    let held = register.entries.iter();
                    held.map(move |held| (key.clone(), *version, held.entry.clone()))
                })
            })
            .collect();
        (!all.is_empty()).then(|| all[self.below(all.len() as u64) as usize].clone())
    }

    pub fn settle(&mut self) {
        let Some((key, version, entry)) = self.any_held() else { return };
        let holders = HolderMask(1 + 2 * self.below(4) as u16);
        let scope = self.current_scope();
        let operation = entry.operation;
        let settle = Settle { scope, key, version, operation, holders, set_size: 3 };
        let mut next = self.model().clone();
        let changed = next.settle(&settle);
        self.ask(DriveRequest::Settle(settle), Ok(None), changed.then_some(next), None);
    }

    pub fn purge(&mut self) {
        let Some((key, version, entry)) = self.any_held() else { return };
        let purge = Purge { scope: self.current_scope(), key, version, ballot: entry.ballot };
        let mut next = self.model().clone();
        let answer = next.purge(&purge);
        let changed = answer == Ok(true);
        if changed {
            // A Purge is answered, and looked at, without a wait; so is what it removed.
            self.accepted_at.remove(&purge.key);
        }
        let answer = answer.map(|_| None);
        self.ask(DriveRequest::Purge(purge), answer, changed.then_some(next), None);
    }

    pub fn prepare(&mut self) {
        let prepare = Prepare {
            scope: self.current_scope(),
            key: self.any_key(),
            ballot: self.fresh_ballot(),
            since: HybridTime(0),
            inline: self.one_in(2),
        };
        let now = self.now();
        let last = self.states.last_mut().expect("there is always a state");
        // A promise changes nothing that a restart keeps per key.
        let answer = last.prepare(&prepare, now).map(|()| None);
        let key = prepare.key.clone();
        self.ask(DriveRequest::Prepare(prepare), answer, None, Some(key));
    }

    pub fn install(&mut self) {
        let operation = self.fresh_operation();
        let body = self.body(3000);
        let (geometry, shard) = Self::encode(operation, &body);
        let install = Install {
            scope: self.current_scope(),
            key: self.any_key(),
            version: self.any_version(),
            entry: self.entry(EntryKind::Put, geometry, operation),
            shard: SHARD,
            source: ShardSource::Inline(shard),
            holders: HolderMask(1),
        };
        let mut next = self.model().clone();
        let before = next.clone();
        let answer = next.install(&install, self.now());
        let changed = answer.is_ok() && differs(&before, &next);
        let key = install.key.clone();
        self.ask(DriveRequest::Install(install), answer, changed.then_some(next), Some(key));
    }

    pub fn read(&mut self) {
        let key = self.any_key();
        let scope = self.current_scope();
        let read = Read { scope, key: key.clone(), version: None, inline: self.one_in(2) };
        self.ask(DriveRequest::Read(read), Ok(None), None, Some(key));
    }

    pub fn raise_epoch(&mut self) {
        let mut next = self.model().clone();
        next.bucket_epoch += 1;
        let scope = self.scope(next.bucket_epoch);
        self.ask(DriveRequest::InstallBucket(scope), Ok(None), Some(next), None);
    }

    /// Passes of few shards a step and of all at once; crashes find them somewhere on their way.
    pub fn order_scrub(&mut self) {
        let rates = [1 << 20, 1 << 30];
        let order = match self.below(6) {
            0 => ScrubOrder::Pause,
            1 => ScrubOrder::Rate(rates[self.below(2) as usize]),
            _ => ScrubOrder::Start,
        };
        self.drive().handle(DriveRequest::Scrub(order), Box::new(|_| ()));
    }
}

/// Whether two models differ in what a restart keeps.
fn differs(a: &Model, b: &Model) -> bool {
    let registers = |model: &Model| {
        let held = model.keys.iter().filter(|(_, state)| !state.registers.is_empty());
        held.map(|(key, state)| (key.clone(), state.registers.clone())).collect::<Vec<_>>()
    };
    registers(a) != registers(b) || a.shards != b.shards
}
