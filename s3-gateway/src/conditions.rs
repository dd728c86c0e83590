//! Conditions of requests, from the headers as they were sent.
//!
//! Entity tags come alone or in lists (RFC 9110, 13.1.1 and 13.1.2), in quotes or, as S3 takes them, bare.
//! Dates come in three forms (5.6.7); what is none is no condition (13.1.3, 13.1.4).

use std::time::UNIX_EPOCH;

use holdfast_engine::{
    api::{Conditions, EtagCondition},
    meta::ObjectMeta,
};
use http::HeaderValue;
use s3s::S3Result;

use crate::{error::invalid, told::Told};

const MICROS: u64 = 1_000_000;

/// Of a read.
pub(crate) fn of_read(told: &Told<'_>) -> S3Result<Conditions> {
    four(told, ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"])
}

/// Of a copy's source.
pub(crate) fn of_source(told: &Told<'_>) -> S3Result<Conditions> {
    four(
        told,
        [
            "x-amz-copy-source-if-match",
            "x-amz-copy-source-if-none-match",
            "x-amz-copy-source-if-modified-since",
            "x-amz-copy-source-if-unmodified-since",
        ],
    )
}

fn four(told: &Told<'_>, names: [&str; 4]) -> S3Result<Conditions> {
    let [matches, none_match, modified, unmodified] = names;
    Ok(Conditions {
        if_match: tags(told, matches)?,
        if_none_match: tags(told, none_match)?,
        if_modified_since: date(told, modified),
        if_unmodified_since: date(told, unmodified),
    })
}

/// Of a write, on what it replaces.
pub(crate) fn of_write(told: &Told<'_>) -> S3Result<Conditions> {
    Ok(Conditions {
        if_match: tags(told, "if-match")?,
        if_none_match: tags(told, "if-none-match")?,
        ..Conditions::default()
    })
}

/// What `If-Range` names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Validator {
    Tag(String),
    /// Seconds since the epoch, for HTTP has no others.
    Date(u64),
}

impl Validator {
    /// Whether it names this object. A tag marked as weak names none, a date one to the second.
    pub(crate) fn holds(&self, meta: &ObjectMeta) -> bool {
        match self {
            Self::Tag(tag) => *tag == meta.etag,
            Self::Date(seconds) => *seconds == meta.modified_micros / MICROS,
        }
    }
}

/// Of a range: `None` when the range holds anyhow.
pub(crate) fn if_range(told: &Told<'_>) -> Option<Validator> {
    let value = told.get("if-range").filter(|value| !value.is_empty())?;
    Some(match parsed_date(value) {
        Some(micros) => Validator::Date(micros / MICROS),
        None => {
            Validator::Tag(value.to_str().unwrap_or_default().trim().trim_matches('"').to_owned())
        }
    })
}

fn tags(told: &Told<'_>, name: &str) -> S3Result<Option<EtagCondition>> {
    let Some(value) = told.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let condition = value.to_str().ok().and_then(parsed_tags);
    condition.map(Some).ok_or_else(|| {
        let message = format!("header {name} is neither *, nor entity tags");
        invalid("InvalidArgument", message)
    })
}

fn parsed_tags(text: &str) -> Option<EtagCondition> {
    if text.trim() == "*" {
        return Some(EtagCondition::Any);
    }
    let (mut rest, mut tags) = (text, Vec::new());
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return (!tags.is_empty()).then_some(EtagCondition::Tags(tags));
        }
        // S3's tags are strong; proxies that compress on the way mark them as weak.
        let tag = rest.strip_prefix("W/").unwrap_or(rest);
        let (tag, behind) = match tag.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => tag.split_at(tag.find(',').unwrap_or(tag.len())),
        };
        let behind = behind.trim_start_matches([' ', '\t']);
        if tag.trim() == "*" || !(behind.is_empty() || behind.starts_with(',')) {
            return None;
        }
        tags.push(tag.trim().to_owned());
        rest = behind;
    }
}

/// Microseconds since the epoch.
fn date(told: &Told<'_>, name: &str) -> Option<u64> {
    told.get(name).and_then(parsed_date)
}

fn parsed_date(value: &HeaderValue) -> Option<u64> {
    let time = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    let micros = time.duration_since(UNIX_EPOCH).ok()?.as_micros();
    u64::try_from(micros).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one tag or many, as they are written. Method: a table; `None` is refused.
    #[test]
    fn tags_alone_and_in_lists() {
        let rows: [(&str, Option<&[&str]>); 10] = [
            ("\"a\"", Some(&["a"])),
            ("a-2", Some(&["a-2"])),
            ("W/\"a\"", Some(&["a"])),
            ("\"a\", \"b\",W/\"c\"", Some(&["a", "b", "c"])),
            ("\"a,b\"", Some(&["a,b"])),
            ("a , b", Some(&["a", "b"])),
            (",\"a\",", Some(&["a"])),
            ("\"a\" \"b\"", None),
            ("\"a\", *", None),
            ("\"a", None),
        ];
        for (text, expected) in rows {
            let expected = expected.map(|tags| {
                EtagCondition::Tags(tags.iter().map(|tag| (*tag).to_owned()).collect())
            });
            assert_eq!(parsed_tags(text), expected, "{text}");
        }
        assert_eq!(parsed_tags(" * "), Some(EtagCondition::Any));
    }

    /// Goal: three forms are one date, all else is none. Method: the example of RFC 9110.
    #[test]
    fn dates_in_three_forms() {
        let of = |text| parsed_date(&HeaderValue::from_static(text));
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(of(text), Some(784_111_777_000_000), "{text}");
        }
        assert_eq!(of("soon"), None);
    }
}
