//! What drives answer, as messages and back.

use std::collections::BTreeMap;

use holdfast_proto::{WireError, v1, value};
use holdfast_register::{
    HolderMask, KeyView, ShardStatus,
    state::{Held, RegisterState, Remembered},
};
use holdfast_types::{DriveId, DriveState, HybridTime, OperationId, ShardIndex};

use super::{
    error::{drive_error, read_drive_error},
    member,
};
use crate::api::{Chore, DriveFacts, DriveReply, DriveResult, InlineShard, ScanPage, ScannedKey};

/// Every drive state, for reading its name.
pub(super) const STATES: [DriveState; 7] = [
    DriveState::Healthy,
    DriveState::Suspect,
    DriveState::Offline,
    DriveState::Faulty,
    DriveState::Reindexing,
    DriveState::Rebuilding,
    DriveState::Retired,
];

/// One drive's answer to one request as a message.
#[must_use]
pub fn result(result: &DriveResult) -> v1::DriveResult {
    use v1::drive_result::Result as Kind;
    let kind = match result {
        Ok(answer) => Kind::Reply(reply(answer)),
        Err(error) => Kind::Error(drive_error(error)),
    };
    v1::DriveResult { result: Some(kind) }
}

/// The inverse of [`result`].
///
/// # Errors
/// [`WireError`] when the message is malformed.
pub fn read_result(message: v1::DriveResult) -> Result<DriveResult, WireError> {
    use v1::drive_result::Result as Kind;
    match message.result.ok_or(WireError::Missing("result"))? {
        Kind::Reply(answer) => read_reply(answer).map(Ok),
        Kind::Error(error) => read_drive_error(&error).map(Err),
    }
}

fn reply(reply: &DriveReply) -> v1::DriveReply {
    use v1::drive_reply::Reply;
    let kind = match reply {
        DriveReply::Accepted(status) => Reply::Accepted(u32::from(*status as u8)),
        DriveReply::View { view: seen, inline } => {
            let inline = inline.iter().map(inline_shard).collect();
            Reply::View(v1::View { view: Some(view(seen)), inline })
        }
        DriveReply::Page(scanned) => Reply::Page(page(scanned)),
        DriveReply::Chores(chores) => {
            Reply::Chores(v1::Chores { chores: chores.iter().map(chore).collect() })
        }
        DriveReply::Facts(known) => Reply::Facts(facts(known)),
        DriveReply::Done => Reply::Done(true),
        DriveReply::Scrub(status) => Reply::Scrub(super::scrub::status(status)),
        DriveReply::Member(told) => Reply::Member(super::member::reply(told)),
    };
    v1::DriveReply { reply: Some(kind) }
}

fn read_reply(message: v1::DriveReply) -> Result<DriveReply, WireError> {
    use v1::drive_reply::Reply;
    Ok(match message.reply.ok_or(WireError::Missing("reply"))? {
        Reply::Accepted(status) => DriveReply::Accepted(read_status(status)?),
        Reply::View(seen) => DriveReply::View {
            view: read_view(seen.view.ok_or(WireError::Missing("view"))?)?,
            inline: seen.inline.into_iter().map(read_inline_shard).collect::<Result<_, _>>()?,
        },
        Reply::Page(scanned) => DriveReply::Page(read_page(scanned)?),
        Reply::Chores(list) => {
            DriveReply::Chores(list.chores.iter().map(read_chore).collect::<Result<_, _>>()?)
        }
        Reply::Facts(known) => DriveReply::Facts(read_facts(known)?),
        Reply::Done(_) => DriveReply::Done,
        Reply::Scrub(status) => DriveReply::Scrub(super::scrub::read_status(&status)?),
        Reply::Member(told) => DriveReply::Member(super::member::read_reply(told)?),
    })
}

pub(super) fn read_status(number: u32) -> Result<ShardStatus, WireError> {
    [ShardStatus::NoData, ShardStatus::Present, ShardStatus::Missing]
        .into_iter()
        .find(|status| u32::from(*status as u8) == number)
        .ok_or(WireError::Malformed("shard status"))
}

fn view(view: &KeyView) -> v1::KeyView {
    let register = |(version, state): (_, &RegisterState)| v1::RegisterState {
        version: value::version(version),
        entries: state.entries.iter().map(held).collect(),
    };
    let remembered = |memory: &Remembered| v1::Remembered {
        operation: value::id(memory.operation.to_bytes()),
        ballot: value::ballot(&memory.ballot),
        at: memory.at.0,
    };
    v1::KeyView {
        registers: view.registers.iter().map(|(v, state)| register((*v, state))).collect(),
        highest: value::ballot(&view.highest),
        promise: value::ballot(&view.promise),
        memory: view.memory.iter().map(remembered).collect(),
        remembers: view.remembers,
        counts: view.counts,
    }
}

fn read_view(message: v1::KeyView) -> Result<KeyView, WireError> {
    let mut registers = BTreeMap::new();
    for register in message.registers {
        let version = value::read_version(&register.version)?;
        let entries = register.entries.iter().map(read_held).collect::<Result<_, _>>()?;
        if registers.insert(version, RegisterState { entries }).is_some() {
            return Err(WireError::Malformed("view: a version named twice"));
        }
    }
    let remembered = |memory: &v1::Remembered| {
        Ok(Remembered {
            operation: OperationId::from_bytes(value::read_id(&memory.operation, "operation")?),
            ballot: value::read_ballot(&memory.ballot)?,
            at: HybridTime(memory.at),
        })
    };
    Ok(KeyView {
        registers,
        highest: value::read_ballot(&message.highest)?,
        promise: value::read_ballot(&message.promise)?,
        memory: message.memory.iter().map(remembered).collect::<Result<_, WireError>>()?,
        remembers: message.remembers,
        counts: message.counts,
    })
}

fn held(held: &Held) -> v1::Held {
    v1::Held {
        entry: held.entry.to_bytes(),
        shard: u32::from(held.shard as u8),
        settled: held.settled,
        holders: held.holders.0.into(),
    }
}

fn read_held(message: &v1::Held) -> Result<Held, WireError> {
    Ok(Held {
        entry: value::read_entry(&message.entry)?,
        shard: read_status(message.shard)?,
        settled: message.settled,
        holders: HolderMask(value::narrow(message.holders, "holders")?),
    })
}

fn inline_shard(shard: &InlineShard) -> v1::InlineShard {
    v1::InlineShard {
        operation: value::id(shard.operation.to_bytes()),
        shard: shard.shard.0.into(),
        bytes: shard.bytes.clone(),
    }
}

fn read_inline_shard(message: v1::InlineShard) -> Result<InlineShard, WireError> {
    Ok(InlineShard {
        operation: OperationId::from_bytes(value::read_id(&message.operation, "operation")?),
        shard: ShardIndex(value::narrow(message.shard, "shard")?),
        bytes: message.bytes,
    })
}

fn page(page: &ScanPage) -> v1::ScanPage {
    let key =
        |key: &ScannedKey| v1::ScannedKey { name: key.name.clone(), view: Some(view(&key.view)) };
    v1::ScanPage {
        keys: page.keys.iter().map(key).collect(),
        more: page.more,
        counts: page.counts,
        gaps: page.gaps.iter().map(member::gap).collect(),
    }
}

fn read_page(message: v1::ScanPage) -> Result<ScanPage, WireError> {
    let key = |key: v1::ScannedKey| {
        let view = read_view(key.view.ok_or(WireError::Missing("view"))?)?;
        Ok(ScannedKey { name: key.name, view })
    };
    Ok(ScanPage {
        keys: message.keys.into_iter().map(key).collect::<Result<_, WireError>>()?,
        gaps: message.gaps.into_iter().map(member::read_gap).collect(),
        more: message.more,
        counts: message.counts,
    })
}

fn chore(chore: &Chore) -> v1::Chore {
    v1::Chore {
        cursor: chore.cursor.clone(),
        key: value::key(&chore.key),
        version: value::version(chore.version),
        operation: value::id(chore.operation.to_bytes()),
        ballot: value::ballot(&chore.ballot),
        missing: chore.missing.0.into(),
    }
}

fn read_chore(message: &v1::Chore) -> Result<Chore, WireError> {
    Ok(Chore {
        cursor: message.cursor.clone(),
        key: value::read_key(&message.key)?,
        version: value::read_version(&message.version)?,
        operation: OperationId::from_bytes(value::read_id(&message.operation, "operation")?),
        ballot: value::read_ballot(&message.ballot)?,
        missing: HolderMask(value::narrow(message.missing, "missing")?),
    })
}

fn facts(facts: &DriveFacts) -> v1::DriveFacts {
    v1::DriveFacts {
        drive: value::id(facts.drive.to_bytes()),
        path: facts.path.clone(),
        state: facts.state.name().to_owned(),
        reason: facts.reason.clone(),
        capacity_bytes: facts.capacity_bytes,
        free_bytes: facts.free_bytes,
        used_bytes: facts.used_bytes,
        registers: facts.registers,
        repairs: facts.repairs,
        open_count: facts.open_count,
        syncs: facts.syncs,
        index_faults: facts.index_faults,
    }
}

fn read_facts(message: v1::DriveFacts) -> Result<DriveFacts, WireError> {
    let state = STATES.into_iter().find(|state| state.name() == message.state);
    Ok(DriveFacts {
        drive: DriveId::from_bytes(value::read_id(&message.drive, "drive")?),
        path: message.path,
        state: state.ok_or(WireError::Malformed("drive state"))?,
        reason: message.reason,
        capacity_bytes: message.capacity_bytes,
        free_bytes: message.free_bytes,
        used_bytes: message.used_bytes,
        registers: message.registers,
        repairs: message.repairs,
        open_count: message.open_count,
        syncs: message.syncs,
        index_faults: message.index_faults,
    })
}
