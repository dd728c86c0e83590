//! Expansion notation: `{a...b}` stands for the numbers from a to b.
//!
//! Bounds are decimal, or hexadecimal when one has a digit a to f; zero padding is kept. Of several
//! ranges the leftmost varies fastest: hosts stand left of paths, so consecutive drives lie on
//! different hosts.

use crate::error::PlacementError;

/// Drives of a cluster at most. Bounds what an argument may expand to; every drive's id and path are
/// in the layout document, which every node holds in memory.
pub const ENDPOINTS_MAX: usize = 16_384;

/// Numbers of one range, as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    first: u64,
    count: u64,
    width: usize,
    style: Style,
}

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Decimal,
    LowerHex,
    UpperHex,
}

impl Style {
    const fn radix(self) -> u32 {
        match self {
            Self::Decimal => 10,
            Self::LowerHex | Self::UpperHex => 16,
        }
    }
}

impl Range {
    /// Reads the inside of a pair of braces, `text`, of `argument`.
    fn parse(argument: &str, text: &str) -> Result<Self, PlacementError> {
        let range = || format!("{{{text}}}");
        let Some((low, high)) = text.split_once("...") else {
            return Err(PlacementError::Braces { argument: argument.to_owned() });
        };
        let bounds =
            || PlacementError::RangeBounds { argument: argument.to_owned(), range: range() };
        let style = style_of(low, high).ok_or_else(bounds)?;
        let number = |text| u64::from_str_radix(text, style.radix()).map_err(|_| bounds());
        let (first, last) = (number(low)?, number(high)?);
        let argument = || argument.to_owned();
        if first > last {
            return Err(PlacementError::RangeOrder { argument: argument(), range: range() });
        }
        let padded = |text: &str| text.len() > 1 && text.starts_with('0');
        if (padded(low) || padded(high)) && low.len() != high.len() {
            return Err(PlacementError::RangePadding { argument: argument(), range: range() });
        }
        let width = if padded(low) { low.len() } else { 0 };
        Ok(Self { first, count: (last - first).saturating_add(1), width, style })
    }

    /// The `i`-th number of the range.
    fn write(&self, i: u64) -> String {
        let (number, width) = (self.first + i, self.width);
        match self.style {
            Style::Decimal => format!("{number:0width$}"),
            Style::LowerHex => format!("{number:0width$x}"),
            Style::UpperHex => format!("{number:0width$X}"),
        }
    }
}

/// How both bounds are written; `None` when they are not numbers in one style.
fn style_of(low: &str, high: &str) -> Option<Style> {
    let digits = || low.bytes().chain(high.bytes());
    let numbers = !low.is_empty() && !high.is_empty() && digits().all(|b| b.is_ascii_hexdigit());
    if !numbers {
        return None;
    }
    let lower = digits().any(|byte| byte.is_ascii_lowercase());
    let upper = digits().any(|byte| byte.is_ascii_uppercase());
    match (lower, upper) {
        (false, false) => Some(Style::Decimal),
        (true, false) => Some(Style::LowerHex),
        (false, true) => Some(Style::UpperHex),
        (true, true) => None,
    }
}

/// Whether an argument uses the notation at all (or tries to).
#[must_use]
pub fn has_range(argument: &str) -> bool {
    argument.contains(['{', '}'])
}

/// What an argument stands for, the leftmost range varying fastest. An argument without ranges stands
/// for itself.
///
/// # Errors
/// [`PlacementError`] when the braces, a range, or the number of results is refused.
pub fn expand(argument: &str) -> Result<Vec<String>, PlacementError> {
    let (texts, ranges) = split(argument)?;
    let too_many = || PlacementError::TooMany { argument: argument.to_owned(), max: ENDPOINTS_MAX };
    let mut count = 1_u64;
    for range in &ranges {
        count = count.checked_mul(range.count).ok_or_else(too_many)?;
    }
    if count > ENDPOINTS_MAX as u64 {
        return Err(too_many());
    }
    let write = |mut number: u64| {
        let mut out = texts[0].to_owned();
        for (range, text) in ranges.iter().zip(&texts[1..]) {
            out.push_str(&range.write(number % range.count));
            out.push_str(text);
            number /= range.count;
        }
        out
    };
    Ok((0..count).map(write).collect())
}

/// Splits an argument into the texts around its ranges and the ranges between them.
fn split(argument: &str) -> Result<(Vec<&str>, Vec<Range>), PlacementError> {
    let braces = || PlacementError::Braces { argument: argument.to_owned() };
    let mut pieces = argument.split('{');
    let mut texts = vec![pieces.next().expect("split gives at least one piece")];
    let mut ranges = Vec::new();
    for piece in pieces {
        let (inside, text) = piece.split_once('}').ok_or_else(braces)?;
        ranges.push(Range::parse(argument, inside)?);
        texts.push(text);
    }
    if texts.iter().any(|text| text.contains('}')) {
        return Err(braces());
    }
    Ok((texts, ranges))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the notation of DESIGN section 8. Method: vectors of argument and expansion.
    #[test]
    fn ranges_expand_as_written() {
        let vectors: [(&str, &[&str]); 8] = [
            ("/mnt/a", &["/mnt/a"]),
            ("/d{1...3}", &["/d1", "/d2", "/d3"]),
            ("/d{08...11}", &["/d08", "/d09", "/d10", "/d11"]),
            ("/d{9...11}", &["/d9", "/d10", "/d11"]),
            ("/d{e...11}", &["/de", "/df", "/d10", "/d11"]),
            ("/d{0E...10}x", &["/d0Ex", "/d0Fx", "/d10x"]),
            ("h{1...2}/d{1...2}", &["h1/d1", "h2/d1", "h1/d2", "h2/d2"]),
            ("r{1...2}n{3...4}/d", &["r1n3/d", "r2n3/d", "r1n4/d", "r2n4/d"]),
        ];
        for (argument, expected) in vectors {
            assert_eq!(expand(argument).expect(argument), expected, "{argument}");
        }
    }

    /// Goal: every malformed argument is refused for its own reason. Method: one vector a reason and
    /// the edges of each; the variant's name is compared.
    #[test]
    fn malformed_ranges_are_refused() {
        let vectors = [
            ("/d{1..3}", "Braces"),
            ("/d{1,2}", "Braces"),
            ("/d{1...3", "Braces"),
            ("/d1...3}", "Braces"),
            ("/d{1...{2...3}}", "Braces"),
            ("/d{}", "Braces"),
            ("/d{...}", "RangeBounds"),
            ("/d{1...}", "RangeBounds"),
            ("/d{1....3}", "RangeBounds"),
            ("/d{1...g}", "RangeBounds"),
            ("/d{+1...3}", "RangeBounds"),
            ("/d{-1...3}", "RangeBounds"),
            ("/d{a...F}", "RangeBounds"),
            ("/d{1...99999999999999999999}", "RangeBounds"),
            ("/d{3...1}", "RangeOrder"),
            ("/d{01...100}", "RangePadding"),
            ("/d{1...08}", "RangePadding"),
            ("/d{1...16385}", "TooMany"),
            ("/d{1...200}{1...200}", "TooMany"),
            ("/d{0...18446744073709551615}{1...2}", "TooMany"),
        ];
        for (argument, variant) in vectors {
            let error = expand(argument).expect_err(argument);
            let name = format!("{error:?}");
            assert!(name.starts_with(variant), "{argument}: {name}");
            assert!(error.to_string().contains(argument), "{error}");
        }
    }
}
