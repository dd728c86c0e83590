//! How drives come and go, as messages and back.

use bytes::Bytes;
use holdfast_proto::{WireError, v1, value};
use holdfast_types::{
    BucketStamp, RegisterKey, SetEpoch, SetIndex, ShardIndex, VersionId,
    codec::{CodecError, Reader, Writer},
};

use super::{
    read_scope,
    reply::read_status,
    request::{operation, read_source, source},
    scope,
};
use crate::{
    api::{
        Begin, Filled, Gap, IndexEntry, IndexLine, IndexPage, Issue, Issued, ListIndex,
        MemberReply, MemberRequest, Restock, RotRange, Standing,
    },
    rot::RANGES_MAX,
};

/// Buckets of a table at most: far above what a cluster has.
const BUCKETS_MAX: usize = 1 << 20;

pub(super) fn request(asked: &MemberRequest) -> v1::MemberRequest {
    use v1::member_request::Request as Kind;
    let kind = match asked {
        MemberRequest::Issue(issued) => Kind::Issue(issue(issued)),
        MemberRequest::Membership => Kind::Membership(true),
        MemberRequest::Begin(begin) => Kind::Begin(v1::Begin {
            issue: Some(issue(&begin.issue)),
            collected: Some(told(&begin.collected)),
        }),
        MemberRequest::Rebuilt(epoch) => Kind::Rebuilt(epoch.0),
        MemberRequest::Ranges => Kind::Ranges(true),
        MemberRequest::Fill(issued) => Kind::Fill(issue(issued)),
        MemberRequest::Filled(filled) => {
            let ranges = filled.ranges.iter().map(range).collect();
            Kind::Filled(v1::Filled { epoch: filled.epoch.0, ranges })
        }
        MemberRequest::ListIndex(list) => Kind::ListIndex(v1::ListIndex {
            scope: Some(scope(&list.scope)),
            start: list.start.clone(),
            end: list.end.clone(),
            limit: list.limit,
        }),
        MemberRequest::Restock(restock) => Kind::Restock(v1::Restock {
            scope: Some(scope(&restock.scope)),
            register: restock.key.encode_register(restock.version).into(),
            operation: value::id(restock.operation.to_bytes()),
            geometry: value::geometry(&restock.geometry),
            shard: restock.shard.0.into(),
            source: Some(source(&restock.source)),
        }),
    };
    v1::MemberRequest { request: Some(kind) }
}

pub(super) fn read_request(message: v1::MemberRequest) -> Result<MemberRequest, WireError> {
    use v1::member_request::Request as Kind;
    Ok(match message.request.ok_or(WireError::Missing("member request"))? {
        Kind::Issue(issued) => MemberRequest::Issue(read_issue(issued)?),
        Kind::Membership(_) => MemberRequest::Membership,
        Kind::Begin(begin) => MemberRequest::Begin(Begin {
            issue: read_issue(begin.issue.ok_or(WireError::Missing("issue"))?)?,
            collected: read_told(&begin.collected.ok_or(WireError::Missing("collected"))?)?,
        }),
        Kind::Rebuilt(epoch) => MemberRequest::Rebuilt(SetEpoch(epoch)),
        Kind::Ranges(_) => MemberRequest::Ranges,
        Kind::Fill(issued) => MemberRequest::Fill(read_issue(issued)?),
        Kind::Filled(filled) => {
            let (epoch, ranges) = (SetEpoch(filled.epoch), read_ranges(&filled.ranges)?);
            MemberRequest::Filled(Filled { epoch, ranges })
        }
        Kind::ListIndex(list) => MemberRequest::ListIndex(ListIndex {
            scope: read_scope(list.scope.as_ref())?,
            start: list.start,
            end: list.end,
            limit: list.limit,
        }),
        Kind::Restock(restock) => {
            let (key, version) = read_register(&restock.register)?;
            MemberRequest::Restock(Restock {
                scope: read_scope(restock.scope.as_ref())?,
                key,
                version,
                operation: operation(&restock.operation)?,
                geometry: value::read_geometry(&restock.geometry)?,
                shard: ShardIndex(value::narrow(restock.shard, "shard")?),
                source: read_source(restock.source)?,
            })
        }
    })
}

fn issue(issue: &Issue) -> v1::Issue {
    let (set, epoch) = (issue.set.0.into(), issue.epoch.0);
    v1::Issue { set, epoch, membership: issue.membership.clone() }
}

fn read_issue(message: v1::Issue) -> Result<Issue, WireError> {
    let set = SetIndex(value::narrow(message.set, "set")?);
    Ok(Issue { set, epoch: SetEpoch(message.epoch), membership: message.membership })
}

fn told(issued: &Issued) -> v1::Issued {
    v1::Issued {
        floor: value::ballot(&issued.floor),
        purge_floor: value::ballot(&issued.purge_floor),
        buckets: issued.buckets.iter().map(value::stamp).collect(),
    }
}

fn read_told(message: &v1::Issued) -> Result<Issued, WireError> {
    if message.buckets.len() > BUCKETS_MAX {
        return Err(WireError::TooLong("bucket table"));
    }
    let stamps = message.buckets.iter().map(|stamp| value::read_stamp(stamp));
    Ok(Issued {
        floor: value::read_ballot(&message.floor)?,
        purge_floor: value::read_ballot(&message.purge_floor)?,
        buckets: stamps.collect::<Result<Vec<BucketStamp>, _>>()?,
    })
}

fn read_register(bytes: &[u8]) -> Result<(RegisterKey, VersionId), WireError> {
    let wrong = |source: CodecError| WireError::Record { field: "register", source };
    RegisterKey::decode_register(bytes).map_err(wrong)
}

pub(super) fn reply(told_by: &MemberReply) -> v1::MemberReply {
    use v1::member_reply::Reply as Kind;
    let kind = match told_by {
        MemberReply::Issued(issued) => Kind::Issued(told(issued)),
        MemberReply::Membership { epoch, document, standing, unfilled } => {
            let (epoch, document, standing) = (epoch.0, document.clone(), *standing as u32);
            Kind::Membership(v1::Membership { epoch, document, standing, unfilled: *unfilled })
        }
        MemberReply::Ranges(ranges) => {
            Kind::Ranges(v1::Ranges { ranges: ranges.iter().map(range).collect() })
        }
        MemberReply::Index(page) => Kind::Index(v1::IndexPage {
            lines: page.lines.iter().map(line).collect(),
            gaps: page.gaps.iter().map(gap).collect(),
            next: page.next.clone(),
        }),
    };
    v1::MemberReply { reply: Some(kind) }
}

pub(super) fn read_reply(message: v1::MemberReply) -> Result<MemberReply, WireError> {
    use v1::member_reply::Reply as Kind;
    Ok(match message.reply.ok_or(WireError::Missing("member reply"))? {
        Kind::Issued(issued) => MemberReply::Issued(read_told(&issued)?),
        Kind::Membership(known) => {
            let standing = value::narrow::<u8>(known.standing, "standing")?;
            let standing = Standing::try_from(standing)
                .map_err(|source| WireError::Record { field: "standing", source })?;
            let (epoch, unfilled) = (SetEpoch(known.epoch), known.unfilled);
            MemberReply::Membership { epoch, document: known.document, standing, unfilled }
        }
        Kind::Ranges(known) => MemberReply::Ranges(read_ranges(&known.ranges)?),
        Kind::Index(page) => MemberReply::Index(IndexPage {
            lines: page.lines.iter().map(read_line).collect::<Result<_, _>>()?,
            gaps: page.gaps.into_iter().map(read_gap).collect(),
            next: page.next,
        }),
    })
}

fn range(range: &RotRange) -> Bytes {
    let mut out = Writer::new();
    range.encode(&mut out);
    out.into_bytes().into()
}

fn read_ranges(messages: &[Bytes]) -> Result<Vec<RotRange>, WireError> {
    if messages.len() > RANGES_MAX {
        return Err(WireError::TooLong("ranges"));
    }
    let read = |message: &Bytes| {
        let mut input = Reader::new(message);
        let range = RotRange::decode(&mut input).and_then(|range| {
            input.finish()?;
            Ok(range)
        });
        range.map_err(|source| WireError::Record { field: "range", source })
    };
    messages.iter().map(read).collect()
}

pub(super) fn gap(gap: &Gap) -> v1::Gap {
    v1::Gap { first: gap.first.clone(), end: gap.end.clone() }
}

pub(super) fn read_gap(message: v1::Gap) -> Gap {
    Gap { first: message.first, end: message.end }
}

fn line(line: &IndexLine) -> v1::IndexLine {
    let entry = |entry: &IndexEntry| v1::IndexEntry {
        operation: value::id(entry.operation.to_bytes()),
        ballot: value::ballot(&entry.ballot),
        data_shards: entry.data_shards.into(),
        settled: entry.settled,
        shard: entry.shard as u32,
        parts_missing: entry.parts_missing,
    };
    v1::IndexLine {
        register: line.key.encode_register(line.version).into(),
        entries: line.entries.iter().map(entry).collect(),
    }
}

fn read_line(message: &v1::IndexLine) -> Result<IndexLine, WireError> {
    let (key, version) = read_register(&message.register)?;
    let entry = |entry: &v1::IndexEntry| {
        Ok(IndexEntry {
            operation: operation(&entry.operation)?,
            ballot: value::read_ballot(&entry.ballot)?,
            data_shards: value::narrow(entry.data_shards, "data shards")?,
            settled: entry.settled,
            shard: read_status(entry.shard)?,
            parts_missing: entry.parts_missing,
        })
    };
    let entries = message.entries.iter().map(entry).collect::<Result<_, WireError>>()?;
    Ok(IndexLine { key, version, entries })
}
