//! What overlay, runs and index hold: a register's entries, where an operation's shard lies, chores.
//! The byte formats are in docs/format/log.md, "Values".
//!
//! ```text
//! register  format u8 = 1 | count varint | count *
//!             ( shard index u8 | status u8 | settled u8 | holders u16 | set size u8 | at varint
//!             | entry blob )
//! place     format u8 = 2 | references varint | shard index u8 | rotten u8 | kind u8
//!             0 none | 1 inline: segment u32, offset u64, length u32
//!             | 2 extents: length varint, count varint, count * (volume u32, block u32, blocks u32)
//! chore     no bytes: its key says all
//! ```

use bytes::Bytes;
use holdfast_register::{Held, HolderMask, KeyState, RegisterState, ShardStatus};
use holdfast_types::{
    Ballot, Entry, EntryKind, OperationId, ShardIndex, VersionId,
    codec::{CodecError, Reader, Writer},
};

/// The version of a register's format above.
const FORMAT: u8 = 1;

/// The version of a place's format above.
const PLACE_FORMAT: u8 = 2;

/// First byte of the keys under which places are kept.
pub const PLACE_SPACE: u8 = 0x81;
/// First byte of the keys of registers whose settled entry is not held by all drives.
pub const REPAIR_SPACE: u8 = 0x82;
/// First byte of the keys of registers with an unsettled head; the time of its acceptance follows.
pub const UNSETTLED_SPACE: u8 = 0x83;
/// First byte of the keys of registers with a settled tombstone; the time of its acceptance follows.
pub const TOMBSTONE_SPACE: u8 = 0x84;

/// A register as the drive keeps it: the protocol's state, and what only this drive knows of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegisterRecord {
    /// The entries, by falling ballot.
    pub state: RegisterState,
    /// One for each entry, in the same order.
    pub notes: Vec<Note>,
}

/// What the drive keeps beside an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Note {
    /// Which shard this drive holds.
    pub shard: ShardIndex,
    /// Drives of the set, once a Settle said so; 0 before.
    pub set_size: u8,
    /// The drive's clock when the entry was accepted, in microseconds.
    pub at: u64,
}

impl RegisterRecord {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        debug_assert_eq!(self.state.entries.len(), self.notes.len());
        let mut out = Writer::with_capacity(200);
        out.u8(FORMAT);
        out.varint(self.notes.len() as u64);
        for (held, note) in self.state.entries.iter().zip(&self.notes) {
            encode_held(held, note, &mut out);
        }
        out.into_bytes()
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a form.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut input = Reader::new(bytes);
        if input.u8()? != FORMAT {
            return Err(CodecError::Unknown("register format"));
        }
        let count = input.narrow::<usize>()?;
        let mut record = Self::default();
        for _ in 0..count {
            let (held, note) = decode_held(&mut input)?;
            record.state.entries.push(held);
            record.notes.push(note);
        }
        input.finish()?;
        Ok(record)
    }

    /// The highest ballot in it.
    #[must_use]
    pub fn highest(&self) -> Ballot {
        self.state.head().map_or(Ballot::ZERO, |held| held.entry.ballot)
    }

    /// What the drive keeps beside the entry of `operation`.
    #[must_use]
    pub fn note_of(&self, operation: OperationId) -> Option<&Note> {
        let at = self.state.entries.iter().position(|held| held.entry.operation == operation)?;
        self.notes.get(at)
    }

    /// Stores an accepted or installed entry; returns the entries it replaced.
    pub fn accept(&mut self, held: Held, note: Note) -> Vec<Held> {
        let operation = held.entry.operation;
        let known = self.note_of(operation).copied();
        let note =
            Note { set_size: note.set_size.max(known.map_or(0, |known| known.set_size)), ..note };
        self.transition(|state| state.apply_accept(VersionId::NULL, held), Some((operation, note)))
    }

    /// Marks an operation settled; returns the entries dropped below it.
    pub fn settle(
        &mut self,
        operation: OperationId,
        holders: HolderMask,
        set_size: u8,
        drop_below: bool,
    ) -> Vec<Held> {
        let note = self.note_of(operation).map(|note| Note { set_size, ..*note });
        let apply =
            |s: &mut KeyState| s.apply_settle(VersionId::NULL, operation, holders, drop_below);
        self.transition(apply, note.map(|note| (operation, note)))
    }

    /// Removes entries up to `ballot`; returns them.
    pub fn purge(&mut self, ballot: Ballot) -> Vec<Held> {
        self.transition(|state| state.apply_purge(VersionId::NULL, ballot), None)
    }

    /// Notes that an operation's shard is not here any more: the entry's own, or a part's. Nothing is
    /// dropped by it.
    pub fn lose(&mut self, operation: OperationId) -> Vec<Held> {
        for held in &mut self.state.entries {
            let own = held.entry.operation == operation && held.shard == ShardStatus::Present;
            if own || lacks_by_part(held, operation) {
                held.shard = ShardStatus::Missing;
            }
        }
        Vec::new()
    }

    /// Whether a settled entry names `operation` as a part, and does not know yet that it is missing.
    #[must_use]
    pub fn takes_loss_of_part(&self, operation: OperationId) -> bool {
        self.state.entries.iter().any(|held| lacks_by_part(held, operation))
    }

    /// Applies one of the protocol's transitions, which are written for whole keys, to this register
    /// alone, and brings the notes back into the order of the entries.
    fn transition(
        &mut self,
        apply: impl FnOnce(&mut KeyState) -> Vec<Held>,
        noted: Option<(OperationId, Note)>,
    ) -> Vec<Held> {
        let before: Vec<(OperationId, Note)> = self
            .state
            .entries
            .iter()
            .map(|h| h.entry.operation)
            .zip(self.notes.drain(..))
            .collect();
        let mut key = KeyState::default();
        if !self.state.entries.is_empty() {
            key.registers.insert(VersionId::NULL, std::mem::take(&mut self.state));
        }
        let gone = apply(&mut key);
        self.state = key.registers.remove(&VersionId::NULL).unwrap_or_default();
        let note_of = |operation: OperationId| {
            let all = noted.iter().chain(&before);
            all.copied().find(|(other, _)| *other == operation).map(|(_, note)| note)
        };
        self.notes = self
            .state
            .entries
            .iter()
            .map(|held| note_of(held.entry.operation).unwrap_or_default())
            .collect();
        gone
    }

    /// Shards of the settled entry that are missing somewhere, once the set's size is known.
    #[must_use]
    pub fn missing(&self) -> HolderMask {
        let entries = self.state.entries.iter().zip(&self.notes);
        let Some((held, note)) = entries.into_iter().find(|(held, _)| held.settled) else {
            return HolderMask::default();
        };
        let full = HolderMask::full(note.set_size);
        let mut missing = full.0 & !held.holders.0;
        if held.shard == ShardStatus::Missing {
            missing |= HolderMask::default().with(note.shard.0).0;
        }
        HolderMask(missing)
    }

    /// The keys of the chores this register gives rise to.
    #[must_use]
    pub fn chores(&self, register: &[u8]) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        let (Some(head), Some(note)) = (self.state.head(), self.notes.first()) else { return keys };
        if !head.settled {
            keys.push(timed_chore(UNSETTLED_SPACE, note.at, register));
        } else if head.entry.kind == EntryKind::Tombstone {
            keys.push(timed_chore(TOMBSTONE_SPACE, note.at, register));
        }
        if self.missing() != HolderMask::default() {
            let mut key = Vec::with_capacity(register.len() + 1);
            key.push(REPAIR_SPACE);
            key.extend_from_slice(register);
            keys.push(key);
        }
        keys
    }
}

/// Whether the loss of a part's shard makes this entry short. Only of a settled one: an open one that
/// says `Missing` might never find the holders it needs, and the next who reads it tells again.
fn lacks_by_part(held: &Held, operation: OperationId) -> bool {
    held.settled
        && held.shard == ShardStatus::NoData
        && held.entry.parts.iter().any(|part| part.operation == operation)
}

/// `space u8 | at u64 big-endian | register key`: chores in the order of their age.
fn timed_chore(space: u8, at: u64, register: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(register.len() + 9);
    key.push(space);
    key.extend_from_slice(&at.to_be_bytes());
    key.extend_from_slice(register);
    key
}

/// Appends one entry as the drive keeps it.
pub fn encode_held(held: &Held, note: &Note, out: &mut Writer) {
    out.u8(note.shard.0);
    out.u8(held.shard as u8);
    out.u8(u8::from(held.settled));
    out.raw(&held.holders.0.to_be_bytes());
    out.u8(note.set_size);
    out.varint(note.at);
    out.blob(&held.entry.to_bytes());
}

/// The inverse of [`encode_held`].
///
/// # Errors
/// [`CodecError`] when the bytes are not such a form.
pub fn decode_held(input: &mut Reader<'_>) -> Result<(Held, Note), CodecError> {
    let shard_index = ShardIndex(input.u8()?);
    let shard = match input.u8()? {
        0 => ShardStatus::NoData,
        1 => ShardStatus::Present,
        2 => ShardStatus::Missing,
        _ => return Err(CodecError::Unknown("shard status")),
    };
    let settled = match input.u8()? {
        0 => false,
        1 => true,
        _ => return Err(CodecError::Unknown("settled flag")),
    };
    if shard_index.0 >= 16 {
        return Err(CodecError::Unknown("shard index"));
    }
    let holders = HolderMask(u16::from_be_bytes(input.array()?));
    let set_size = input.u8()?;
    let at = input.varint()?;
    let entry = Entry::from_bytes(input.blob()?)?;
    let note = Note { shard: shard_index, set_size, at };
    Ok((Held { entry, shard, settled, holders }, note))
}

/// A run of whole blocks in a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Extent {
    /// The volume.
    pub volume: u32,
    /// The first block of 4 KiB.
    pub block: u32,
    /// Blocks.
    pub blocks: u32,
}

/// Where bytes of a shard lie.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Place {
    /// Nowhere: entries name the operation, but its shard never came.
    #[default]
    None,
    /// In a segment of the log.
    Inline {
        /// The segment.
        segment: u32,
        /// Where in its file.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// In volumes.
    Extents {
        /// Bytes of the shard.
        len: u64,
        /// In order; each begins with a block of header.
        extents: Vec<Extent>,
    },
}

impl Place {
    /// Bytes of the shard.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a place without bytes is none: `is_none`")]
    pub const fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Inline { len, .. } => *len as u64,
            Self::Extents { len, .. } => *len,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Appends the place.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Self::None => out.u8(0),
            Self::Inline { segment, offset, len } => {
                out.u8(1);
                out.raw(&segment.to_be_bytes());
                out.raw(&offset.to_be_bytes());
                out.raw(&len.to_be_bytes());
            }
            Self::Extents { len, extents } => {
                out.u8(2);
                out.varint(*len);
                out.varint(extents.len() as u64);
                for extent in extents {
                    out.raw(&extent.volume.to_be_bytes());
                    out.raw(&extent.block.to_be_bytes());
                    out.raw(&extent.blocks.to_be_bytes());
                }
            }
        }
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a form.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match input.u8()? {
            0 => Self::None,
            1 => Self::Inline {
                segment: u32::from_be_bytes(input.array()?),
                offset: u64::from_be_bytes(input.array()?),
                len: u32::from_be_bytes(input.array()?),
            },
            2 => {
                let len = input.varint()?;
                let count = input.narrow::<usize>()?;
                let mut extents = Vec::new();
                for _ in 0..count {
                    extents.push(Extent {
                        volume: u32::from_be_bytes(input.array()?),
                        block: u32::from_be_bytes(input.array()?),
                        blocks: u32::from_be_bytes(input.array()?),
                    });
                }
                Self::Extents { len, extents }
            }
            _ => return Err(CodecError::Unknown("place")),
        })
    }
}

/// Where an operation's shard lies, and how many entries of this drive name the operation. The bytes
/// are dropped with the last of them (INV-PLACE-1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlaceRecord {
    /// Entries that name the operation.
    pub references: u64,
    /// Which shard it is.
    pub shard: ShardIndex,
    /// Whether a block of it was found rotten. What is left stays until another copy comes: blocks
    /// that still verify may be the last of their stripes (INV-ROT-1).
    pub rotten: bool,
    /// Where it lies.
    pub place: Place,
}

impl PlaceRecord {
    /// Whether the whole shard is here, as far as is known.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        !self.place.is_none() && !self.rotten
    }

    /// The key under which an operation's place is kept.
    #[must_use]
    pub fn key(operation: OperationId) -> Vec<u8> {
        let mut key = Vec::with_capacity(17);
        key.push(PLACE_SPACE);
        key.extend_from_slice(&operation.to_bytes());
        key
    }

    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(40);
        out.u8(PLACE_FORMAT);
        out.varint(self.references);
        out.u8(self.shard.0);
        out.u8(u8::from(self.rotten));
        self.place.encode(&mut out);
        out.into_bytes()
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a form.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut input = Reader::new(bytes);
        if input.u8()? != PLACE_FORMAT {
            return Err(CodecError::Unknown("place format"));
        }
        let references = input.varint()?;
        let shard = ShardIndex(input.u8()?);
        let rotten = match input.u8()? {
            0 => false,
            1 => true,
            _ => return Err(CodecError::Unknown("rotten flag")),
        };
        let place = Place::decode(&mut input)?;
        input.finish()?;
        Ok(Self { references, shard, rotten, place })
    }
}

/// One value, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Of a register key.
    Register(RegisterRecord),
    /// Of an operation's key.
    Place(PlaceRecord),
    /// Of a chore's key.
    Chore,
}

impl Value {
    /// The value's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Register(record) => record.encode().into(),
            Self::Place(place) => place.encode().into(),
            Self::Chore => Bytes::new(),
        }
    }

    /// Reads the value that belongs to `key`.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a value.
    pub fn decode(key: &[u8], bytes: &[u8]) -> Result<Self, CodecError> {
        match key.first() {
            Some(1..=5) => RegisterRecord::decode(bytes).map(Self::Register),
            Some(&PLACE_SPACE) => PlaceRecord::decode(bytes).map(Self::Place),
            Some(&REPAIR_SPACE | &UNSETTLED_SPACE | &TOMBSTONE_SPACE) => Ok(Self::Chore),
            _ => Err(CodecError::Unknown("key space")),
        }
    }

    /// The highest ballot in it.
    #[must_use]
    pub fn highest(&self) -> Ballot {
        if let Self::Register(record) = self { record.highest() } else { Ballot::ZERO }
    }

    /// Roughly the memory it takes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        match self {
            Self::Register(record) => {
                let entries = record.state.entries.iter();
                entries
                    .map(|h| 280 + h.entry.metadata.len() as u64 + h.entry.parts.len() as u64 * 48)
                    .sum()
            }
            Self::Place(_) => 96,
            Self::Chore => 16,
        }
    }
}
