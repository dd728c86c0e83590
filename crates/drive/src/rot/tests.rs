use holdfast_types::{HybridTime, WriterId};

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn range(start: &str, end: &str) -> RotRange {
    RotRange {
        start: bytes(start),
        end: bytes(end),
        upto: Lsn(7),
        highest: Ballot::ZERO,
        epoch: SetEpoch(3),
        standing: RotStanding::Hidden,
    }
}

fn ballot(time: u64) -> Ballot {
    Ballot { generation: 1, time: HybridTime(time), writer: WriterId(1) }
}

/// The borders and standings of all ranges, in order.
fn told(ranges: &RotRanges) -> Vec<(String, String, RotStanding)> {
    let text = |bytes: &Bytes| bytes.escape_ascii().to_string();
    ranges.all().iter().map(|r| (text(&r.start), text(&r.end), r.standing)).collect()
}

/// Goal: a range hides its keys and no others, walks meet it, none meets another, and there is an end to
/// their number. Method: tables over ranges that overlap.
#[test]
fn ranges_hold_their_keys_and_no_others() {
    let mut ranges = RotRanges::default();
    for (start, end) in [("m", "p"), ("b", "d"), ("c", "f"), ("n", "o")] {
        ranges.add(range(start, end));
        assert!(ranges.knows(&range(start, end)));
    }
    assert_eq!(ranges.all().len(), 3, "the last lies in the first");
    assert!(ranges.knows(&range("b", "f")) && !ranges.knows(&range("b", "g")));
    for (key, held) in [("a", false), ("b", true), ("d", true), ("f", false), ("p", false)] {
        assert_eq!(ranges.of(key.as_bytes()).is_some(), held, "{key}");
    }
    let met = |start: &str, end: Option<&str>| {
        let range = ranges.first_in(start.as_bytes(), end.map(str::as_bytes));
        range.map(|range| range.start.clone())
    };
    assert_eq!(met("a", Some("b")), None);
    assert_eq!(met("a", Some("bb")), Some("b".into()));
    assert_eq!(met("d", None), Some("d".into()));
    assert_eq!(met("f", None), Some("m".into()));
    assert_eq!(met("p", None), None);
    let last = range("x", "");
    assert!(!ranges.knows(&last));
    ranges.add(last);
    assert!(ranges.of(b"zzz").is_some() && ranges.knows(&range("y", "")));
    let mut many = RotRanges::default();
    for n in 0.. {
        if !many.has_room() {
            break;
        }
        many.add(range(&format!("{n:04}"), &format!("{n:04}1")));
    }
    assert!(many.all().len() > RANGES_MAX / 2 && many.all().len() <= RANGES_MAX);
}

/// Goal: what lies in a known range and was higher, later, or of a newer epoch, raises it, so that no floor is
/// too low and no epoch too old (INV-FILL-1). Method: each of the three.
#[test]
fn a_second_block_raises_what_is_known() {
    let mut ranges = RotRanges::default();
    ranges.add(range("b", "d"));
    for raised in [
        RotRange { highest: ballot(9), ..range("b", "c") },
        RotRange { upto: Lsn(8), ..range("b", "c") },
    ] {
        assert!(!ranges.knows(&raised), "{raised:?}");
        ranges.add(raised.clone());
        assert!(ranges.knows(&raised));
    }
    ranges.add(RotRange { epoch: SetEpoch(5), highest: ballot(10), ..range("c", "d") });
    let expected =
        RotRange { highest: ballot(10), upto: Lsn(8), epoch: SetEpoch(5), ..range("b", "d") };
    assert_eq!(ranges.all(), [expected]);
}

/// Goal: registers, places and chores are ranges of their own. Method: one range over all of them.
#[test]
fn ranges_are_cut_where_kinds_meet() {
    let mut ranges = RotRanges::default();
    let all = RotRange { start: Bytes::from_static(&[1, 5]), ..range("", "") };
    ranges.add(all.clone());
    let starts: Vec<&[u8]> = ranges.all().iter().map(|range| &range.start[..]).collect();
    assert_eq!(starts, [&[1, 5][..], &[PLACE_SPACE], &[REPAIR_SPACE]]);
    assert!(ranges.knows(&all) && ranges.first_in(&[PLACE_SPACE, 7], None).is_some());
    let registers = ranges.all().iter().filter(|range| range.is_of_registers()).count();
    assert_eq!((registers, ranges.to_open(SetEpoch(4)).count()), (1, 1));
}

/// Goal: INV-FILL-1: the states of a range. Only what was recorded under an older epoch opens; from then on what
/// is older is void, rot in it is none, rot in what was written since hides its keys again, and nothing else;
/// only what still stands as it was named is filled. Method: one range through all of them.
#[test]
fn a_range_opens_is_filled_and_goes() {
    let mut ranges = RotRanges::default();
    ranges.add(range("b", "k"));
    assert!(ranges.open(SetEpoch(3), Lsn(20)).is_empty(), "of the same epoch");
    assert!(!ranges.voids(b"c", Lsn(1)));
    let opened = ranges.open(SetEpoch(4), Lsn(20));
    assert_eq!(opened, ranges.all());
    assert!(ranges.of(b"c").is_none() && ranges.first_unfilled_in(b"c", None).is_some());
    assert!(ranges.voids(b"c", Lsn(19)) && !ranges.voids(b"c", Lsn(20)));
    assert!(!ranges.voids(b"k", Lsn(1)) && !ranges.voids_all(b"b", Some(b"kk"), Lsn(1)));
    assert!(ranges.voids_all(b"b", Some(b"k"), Lsn(19)));
    // Rot in what is void.
    ranges.add(RotRange { upto: Lsn(19), ..range("a", "c") });
    let standing = RotStanding::Open(Lsn(20));
    let table = |rows: &[(&str, &str, RotStanding)]| -> Vec<(String, String, RotStanding)> {
        rows.iter().map(|(a, b, s)| ((*a).to_owned(), (*b).to_owned(), *s)).collect()
    };
    assert_eq!(told(&ranges), table(&[("a", "b", RotStanding::Hidden), ("b", "k", standing)]));
    // Rot in what was written since.
    ranges.add(RotRange { upto: Lsn(20), ..range("d", "e") });
    let cut = [
        ("a", "b", RotStanding::Hidden),
        ("b", "d", standing),
        ("d", "e", RotStanding::Hidden),
        ("e", "k", standing),
    ];
    assert_eq!(told(&ranges), table(&cut));
    let stale = RotRange { standing: RotStanding::Open(Lsn(19)), ..range("b", "k") };
    ranges.fill(&[stale]);
    assert_eq!(told(&ranges), table(&cut), "opened anew since");
    ranges.fill(&opened);
    let filled = RotStanding::Filled(Lsn(20));
    let expected = [
        ("a", "b", RotStanding::Hidden),
        ("b", "d", filled),
        ("d", "e", RotStanding::Hidden),
        ("e", "k", filled),
    ];
    assert_eq!(told(&ranges), table(&expected));
    assert!(ranges.first_unfilled_in(b"b", Some(b"d")).is_none() && ranges.voids(b"b", Lsn(5)));
    ranges.forget(&[RotRange { standing: filled, ..range("e", "k") }]);
    assert_eq!(ranges.all().len(), 3);
    assert!(!ranges.voids(b"f", Lsn(5)) && ranges.voids(b"b", Lsn(5)));
    for range in ranges.all() {
        let mut out = Writer::new();
        range.encode(&mut out);
        let encoded = out.into_bytes();
        assert_eq!(RotRange::decode(&mut Reader::new(&encoded)).as_ref(), Ok(range));
    }
}
