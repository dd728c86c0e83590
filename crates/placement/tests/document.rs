//! The layout document: round trips, and bad ones only ever produce errors.

use holdfast_placement::{Layout, PlacementError, parse_volumes};
use holdfast_types::{ClusterId, DriveId, NodeIndex, SetIndex, seam::SeededRandom};
use proptest::prelude::*;

fn plan(args: &[&str]) -> Result<Layout, PlacementError> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let pools = parse_volumes(&args).expect("the arguments are valid");
    Layout::plan(ClusterId(5), &pools, "http://127.0.0.1:9000", &SeededRandom::new(1))
}

fn good() -> Layout {
    plan(&["http://n{1...4}/mnt/d{1...4}", "http://m{1...2}/mnt/d{1...2}"]).expect("it fits")
}

/// Goal: planning gives a layout in the order of the arguments, and the document brings it back.
/// Method: two pools; and a single node of four folders, which is one set of four.
#[test]
fn layouts_are_planned_and_come_back() {
    let layout = good();
    assert_eq!((layout.nodes.len(), layout.pools.len()), (6, 2));
    let sizes: Vec<_> = layout.sets().map(|set| (set.index, set.drives.len())).collect();
    assert_eq!(sizes, [(SetIndex(0), 16), (SetIndex(1), 4)]);
    assert_eq!((layout.pools[0].weight, layout.pools[1].weight), (16, 4));
    assert_eq!(layout.node("http://m2:9000"), Some(NodeIndex(5)));
    assert_eq!(layout.set(SetIndex(1)), layout.sets().last());
    assert_eq!(layout.set(SetIndex(2)), None);
    assert_eq!(Layout::from_bytes(&layout.to_bytes()), Ok(layout));

    let single = plan(&["/srv/d{1...4}"]).expect("1x4");
    assert_eq!(single.nodes[0].url, "http://127.0.0.1:9000");
    assert_eq!(single.first_set().drives.len(), 4);
    assert!(plan(&["data"]).is_err(), "relative paths are made absolute before");
}

/// Goal: a layout that contradicts itself is refused although its checksum is right. Method: one
/// change a rule.
#[test]
fn contradictions_are_refused() {
    let changes: [(&str, fn(&mut Layout)); 18] = [
        ("cluster", |l| l.cluster = ClusterId::NIL),
        ("generation", |l| l.generation = 0),
        ("no nodes", |l| l.nodes.clear()),
        ("same node twice", |l| l.nodes[1] = l.nodes[0].clone()),
        ("same node by another scheme", |l| {
            l.nodes[1].url = l.nodes[0].url.replace("http", "https");
        }),
        ("ftp", |l| l.nodes[0].url = "ftp://n1:9000".into()),
        ("no port", |l| l.nodes[0].url = "http://n1".into()),
        ("no pools", |l| l.pools.clear()),
        ("no weight", |l| l.pools.iter_mut().for_each(|pool| pool.weight = 0)),
        ("no sets", |l| l.pools[1].sets.clear()),
        ("set out of order", |l| l.pools[1].sets[0].index = SetIndex(2)),
        ("no drives", |l| l.pools[1].sets[0].drives.clear()),
        ("17 drives", |l| {
            let slot = l.pools[1].sets[0].drives.pop().expect("4 drives");
            l.pools[0].sets[0].drives.push(slot);
        }),
        ("drive without id", |l| l.pools[1].sets[0].drives[3].drive = DriveId::NIL),
        ("drive twice", |l| {
            l.pools[1].sets[0].drives[3].drive = l.pools[0].sets[0].drives[3].drive;
        }),
        ("folder twice", |l| {
            l.pools[1].sets[0].drives[1] = l.pools[0].sets[0].drives[1].clone();
            l.pools[1].sets[0].drives[1].drive = DriveId(99);
        }),
        ("unknown node", |l| l.pools[1].sets[0].drives[0].node = NodeIndex(6)),
        ("relative path", |l| l.pools[1].sets[0].drives[0].path = "d1".into()),
    ];
    for (name, change) in changes {
        let mut layout = good();
        change(&mut layout);
        let read = Layout::from_bytes(&layout.to_bytes());
        assert!(matches!(read, Err(PlacementError::DocumentInvalid { .. })), "{name}: {read:?}");
    }
}

/// Goal: a node is host and port, however the cluster speaks. Method: look nodes up by either scheme.
#[test]
fn nodes_are_found_by_host_and_port() {
    let layout = good();
    let secure = layout.nodes[1].url.replace("http://", "https://");
    assert_eq!(layout.node(&secure), layout.node(&layout.nodes[1].url));
    assert_eq!(layout.node(&secure), Some(NodeIndex(1)));
    assert_eq!(layout.node("https://elsewhere:9000"), None);
}

/// Goal: documents of other formats and versions, and hand-made changes, are told apart. Method: edit
/// the text.
#[test]
fn foreign_documents_are_refused() {
    let text = String::from_utf8(good().to_bytes()).expect("JSON is UTF-8");
    let read = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        Layout::from_bytes(text.replacen(from, to, 1).as_bytes())
    };
    let spacing = read("\n", "\n\n");
    assert_eq!(spacing, Ok(good()), "spacing does not count");
    let version = read("\"version\": 2", "\"version\": 3");
    assert_eq!(version, Err(PlacementError::DocumentVersion { found: 3 }));
    assert_eq!(read("/mnt/d1", "/mnt/d9"), Err(PlacementError::DocumentChecksum));
    for (from, to) in [
        ("holdfast-layout", "another"),
        ("\"weight\"", "\"mass\""),
        ("\"weight\": 16", "\"weight\": -16"),
        ("\"generation\": 1", "\"generation\": 1, \"extra\": 1"),
        ("}", ""),
    ] {
        let read = read(from, to);
        assert!(matches!(read, Err(PlacementError::DocumentSyntax { .. })), "{from}: {read:?}");
    }
}

/// Goal: the document is a format: what this release writes the next one reads. Method: a document
/// written by the first release, kept in the tree.
#[test]
fn the_first_release_s_document_is_read() {
    let layout = Layout::from_bytes(include_bytes!("layout-v2.json")).expect("it was valid once");
    assert_eq!(layout, plan(&["http://n{1...2}/mnt/d{1...2}"]).expect("it fits"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Goal: bytes from a disk only ever produce errors. Method: flip, cut or double bytes of a
    /// document; it is refused, or it says the same (a change of spacing).
    #[test]
    fn damaged_documents_never_mislead(at in any::<prop::sample::Index>(), flip in 0..=255_u8, how in 0..3) {
        let mut bytes = good().to_bytes();
        let place = at.index(bytes.len());
        match how {
            0 => bytes[place] ^= flip,
            1 => bytes.truncate(place),
            _ => bytes.insert(place, flip),
        }
        if let Ok(layout) = Layout::from_bytes(&bytes) {
            prop_assert_eq!(layout, good());
        }
    }

    /// Goal: no bytes at all make reading panic. Method: random bytes, and random JSON-like text.
    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\",:0-9a-z]{0,80}") {
        prop_assert!(Layout::from_bytes(&bytes).is_err());
        prop_assert!(Layout::from_bytes(text.as_bytes()).is_err());
    }
}
