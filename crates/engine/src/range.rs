//! Which bytes of an object a request wants. Pure.

use std::ops::Range;

use crate::{api::Wanted, error::StoreError, meta::ObjectMeta};

/// The bytes wanted of an object.
///
/// # Errors
/// [`StoreError::InvalidRange`] when none of them is in the object (RFC 9110 section 14.1.2: a suffix
/// of 0, or a first byte behind the end), [`StoreError::InvalidPart`] when the object has no such part
/// (S3: an object that was not made of parts has one, number 1).
pub fn resolve_range(wanted: Wanted, meta: &ObjectMeta) -> Result<Range<u64>, StoreError> {
    let size = meta.size;
    let invalid = StoreError::InvalidRange { size };
    match wanted {
        Wanted::Whole => Ok(0..size),
        Wanted::Range { first, last } => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            if first < end { Ok(first..end) } else { Err(invalid) }
        }
        Wanted::Suffix(count) => {
            let start = size.saturating_sub(count);
            if start < size { Ok(start..size) } else { Err(invalid) }
        }
        Wanted::Part(1) if meta.parts.is_empty() => Ok(0..size),
        Wanted::Part(number) => {
            let mut start = 0;
            for part in &meta.parts {
                let end = start + part.size;
                if part.number == u32::from(number) {
                    return Ok(start..end);
                }
                start = end;
            }
            Err(StoreError::InvalidPart { number })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::PartMeta;

    /// Goal: ranges as RFC 9110 and S3 have them. Method: the table.
    #[test]
    fn the_table_of_ranges() {
        let meta = ObjectMeta { size: 10, ..ObjectMeta::default() };
        let empty = ObjectMeta::default();
        let range = |first, last| Wanted::Range { first, last };
        let beyond = Err(StoreError::InvalidRange { size: 10 });
        let rows = [
            (Wanted::Whole, Ok(0..10)),
            (range(0, Some(0)), Ok(0..1)),
            (range(3, None), Ok(3..10)),
            (range(3, Some(100)), Ok(3..10)),
            (range(9, Some(u64::MAX)), Ok(9..10)),
            (range(10, None), beyond.clone()),
            (range(5, Some(4)), beyond.clone()),
            (Wanted::Suffix(3), Ok(7..10)),
            (Wanted::Suffix(30), Ok(0..10)),
            (Wanted::Suffix(0), beyond),
            (Wanted::Part(1), Ok(0..10)),
            (Wanted::Part(2), Err(StoreError::InvalidPart { number: 2 })),
        ];
        for (wanted, expected) in rows {
            assert_eq!(resolve_range(wanted, &meta), expected, "{wanted:?}");
        }
        assert_eq!(resolve_range(Wanted::Whole, &empty), Ok(0..0));
        assert!(resolve_range(Wanted::Suffix(1), &empty).is_err());
        let part = |number, size| PartMeta { number, size, ..PartMeta::default() };
        let parts = ObjectMeta { size: 10, parts: vec![part(2, 4), part(7, 6)], ..empty };
        assert_eq!(resolve_range(Wanted::Part(7), &parts), Ok(4..10));
        assert!(resolve_range(Wanted::Part(1), &parts).is_err());
    }
}
