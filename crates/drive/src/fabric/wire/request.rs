//! Commands to drives as messages and back. Within one message keys and entries are named by index,
//! so that a batch to all drives of a node carries them once.

use std::time::Duration;

use holdfast_proto::{WireError, v1, value};
use holdfast_register::HolderMask;
use holdfast_types::{
    DriveId, Entry, HybridTime, Keyspace, OperationId, RegisterKey, ShardIndex, VersionId, limits,
};

use super::{Tables, at, handle, read_handle, read_scope, scope};
use crate::api::{
    Accept, ChoreKind, DriveRequest, Guard, Install, ListChores, Pin, Prepare, Purge, Read, Scan,
    Settle, ShardRead, ShardSource, UploadTarget, Verify,
};

/// Operations of one [`Pin`]: a completed object's parts.
const PIN_OPERATIONS_MAX: usize = limits::PARTS_MAX + 1;

/// A call's deadline and requests, as received.
pub type CallParts = (Duration, Vec<(DriveId, DriveRequest)>);

/// A batch as a message.
#[must_use]
pub fn call(deadline: Duration, batch: &[(DriveId, DriveRequest)]) -> v1::CallRequest {
    let mut tables = Tables::default();
    let requests = batch.iter().map(|(drive, command)| v1::DriveRequest {
        drive: value::id(drive.to_bytes()),
        request: Some(request(command, &mut tables)),
    });
    let requests = requests.collect();
    let Tables { keys, entries, .. } = tables;
    let deadline_micros = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
    v1::CallRequest { deadline_micros, entries, keys, requests, ..Default::default() }
}

/// The inverse of [`call`].
///
/// # Errors
/// [`WireError`] when the message is malformed or beyond a limit.
pub fn read_call(message: v1::CallRequest) -> Result<CallParts, WireError> {
    if message.requests.len() > limits::BATCH_REQUESTS_MAX {
        return Err(WireError::TooLong("batch"));
    }
    let read = Records::new(&message.keys, &message.entries)?;
    let one = |request: v1::DriveRequest| {
        let drive = DriveId::from_bytes(value::read_id(&request.drive, "drive")?);
        let command = request.request.ok_or(WireError::Missing("request"))?;
        Ok((drive, read.request(command)?))
    };
    let batch = message.requests.into_iter().map(one).collect::<Result<_, WireError>>()?;
    Ok((Duration::from_micros(message.deadline_micros), batch))
}

/// The targets of an upload as a message.
#[must_use]
pub fn open_upload(targets: &[UploadTarget]) -> v1::OpenUpload {
    let mut tables = Tables::default();
    let target = |target: &'_ UploadTarget, key| v1::UploadTarget {
        drive: value::id(target.drive.to_bytes()),
        scope: Some(scope(&target.scope)),
        key,
        operation: value::id(target.operation.to_bytes()),
        shard: target.shard.0.into(),
        geometry: value::geometry(&target.geometry),
    };
    let targets = targets.iter().map(|t| target(t, tables.key(&t.key))).collect();
    v1::OpenUpload { targets, keys: tables.keys }
}

/// The inverse of [`open_upload`].
///
/// # Errors
/// [`WireError`] when the message is malformed, or names more drives than a set has.
pub fn read_open_upload(message: &v1::OpenUpload) -> Result<Vec<UploadTarget>, WireError> {
    const TARGETS_MAX: usize = 16;
    if message.targets.len() > TARGETS_MAX {
        return Err(WireError::TooLong("upload targets"));
    }
    let read = Records::new(&message.keys, &[])?;
    let target = |target: &v1::UploadTarget| {
        Ok(UploadTarget {
            drive: DriveId::from_bytes(value::read_id(&target.drive, "drive")?),
            scope: read_scope(target.scope.as_ref())?,
            key: read.key(target.key)?,
            operation: operation(&target.operation)?,
            shard: ShardIndex(value::narrow(target.shard, "shard")?),
            geometry: value::read_geometry(&target.geometry)?,
        })
    };
    message.targets.iter().map(target).collect()
}

/// A range of a shard as a message.
#[must_use]
pub fn shard_read(read: &ShardRead) -> v1::ShardRead {
    v1::ShardRead {
        drive: value::id(read.drive.to_bytes()),
        scope: Some(scope(&read.scope)),
        operation: value::id(read.operation.to_bytes()),
        shard: read.shard.0.into(),
        geometry: value::geometry(&read.geometry),
        first_block: read.first_block,
        block_count: read.block_count,
    }
}

/// The inverse of [`shard_read`].
///
/// # Errors
/// [`WireError`] when the message is malformed.
pub fn read_shard_read(message: &v1::ShardRead) -> Result<ShardRead, WireError> {
    Ok(ShardRead {
        drive: DriveId::from_bytes(value::read_id(&message.drive, "drive")?),
        scope: read_scope(message.scope.as_ref())?,
        operation: operation(&message.operation)?,
        shard: ShardIndex(value::narrow(message.shard, "shard")?),
        geometry: value::read_geometry(&message.geometry)?,
        first_block: message.first_block,
        block_count: message.block_count,
    })
}

fn request<'a>(command: &'a DriveRequest, to: &mut Tables<'a>) -> v1::drive_request::Request {
    use v1::drive_request::Request as Kind;
    match command {
        DriveRequest::Accept(accept) => Kind::Accept(accepted(accept, to)),
        DriveRequest::Install(install) => Kind::Install(v1::Install {
            scope: Some(scope(&install.scope)),
            register: Some(register(&install.key, install.version, to)),
            entry: to.entry(&install.entry),
            shard: install.shard.0.into(),
            source: Some(source(&install.source)),
            holders: install.holders.0.into(),
        }),
        DriveRequest::Prepare(prepare) => Kind::Prepare(v1::Prepare {
            scope: Some(scope(&prepare.scope)),
            key: to.key(&prepare.key),
            ballot: value::ballot(&prepare.ballot),
            since: prepare.since.0,
            inline: prepare.inline,
        }),
        DriveRequest::Read(read) => Kind::Read(v1::Read {
            scope: Some(scope(&read.scope)),
            key: to.key(&read.key),
            version: read.version.map(value::version),
            inline: read.inline,
        }),
        DriveRequest::Settle(settle) => Kind::Settle(v1::Settle {
            scope: Some(scope(&settle.scope)),
            register: Some(register(&settle.key, settle.version, to)),
            operation: value::id(settle.operation.to_bytes()),
            holders: settle.holders.0.into(),
            set_size: settle.set_size.into(),
        }),
        DriveRequest::Purge(purge) => Kind::Purge(v1::Purge {
            scope: Some(scope(&purge.scope)),
            register: Some(register(&purge.key, purge.version, to)),
            ballot: value::ballot(&purge.ballot),
        }),
        DriveRequest::Scan(scan) => Kind::Scan(scanned(scan)),
        DriveRequest::ListChores(list) => Kind::ListChores(v1::ListChores {
            kind: chore_kind(list.kind),
            age_micros: list.age_micros,
            after: list.after.clone(),
            limit: list.limit,
        }),
        DriveRequest::InstallBucket(at) => Kind::InstallBucket(scope(at)),
        DriveRequest::Pin(pin) => Kind::Pin(v1::Pin {
            operations: pin.operations.iter().map(|id| value::id(id.to_bytes())).collect(),
            lease: value::id(pin.lease.to_bytes()),
            ttl_micros: pin.ttl_micros,
        }),
        DriveRequest::Facts => Kind::Facts(true),
        DriveRequest::Verify(verify) => Kind::Verify(v1::Verify {
            scope: Some(scope(&verify.scope)),
            register: Some(register(&verify.key, verify.version, to)),
            operation: value::id(verify.operation.to_bytes()),
            shard: verify.shard.0.into(),
        }),
        DriveRequest::Scrub(order) => Kind::Scrub(super::scrub::order(*order)),
        DriveRequest::Member(asked) => Kind::Member(super::member::request(asked)),
    }
}

fn accepted<'a>(accept: &'a Accept, to: &mut Tables<'a>) -> v1::Accept {
    let guard = accept.guard.as_ref();
    v1::Accept {
        scope: Some(scope(&accept.scope)),
        register: Some(register(&accept.key, accept.version, to)),
        entry: to.entry(&accept.entry),
        shard: accept.shard.0.into(),
        source: Some(source(&accept.source)),
        guard: guard.map(|g| v1::Guard { key: to.key(&g.key), prefix: g.prefix.clone() }),
    }
}

fn register<'a>(key: &'a RegisterKey, version: VersionId, to: &mut Tables<'a>) -> v1::Register {
    v1::Register { key: to.key(key), version: value::version(version) }
}

fn scanned(scan: &Scan) -> v1::Scan {
    v1::Scan {
        scope: Some(scope(&scan.scope)),
        space: u32::from(scan.space as u8),
        start: scan.start.clone(),
        end: scan.end.clone(),
        limit: scan.limit,
        metadata: scan.metadata,
    }
}

pub(super) fn source(source: &ShardSource) -> v1::ShardSource {
    use v1::shard_source::Source;
    let kind = match source {
        ShardSource::NoData => Source::NoData(true),
        ShardSource::Inline(bytes) => Source::Inline(bytes.clone()),
        ShardSource::Upload(upload) => Source::Upload(handle(*upload)),
        ShardSource::Held => Source::Held(true),
        ShardSource::Missing => Source::Missing(true),
    };
    v1::ShardSource { source: Some(kind) }
}

pub(super) fn read_source(message: Option<v1::ShardSource>) -> Result<ShardSource, WireError> {
    use v1::shard_source::Source;
    let source = message.and_then(|message| message.source);
    Ok(match source.ok_or(WireError::Missing("shard source"))? {
        Source::NoData(_) => ShardSource::NoData,
        Source::Inline(bytes) => ShardSource::Inline(bytes),
        Source::Upload(upload) => ShardSource::Upload(read_handle(upload)),
        Source::Held(_) => ShardSource::Held,
        Source::Missing(_) => ShardSource::Missing,
    })
}

const fn chore_kind(kind: ChoreKind) -> u32 {
    match kind {
        ChoreKind::Repairs => 1,
        ChoreKind::Unsettled => 2,
        ChoreKind::Tombstones => 3,
        ChoreKind::Buckets => 4,
    }
}

fn read_chore_kind(number: u32) -> Result<ChoreKind, WireError> {
    [ChoreKind::Repairs, ChoreKind::Unsettled, ChoreKind::Tombstones, ChoreKind::Buckets]
        .into_iter()
        .find(|kind| chore_kind(*kind) == number)
        .ok_or(WireError::Malformed("chore kind"))
}

pub(super) fn operation(bytes: &[u8]) -> Result<OperationId, WireError> {
    value::read_id(bytes, "operation").map(OperationId::from_bytes)
}

/// The keys and entries that the requests of one message name, each decoded once.
struct Records {
    keys: Vec<RegisterKey>,
    entries: Vec<Entry>,
}

impl Records {
    fn new(keys: &[bytes::Bytes], entries: &[bytes::Bytes]) -> Result<Self, WireError> {
        // A request names at most two keys (its own and a guard's) and one entry.
        let most = limits::BATCH_REQUESTS_MAX;
        if keys.len() > 2 * most || entries.len() > most {
            return Err(WireError::TooLong("records"));
        }
        Ok(Self {
            keys: keys.iter().map(|key| value::read_key(key)).collect::<Result<_, _>>()?,
            entries: entries.iter().map(|e| value::read_entry(e)).collect::<Result<_, _>>()?,
        })
    }

    fn key(&self, index: u32) -> Result<RegisterKey, WireError> {
        at(&self.keys, index, "key index").cloned()
    }

    fn entry(&self, index: u32) -> Result<Entry, WireError> {
        at(&self.entries, index, "entry index").cloned()
    }

    fn register(
        &self,
        message: Option<&v1::Register>,
    ) -> Result<(RegisterKey, VersionId), WireError> {
        let message = message.ok_or(WireError::Missing("register"))?;
        Ok((self.key(message.key)?, value::read_version(&message.version)?))
    }

    fn request(&self, message: v1::drive_request::Request) -> Result<DriveRequest, WireError> {
        use v1::drive_request::Request as Kind;
        Ok(match message {
            Kind::Accept(accept) => DriveRequest::Accept(self.accept(accept)?),
            Kind::Install(install) => DriveRequest::Install(self.install(install)?),
            Kind::Prepare(prepare) => DriveRequest::Prepare(Prepare {
                scope: read_scope(prepare.scope.as_ref())?,
                key: self.key(prepare.key)?,
                ballot: value::read_ballot(&prepare.ballot)?,
                since: HybridTime(prepare.since),
                inline: prepare.inline,
            }),
            Kind::Read(read) => DriveRequest::Read(Read {
                scope: read_scope(read.scope.as_ref())?,
                key: self.key(read.key)?,
                version: read.version.map(|v| value::read_version(&v)).transpose()?,
                inline: read.inline,
            }),
            Kind::Settle(settle) => DriveRequest::Settle(self.settle(&settle)?),
            Kind::Purge(purge) => {
                let (key, version) = self.register(purge.register.as_ref())?;
                let scope = read_scope(purge.scope.as_ref())?;
                let ballot = value::read_ballot(&purge.ballot)?;
                DriveRequest::Purge(Purge { scope, key, version, ballot })
            }
            Kind::Scan(scan) => DriveRequest::Scan(read_scan(scan)?),
            Kind::ListChores(list) => DriveRequest::ListChores(ListChores {
                kind: read_chore_kind(list.kind)?,
                age_micros: list.age_micros,
                after: list.after,
                limit: list.limit,
            }),
            Kind::InstallBucket(at) => DriveRequest::InstallBucket(read_scope(Some(&at))?),
            Kind::Pin(pin) => DriveRequest::Pin(read_pin(&pin)?),
            Kind::Facts(_) => DriveRequest::Facts,
            Kind::Verify(verify) => DriveRequest::Verify(self.verify(&verify)?),
            Kind::Scrub(order) => DriveRequest::Scrub(super::scrub::read_order(&order)?),
            Kind::Member(asked) => DriveRequest::Member(super::member::read_request(asked)?),
        })
    }

    fn accept(&self, message: v1::Accept) -> Result<Accept, WireError> {
        let (key, version) = self.register(message.register.as_ref())?;
        let guard = |guard: v1::Guard| {
            Ok::<_, WireError>(Guard { key: self.key(guard.key)?, prefix: guard.prefix })
        };
        Ok(Accept {
            scope: read_scope(message.scope.as_ref())?,
            key,
            version,
            entry: self.entry(message.entry)?,
            shard: ShardIndex(value::narrow(message.shard, "shard")?),
            source: read_source(message.source)?,
            guard: message.guard.map(guard).transpose()?,
        })
    }

    fn install(&self, message: v1::Install) -> Result<Install, WireError> {
        let (key, version) = self.register(message.register.as_ref())?;
        Ok(Install {
            scope: read_scope(message.scope.as_ref())?,
            key,
            version,
            entry: self.entry(message.entry)?,
            shard: ShardIndex(value::narrow(message.shard, "shard")?),
            source: read_source(message.source)?,
            holders: HolderMask(value::narrow(message.holders, "holders")?),
        })
    }

    fn verify(&self, message: &v1::Verify) -> Result<Verify, WireError> {
        let (key, version) = self.register(message.register.as_ref())?;
        Ok(Verify {
            scope: read_scope(message.scope.as_ref())?,
            key,
            version,
            operation: operation(&message.operation)?,
            shard: ShardIndex(value::narrow(message.shard, "shard")?),
        })
    }

    fn settle(&self, message: &v1::Settle) -> Result<Settle, WireError> {
        let (key, version) = self.register(message.register.as_ref())?;
        Ok(Settle {
            scope: read_scope(message.scope.as_ref())?,
            key,
            version,
            operation: operation(&message.operation)?,
            holders: HolderMask(value::narrow(message.holders, "holders")?),
            set_size: value::narrow(message.set_size, "set size")?,
        })
    }
}

fn read_scan(message: v1::Scan) -> Result<Scan, WireError> {
    let space = value::narrow::<u8>(message.space, "keyspace")?;
    Ok(Scan {
        scope: read_scope(message.scope.as_ref())?,
        space: Keyspace::try_from(space)
            .map_err(|source| WireError::Record { field: "keyspace", source })?,
        start: message.start,
        end: message.end,
        limit: message.limit,
        metadata: message.metadata,
    })
}

fn read_pin(message: &v1::Pin) -> Result<Pin, WireError> {
    if message.operations.len() > PIN_OPERATIONS_MAX {
        return Err(WireError::TooLong("pinned operations"));
    }
    Ok(Pin {
        operations: message.operations.iter().map(|id| operation(id)).collect::<Result<_, _>>()?,
        lease: operation(&message.lease)?,
        ttl_micros: message.ttl_micros,
    })
}
