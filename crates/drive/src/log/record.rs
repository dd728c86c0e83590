//! Records of the log: the events from which a drive's state follows (docs/format/log.md).
//!
//! ```text
//! record   type u8 | length varint | payload
//! 1 Accept   register key blob | held (value.rs) | place; inline bytes come last:
//!              place u8: 0 none | 1 inline: length varint, bytes | 2 as in value.rs
//! 2 Settle   register key blob | operation 16 | holders u16 | set size u8 | drop below u8
//! 3 Purge    register key blob | ballot 28
//! 4 Bucket   stamp
//! 5 Ceiling  ballot 28
//! 6 Open     open count varint | wall clock, us varint
//! 7 Move     operation 16 | old place | new place, as in Accept
//! 8 Lost     register key blob | operation 16 | place
//! 9 Member   set epoch varint | membership blob, empty: as it was
//! 10 Stand   standing u8 | floor 28 | purge floor 28
//! 11 Erase   register key blob
//! 12 Rot     first key blob | end blob | log position varint | highest ballot 28
//! 13 Scrub   book, as in scrub.rs
//! 14 Fill    set epoch varint | floor 28
//! 15 Filled  count varint, each: range, as in the manifest
//! 16 Healed  count varint, each: range, as in the manifest
//! 17 Recount all chores, too u8
//! 18 Named   register key blob
//! 19 Tally   registers, repairs, shards, used bytes: varint
//! 20 References  operation 16 | count varint
//! ```

use bytes::Bytes;
use holdfast_register::{Held, HolderMask};
use holdfast_types::{
    Ballot, BucketStamp, OperationId, SetEpoch,
    codec::{CodecError, Reader, Writer},
    limits,
};

use crate::{
    member::Standing,
    rot::{RANGES_MAX, RotRange},
    scrub::Book,
    table::tally::Counted,
    value::{Note, Place, decode_held, encode_held},
};

const ACCEPT: u8 = 1;
const SETTLE: u8 = 2;
const PURGE: u8 = 3;
const BUCKET: u8 = 4;
const CEILING: u8 = 5;
const OPEN: u8 = 6;
const MOVE: u8 = 7;
const LOST: u8 = 8;
const MEMBER: u8 = 9;
const STAND: u8 = 10;
const ERASE: u8 = 11;
const ROT: u8 = 12;
const SCRUB: u8 = 13;
const FILL: u8 = 14;
const FILLED: u8 = 15;
const HEALED: u8 = 16;
const RECOUNT: u8 = 17;
const NAMED: u8 = 18;
const TALLY: u8 = 19;
const REFERENCES: u8 = 20;

/// Marks inline bytes that ride in the record itself.
const INLINE: u8 = 1;

/// Bytes of the longest record: metadata and part list at their limits, an inline shard, and room.
pub const RECORD_BYTES_MAX: usize =
    limits::METADATA_BYTES_MAX + limits::PARTS_MAX * 40 + (128 << 10);

/// An event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// An entry was accepted or installed.
    Accept {
        /// The register, encoded.
        register: Bytes,
        /// The entry.
        held: Held,
        /// What the drive keeps beside it.
        note: Note,
        /// The shard that came with it.
        shard: NewShard,
    },
    /// An operation was chosen.
    Settle {
        /// The register, encoded.
        register: Bytes,
        /// The operation.
        operation: OperationId,
        /// Its known holders.
        holders: HolderMask,
        /// Drives of the set.
        set_size: u8,
        /// Whether entries below it go.
        drop_below: bool,
    },
    /// A register's entries up to a ballot are gone.
    Purge {
        /// The register, encoded.
        register: Bytes,
        /// The ballot.
        ballot: Ballot,
    },
    /// A bucket has a new stamp.
    Bucket(BucketStamp),
    /// Promises may be given up to here.
    Ceiling(Ballot),
    /// The drive was opened.
    Open {
        /// How often by now.
        open_count: u64,
        /// When.
        at: u64,
    },
    /// A live shard was copied elsewhere. Applies only where the old place still stands.
    Move {
        /// The operation.
        operation: OperationId,
        /// Where the shard lay.
        old: Place,
        /// Where it lies now.
        new: NewShard,
    },
    /// A shard was found rotten where it lay. Applies only where the place still stands.
    Lost {
        /// A register, encoded, whose entry wrote it.
        register: Bytes,
        /// The operation.
        operation: OperationId,
        /// Where it lay.
        place: Place,
    },
    /// The drive adopted a set epoch.
    Member {
        /// The epoch.
        epoch: SetEpoch,
        /// The membership under it; empty when a request brought the number alone.
        membership: Bytes,
    },
    /// The drive stands elsewhere in its set.
    Stand {
        /// Where.
        standing: Standing,
        /// Everything is promised at least here.
        floor: Ballot,
        /// What stood up to here may have been purged.
        purge_floor: Ballot,
    },
    /// A register of a deleted bucket goes, whatever it holds.
    Erase {
        /// The register, encoded.
        register: Bytes,
    },
    /// Rot in a run hides what was known of a range of keys.
    Rot(RotRange),
    /// How the scrub stands, exact as of this record.
    Scrub(Box<Book>),
    /// Hidden ranges of registers that were recorded under an older epoch are open from here on: what lies
    /// below is void.
    Fill {
        /// The set epoch that min(W, n - 1) others have adopted.
        epoch: SetEpoch,
        /// Everything is promised at least here.
        floor: Ballot,
    },
    /// Open ranges, as they stand, have what they should have.
    Filled(Vec<RotRange>),
    /// Of filled ranges, as they stand, nothing that is void is left in runs and index.
    Healed(Vec<RotRange>),
    /// Ranges of places and chores that are hidden, or whose count did not end, are counted anew from here on:
    /// what lies below is void.
    Recount {
        /// And all chores, hidden or not.
        chores: bool,
    },
    /// What a register names in ranges that are counted anew is counted: its shards are missing there, its
    /// chores are put.
    Named {
        /// The register, encoded.
        register: Bytes,
    },
    /// What a walk over all that is held came to, exact as of this record.
    Tally(Counted),
    /// So many entries name an operation.
    References {
        /// The operation.
        operation: OperationId,
        /// How many.
        count: u64,
    },
}

/// A shard that a record brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewShard {
    /// None.
    None,
    /// It rides in the record.
    Inline(Bytes),
    /// It lies in volumes, synced before.
    At(Place),
}

impl Record {
    /// The inline bytes it brings, and whose they are.
    #[must_use]
    pub const fn inline(&self) -> Option<(OperationId, &Bytes)> {
        match self {
            Self::Accept { held, shard: NewShard::Inline(bytes), .. } => {
                Some((held.entry.operation, bytes))
            }
            Self::Move { operation, new: NewShard::Inline(bytes), .. } => Some((*operation, bytes)),
            _ => None,
        }
    }

    /// Whether what is hidden, void or counted is other than before.
    #[must_use]
    pub const fn changes_rot(&self) -> bool {
        matches!(self, Self::Rot(_) | Self::Fill { .. } | Self::Filled(_) | Self::Recount { .. })
    }

    /// Bytes it takes in a batch.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        let mut head = Writer::new();
        let tail = self.encode_head(&mut head).len();
        head.into_bytes().len() + tail
    }

    /// Appends the record but for inline bytes, which the caller appends next. Returns them.
    pub fn encode_head<'a>(&'a self, out: &mut Writer) -> &'a [u8] {
        let mut body = Writer::with_capacity(256);
        let (kind, tail) = self.encode_body(&mut body);
        let body = body.into_bytes();
        out.u8(kind);
        out.varint((body.len() + tail.len()) as u64);
        out.raw(&body);
        tail
    }

    fn encode_body<'a>(&'a self, out: &mut Writer) -> (u8, &'a [u8]) {
        match self {
            Self::Accept { register, held, note, shard } => {
                out.blob(register);
                encode_held(held, note, out);
                (ACCEPT, shard.encode_head(out))
            }
            Self::Settle { register, operation, holders, set_size, drop_below } => {
                out.blob(register);
                out.id(operation.to_bytes());
                out.raw(&holders.0.to_be_bytes());
                out.u8(*set_size);
                out.u8(u8::from(*drop_below));
                (SETTLE, &[])
            }
            Self::Purge { register, ballot } => {
                out.blob(register);
                ballot.encode(out);
                (PURGE, &[])
            }
            Self::Bucket(stamp) => {
                stamp.encode(out);
                (BUCKET, &[])
            }
            Self::Ceiling(ballot) => {
                ballot.encode(out);
                (CEILING, &[])
            }
            Self::Open { open_count, at } => {
                out.varint(*open_count);
                out.varint(*at);
                (OPEN, &[])
            }
            Self::Move { operation, old, new } => {
                out.id(operation.to_bytes());
                old.encode(out);
                (MOVE, new.encode_head(out))
            }
            Self::Lost { register, operation, place } => {
                out.blob(register);
                out.id(operation.to_bytes());
                place.encode(out);
                (LOST, &[])
            }
            Self::Member { epoch, membership } => {
                out.varint(epoch.0);
                out.blob(membership);
                (MEMBER, &[])
            }
            Self::Stand { standing, floor, purge_floor } => {
                out.u8(*standing as u8);
                floor.encode(out);
                purge_floor.encode(out);
                (STAND, &[])
            }
            Self::Erase { register } => {
                out.blob(register);
                (ERASE, &[])
            }
            rare => (rare.encode_rare(out), &[]),
        }
    }

    /// The kinds that rot and scrubs bring.
    fn encode_rare(&self, out: &mut Writer) -> u8 {
        match self {
            Self::Rot(range) => {
                range.encode_met(out);
                ROT
            }
            Self::Fill { epoch, floor } => {
                out.varint(epoch.0);
                floor.encode(out);
                FILL
            }
            Self::Filled(ranges) => {
                encode_ranges(ranges, out);
                FILLED
            }
            Self::Healed(ranges) => {
                encode_ranges(ranges, out);
                HEALED
            }
            Self::Scrub(book) => {
                book.encode(out);
                SCRUB
            }
            Self::Recount { chores } => {
                out.u8(u8::from(*chores));
                RECOUNT
            }
            Self::Named { register } => {
                out.blob(register);
                NAMED
            }
            Self::Tally(counted) => {
                counted.encode(out);
                TALLY
            }
            Self::References { operation, count } => {
                out.id(operation.to_bytes());
                out.varint(*count);
                REFERENCES
            }
            _ => unreachable!("the other kinds are encoded where they are asked for"),
        }
    }

    /// Reads one record off the front of `input`, which is the rest of a batch that ends at `end` of
    /// its file. Also returns where its inline bytes end.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not a record.
    pub fn decode(input: &mut Reader<'_>, end: u64) -> Result<(Self, u64), CodecError> {
        let kind = input.u8()?;
        let body = input.blob()?;
        let inline_end = end - input.remaining() as u64;
        let mut body = Reader::new(body);
        let record = Self::decode_body(kind, &mut body)?;
        body.finish()?;
        Ok((record, inline_end))
    }

    fn decode_body(kind: u8, body: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match kind {
            ACCEPT => {
                let register = body.blob_bytes()?;
                let (held, note) = decode_held(body)?;
                Self::Accept { register, held, note, shard: NewShard::decode(body)? }
            }
            SETTLE => Self::Settle {
                register: body.blob_bytes()?,
                operation: OperationId::from_bytes(body.array()?),
                holders: HolderMask(u16::from_be_bytes(body.array()?)),
                set_size: body.u8()?,
                drop_below: body.u8()? != 0,
            },
            PURGE => Self::Purge { register: body.blob_bytes()?, ballot: Ballot::decode(body)? },
            BUCKET => Self::Bucket(BucketStamp::decode(body)?),
            CEILING => Self::Ceiling(Ballot::decode(body)?),
            OPEN => Self::Open { open_count: body.varint()?, at: body.varint()? },
            MOVE => Self::Move {
                operation: OperationId::from_bytes(body.array()?),
                old: Place::decode(body)?,
                new: NewShard::decode(body)?,
            },
            LOST => Self::Lost {
                register: body.blob_bytes()?,
                operation: OperationId::from_bytes(body.array()?),
                place: Place::decode(body)?,
            },
            MEMBER => {
                Self::Member { epoch: SetEpoch(body.varint()?), membership: body.blob_bytes()? }
            }
            STAND => Self::Stand {
                standing: Standing::try_from(body.u8()?)?,
                floor: Ballot::decode(body)?,
                purge_floor: Ballot::decode(body)?,
            },
            ERASE => Self::Erase { register: body.blob_bytes()? },
            ROT => Self::Rot(RotRange::decode_met(body)?),
            FILL => Self::Fill { epoch: SetEpoch(body.varint()?), floor: Ballot::decode(body)? },
            FILLED => Self::Filled(decode_ranges(body)?),
            HEALED => Self::Healed(decode_ranges(body)?),
            SCRUB => Self::Scrub(Box::new(Book::decode(body)?)),
            RECOUNT => Self::Recount { chores: body.u8()? != 0 },
            NAMED => Self::Named { register: body.blob_bytes()? },
            TALLY => Self::Tally(Counted::decode(body)?),
            REFERENCES => Self::References {
                operation: OperationId::from_bytes(body.array()?),
                count: body.varint()?,
            },
            _ => return Err(CodecError::Unknown("log record")),
        })
    }
}

fn encode_ranges(ranges: &[RotRange], out: &mut Writer) {
    out.varint(ranges.len() as u64);
    ranges.iter().for_each(|range| range.encode(out));
}

fn decode_ranges(input: &mut Reader<'_>) -> Result<Vec<RotRange>, CodecError> {
    let count = input.narrow::<usize>()?;
    if count > RANGES_MAX {
        return Err(CodecError::TooLong("ranges"));
    }
    (0..count).map(|_| RotRange::decode(input)).collect()
}

impl NewShard {
    fn encode_head<'a>(&'a self, out: &mut Writer) -> &'a [u8] {
        match self {
            Self::None => Place::None.encode(out),
            Self::Inline(bytes) => {
                out.u8(INLINE);
                out.varint(bytes.len() as u64);
                return bytes;
            }
            Self::At(place) => {
                debug_assert!(!matches!(place, Place::Inline { .. }), "inline bytes ride along");
                place.encode(out);
            }
        }
        &[]
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        let mut ahead = input.clone();
        if ahead.u8()? == INLINE {
            let bytes = ahead.blob_bytes()?;
            *input = ahead;
            return Ok(Self::Inline(bytes));
        }
        Ok(match Place::decode(input)? {
            Place::None => Self::None,
            place => Self::At(place),
        })
    }
}
