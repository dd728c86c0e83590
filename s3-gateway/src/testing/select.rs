//! Conditions, ranges and roll-up, on plain values.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use holdfast_engine::{
    StoreError,
    api::{Conditions, Wanted},
    meta::ObjectMeta,
};

use super::Chunks;

const SECOND: u64 = 1_000_000;

/// Whether a read of an object may go on. RFC 9110, section 13.2.2: a condition on tags beats the one
/// on time beside it.
pub(super) fn check_read(conditions: &Conditions, meta: &ObjectMeta) -> Result<(), StoreError> {
    let failed = |condition| Err(StoreError::PreconditionFailed { condition });
    // HTTP dates have whole seconds.
    let modified = meta.modified_micros / SECOND * SECOND;
    match (&conditions.if_match, conditions.if_unmodified_since) {
        (Some(tags), _) if !tags.matches(Some(&meta.etag)) => return failed("If-Match"),
        (None, Some(since)) if modified > since => return failed("If-Unmodified-Since"),
        _ => {}
    }
    let unchanged = match (&conditions.if_none_match, conditions.if_modified_since) {
        (Some(tags), _) => tags.matches(Some(&meta.etag)),
        (None, Some(since)) => modified <= since,
        (None, None) => false,
    };
    if !unchanged {
        return Ok(());
    }
    Err(StoreError::NotModified { etag: meta.etag.clone(), modified_micros: meta.modified_micros })
}

/// Whether a write over `current` may go on.
pub(super) fn check_write(
    conditions: &Conditions,
    current: Option<&ObjectMeta>,
) -> Result<(), StoreError> {
    let etag = current.map(|meta| meta.etag.as_str());
    if let Some(tags) = &conditions.if_match
        && !tags.matches(etag)
    {
        return Err(match current {
            None => StoreError::NoSuchKey { delete_marker: false },
            Some(_) => StoreError::PreconditionFailed { condition: "If-Match" },
        });
    }
    match &conditions.if_none_match {
        Some(tags) if tags.matches(etag) => {
            Err(StoreError::PreconditionFailed { condition: "If-None-Match" })
        }
        _ => Ok(()),
    }
}

/// The bytes that `wanted` means.
pub(super) fn range(wanted: Wanted, meta: &ObjectMeta) -> Result<Range<u64>, StoreError> {
    let size = meta.size;
    let outside = StoreError::InvalidRange { size };
    match wanted {
        Wanted::Whole => Ok(0..size),
        Wanted::Range { first, .. } if first >= size => Err(outside),
        Wanted::Range { first, last } => {
            Ok(first..last.map_or(size, |last| last.saturating_add(1).min(size)))
        }
        Wanted::Suffix(0) => Err(outside),
        Wanted::Suffix(_) if size == 0 => Err(outside),
        Wanted::Suffix(count) => Ok(size.saturating_sub(count)..size),
        Wanted::Part(1) if meta.parts.is_empty() => Ok(0..size),
        Wanted::Part(number) => {
            let mut start = 0;
            for part in &meta.parts {
                if part.number == u32::from(number) {
                    return Ok(start..start + part.size);
                }
                start += part.size;
            }
            Err(StoreError::InvalidPart { number })
        }
    }
}

/// The chunks of a range, sharing the bytes.
pub(super) fn cut(chunks: &Chunks, range: &Range<u64>) -> Chunks {
    let mut at = 0_u64;
    let mut found = Chunks::new();
    for chunk in chunks {
        let end = at + chunk.len() as u64;
        let (from, to) = (range.start.max(at), range.end.min(end));
        if from < to {
            found.push(chunk.slice((from - at) as usize..(to - at) as usize));
        }
        at = end;
    }
    found
}

/// A page of names: emitted keys and prefixes, and the last one emitted when more follow.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    pub(super) prefixes: Vec<Bytes>,
    pub(super) next: Option<Bytes>,
}

/// Rolls up what lies behind `after`.
pub(super) fn page<K, V, T>(
    map: &BTreeMap<K, V>,
    (prefix, delimiter, limit): (&Bytes, &Bytes, usize),
    key_of: impl Fn(&K) -> &Bytes,
    is_behind: impl Fn(&K) -> bool,
    after: &Bytes,
    item: impl Fn(&K, &V) -> T,
) -> Page<T> {
    let mut page = Page { items: Vec::new(), prefixes: Vec::<Bytes>::new(), next: None };
    let mut last = Bytes::new();
    for (name, value) in map {
        let key = key_of(name);
        let Some(rest) = key.strip_prefix(prefix.as_ref()) else { continue };
        let rolled = rolled_up(rest, delimiter).map(|end| key.slice(..prefix.len() + end));
        let hidden = match &rolled {
            Some(rolled) => rolled <= after || page.prefixes.last() == Some(rolled),
            None => !is_behind(name),
        };
        if hidden || limit == 0 {
            continue;
        }
        if page.items.len() + page.prefixes.len() == limit {
            page.next = Some(last);
            break;
        }
        last = rolled.clone().unwrap_or_else(|| key.clone());
        match rolled {
            Some(rolled) => page.prefixes.push(rolled),
            None => page.items.push(item(name, value)),
        }
    }
    page
}

fn rolled_up(rest: &[u8], delimiter: &[u8]) -> Option<usize> {
    if delimiter.is_empty() {
        return None;
    }
    let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
    Some(at + delimiter.len())
}
