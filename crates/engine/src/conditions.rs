//! Conditions of requests, evaluated. Pure.
//!
//! S3 API, "Conditional requests"; RFC 9110 section 13.2.2 for the order. Dates count in whole
//! seconds, which is all that HTTP can say.

use crate::{api::Conditions, error::StoreError, meta::ObjectMeta};

const SECOND_MICROS: u64 = 1_000_000;

/// Whether a write may replace `current` (`None`: there is no object).
///
/// # Errors
/// [`StoreError::NoSuchKey`] when `If-Match` meets no object, [`StoreError::PreconditionFailed`].
pub fn check_write(
    conditions: &Conditions,
    current: Option<&ObjectMeta>,
) -> Result<(), StoreError> {
    let etag = current.map(|meta| meta.etag.as_str());
    if let Some(wanted) = &conditions.if_match {
        if current.is_none() {
            return Err(StoreError::NoSuchKey { delete_marker: false });
        }
        if !wanted.matches(etag) {
            return Err(failed("If-Match"));
        }
    }
    match &conditions.if_none_match {
        Some(unwanted) if unwanted.matches(etag) => Err(failed("If-None-Match")),
        _ => Ok(()),
    }
}

/// Whether a read may answer `meta`.
///
/// # Errors
/// [`StoreError::PreconditionFailed`], [`StoreError::NotModified`].
pub fn check_read(conditions: &Conditions, meta: &ObjectMeta) -> Result<(), StoreError> {
    let etag = Some(meta.etag.as_str());
    let modified = meta.modified_micros / SECOND_MICROS;
    let since = |micros: u64| micros / SECOND_MICROS;
    match (&conditions.if_match, conditions.if_unmodified_since) {
        (Some(wanted), _) if !wanted.matches(etag) => return Err(failed("If-Match")),
        (None, Some(date)) if modified > since(date) => return Err(failed("If-Unmodified-Since")),
        _ => {}
    }
    let unchanged = match (&conditions.if_none_match, conditions.if_modified_since) {
        (Some(unwanted), _) => unwanted.matches(etag),
        (None, Some(date)) => modified <= since(date),
        (None, None) => false,
    };
    if unchanged {
        let (etag, modified_micros) = (meta.etag.clone(), meta.modified_micros);
        return Err(StoreError::NotModified { etag, modified_micros });
    }
    Ok(())
}

/// As [`check_read`] for the source of a copy, where S3 knows no "not modified".
///
/// # Errors
/// [`StoreError::PreconditionFailed`].
pub fn check_copy_source(conditions: &Conditions, meta: &ObjectMeta) -> Result<(), StoreError> {
    check_read(conditions, meta).map_err(as_copy_source)
}

/// What a failed condition of a read means for a copy that read.
#[must_use]
pub fn as_copy_source(error: StoreError) -> StoreError {
    match error {
        StoreError::NotModified { .. } => failed("x-amz-copy-source-if-none-match"),
        error => error,
    }
}

const fn failed(condition: &'static str) -> StoreError {
    StoreError::PreconditionFailed { condition }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EtagCondition;

    fn tags(tags: &[&str]) -> Option<EtagCondition> {
        Some(EtagCondition::Tags(tags.iter().map(|tag| (*tag).to_owned()).collect()))
    }

    fn object() -> ObjectMeta {
        let modified_micros = 100 * SECOND_MICROS + 5;
        ObjectMeta { etag: "e".to_owned(), modified_micros, ..ObjectMeta::default() }
    }

    /// Goal: conditions of writes answer as S3 does (ceph/s3-tests `test_put_object_if_match`).
    /// Method: the table.
    #[test]
    fn the_table_of_conditional_writes() {
        let object = object();
        let gone = Err(StoreError::NoSuchKey { delete_marker: false });
        let rows = [
            (Some(EtagCondition::Any), None, Ok(()), gone.clone()),
            (tags(&["e", "f"]), None, Ok(()), gone.clone()),
            (tags(&["f"]), None, Err(failed("If-Match")), gone),
            (None, Some(EtagCondition::Any), Err(failed("If-None-Match")), Ok(())),
            (None, tags(&["e"]), Err(failed("If-None-Match")), Ok(())),
            (None, tags(&["f"]), Ok(()), Ok(())),
        ];
        for (if_match, if_none_match, there, absent) in rows {
            let conditions = Conditions { if_match, if_none_match, ..Conditions::default() };
            assert_eq!(check_write(&conditions, Some(&object)), there, "{conditions:?}");
            assert_eq!(check_write(&conditions, None), absent, "{conditions:?}");
        }
    }

    /// Goal: reads answer in the order of RFC 9110: a tag beats a date. Method: the table.
    #[test]
    fn the_table_of_conditional_reads() {
        let object = object();
        let at = |seconds: u64| Some(seconds * SECOND_MICROS);
        let not_modified = Err(StoreError::NotModified {
            etag: "e".to_owned(),
            modified_micros: object.modified_micros,
        });
        let rows = [
            (Conditions { if_match: tags(&["f"]), ..Default::default() }, Err(failed("If-Match"))),
            (
                Conditions {
                    if_match: tags(&["e"]),
                    if_unmodified_since: at(1),
                    ..Default::default()
                },
                Ok(()),
            ),
            (
                Conditions { if_unmodified_since: at(99), ..Default::default() },
                Err(failed("If-Unmodified-Since")),
            ),
            (Conditions { if_unmodified_since: at(100), ..Default::default() }, Ok(())),
            (
                Conditions { if_none_match: tags(&["e"]), ..Default::default() },
                not_modified.clone(),
            ),
            (
                Conditions {
                    if_none_match: tags(&["f"]),
                    if_modified_since: at(200),
                    ..Default::default()
                },
                Ok(()),
            ),
            (Conditions { if_modified_since: at(100), ..Default::default() }, not_modified),
            (Conditions { if_modified_since: at(99), ..Default::default() }, Ok(())),
        ];
        for (conditions, expected) in rows {
            assert_eq!(check_read(&conditions, &object), expected, "{conditions:?}");
            let copy = check_copy_source(&conditions, &object);
            assert_eq!(copy.is_ok(), expected.is_ok());
            assert!(!matches!(copy, Err(StoreError::NotModified { .. })));
        }
    }
}
