//! Whether a cluster has to be formatted, and by whom. Pure decisions on what was surveyed.
//!
//! ```text
//! every drive blank --> the first node draws a layout --> every drive keeps it as proposed (step 1)
//!                   --> every node formats its drives by it (step 2)
//! ```
//! INV-FORM-ONCE: step 2 begins only when *every* drive of the cluster keeps the same proposal. So a
//! crash in step 1 leaves no formatted drive, and the first node proposes again (the same layout, when it
//! finds it); a crash in step 2 leaves drives that each know the layout, and every node completes its
//! own. A blank drive beside a formatted one was wiped or replaced: it is never formatted by the
//! layout, but taken into its set as a new drive ([`crate::keeper`]).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use holdfast_placement::{Layout, PlacementError};
use holdfast_types::{ClusterId, DriveId};

use crate::failure::Failure;

/// A layout and the bytes it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// As kept and sent.
    pub bytes: Bytes,
    /// As read.
    pub layout: Arc<Layout>,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is none, or contradicts itself.
    pub fn read(bytes: Bytes) -> Result<Self, PlacementError> {
        let layout = Arc::new(Layout::from_bytes(&bytes)?);
        Ok(Self { bytes, layout })
    }

    /// What both know: of each set the newer membership.
    #[must_use]
    pub fn merged(self, other: &Self) -> Self {
        if self.layout == other.layout {
            return self;
        }
        Self::of(Layout::clone(&self.layout).merged(&other.layout))
    }

    /// The document of a layout.
    #[must_use]
    pub fn of(layout: Layout) -> Self {
        Self { bytes: layout.to_bytes().into(), layout: Arc::new(layout) }
    }
}

/// What [`Found::Remains`] says to people.
pub const REMAINS: &str = "it has files of a drive, but no identity";

/// What is on a drive's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing: never used, or wiped.
    Blank,
    /// Nothing but a proposed layout.
    Proposed(Document),
    /// A drive.
    Formatted {
        /// Its identity.
        drive: DriveId,
        /// Its cluster.
        cluster: ClusterId,
        /// The layout it carries.
        document: Option<Document>,
    },
    /// Files of a drive without its identity: it was wiped in part, or never finished.
    Remains,
    /// It cannot be used: cause and cure.
    Unusable(String),
}

/// A drive's folder and what is on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// The folder.
    pub path: String,
    /// What is on it.
    pub found: Found,
}

/// A node of the cluster as far as it is known.
#[derive(Debug, Clone)]
pub struct NodeSurvey {
    /// Its URL, for messages.
    pub url: String,
    /// What it said, or why it said nothing.
    pub drives: Result<Vec<Surveyed>, String>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The cluster has a layout: open the drives by it.
    Open(Document),
    /// Propose this layout everywhere, then have it carried out.
    Form(Document),
    /// Ask again later; for whom or what the cluster waits.
    Wait(String),
    /// Give up.
    Refuse(Failure),
}

/// Decides the next step of node `me`. `fresh` is the layout that a formatting would begin with: a
/// proposal found from before is taken instead when it has the same drives.
#[must_use]
pub fn next_step(me: usize, nodes: &[NodeSurvey], fresh: &Layout) -> Step {
    let mine = std::slice::from_ref(&nodes[me]);
    // One's own drives are enough to know the cluster: a node starts without its peers.
    for group in [mine, nodes] {
        match in_force(group) {
            Ok(Some(document)) => return Step::Open(document),
            Ok(None) => {}
            Err(failure) => return Step::Refuse(failure),
        }
    }
    if let Some(unusable) = first_unusable(mine) {
        let cure = "every drive must be usable and blank before a cluster is formatted: repair it, or \
                    empty it if nothing on it is needed";
        return Step::Refuse(Failure::new(unusable, cure));
    }
    let away: Vec<_> = nodes
        .iter()
        .filter_map(|node| Some(format!("{} ({})", node.url, node.drives.as_ref().err()?)))
        .collect();
    if !away.is_empty() {
        return Step::Wait(format!("the cluster is not formatted yet: {}", away.join(", ")));
    }
    if let Some(unusable) = first_unusable(nodes) {
        return Step::Wait(format!("the cluster is not formatted yet: {unusable}"));
    }
    if let Some(failure) = other_volumes(nodes, fresh) {
        return Step::Refuse(failure);
    }
    if me != 0 {
        return Step::Wait(format!("{} formats the cluster", nodes[0].url));
    }
    let earlier = proposals(nodes).find(|document| same_drives(&document.layout, fresh));
    Step::Form(earlier.cloned().unwrap_or_else(|| Document::of(fresh.clone())))
}

/// The layout that formatted drives carry: of the cluster that most of them belong to, the newest, and
/// of each set the newest membership.
fn in_force(nodes: &[NodeSurvey]) -> Result<Option<Document>, Failure> {
    let mut clusters: BTreeMap<ClusterId, (usize, Option<Document>)> = BTreeMap::new();
    for surveyed in drives(nodes) {
        let Found::Formatted { cluster, document, .. } = &surveyed.found else { continue };
        let (count, newest) = clusters.entry(*cluster).or_default();
        *count += 1;
        if let Some(document) = document.as_ref().filter(|d| d.layout.cluster == *cluster) {
            *newest = Some(match newest.take() {
                Some(known) => known.merged(document),
                None => document.clone(),
            });
        }
    }
    let most = clusters.values().map(|(count, _)| *count).max().unwrap_or(0);
    let mut leading = clusters.iter().filter(|(_, (count, _))| *count == most && most > 0);
    match (leading.next(), leading.next()) {
        (None, _) => Ok(None),
        (Some((one, _)), Some((other, _))) => Err(Failure::new(
            format!("read drives: as many belong to cluster {one} as to cluster {other}"),
            "take the drives of one of the two clusters out of the volumes",
        )),
        (Some((_, (_, Some(document)))), None) => Ok(Some(document.clone())),
        (Some((cluster, _)), None) => Err(Failure::new(
            format!("read drives: no drive of cluster {cluster} has its layout document"),
            "copy the file `layout` from a drive of another node of the cluster into the drives' folders",
        )),
    }
}

fn drives(nodes: &[NodeSurvey]) -> impl Iterator<Item = &Surveyed> {
    nodes.iter().filter_map(|node| node.drives.as_ref().ok()).flatten()
}

fn proposals(nodes: &[NodeSurvey]) -> impl Iterator<Item = &Document> {
    drives(nodes).filter_map(|surveyed| match &surveyed.found {
        Found::Proposed(document) => Some(document),
        _ => None,
    })
}

fn first_unusable(nodes: &[NodeSurvey]) -> Option<String> {
    nodes.iter().find_map(|node| {
        node.drives.as_ref().ok()?.iter().find_map(|surveyed| match &surveyed.found {
            Found::Unusable(why) => Some(format!("{}{}: {why}", node.url, surveyed.path)),
            Found::Remains => Some(format!("{}{}: {REMAINS}", node.url, surveyed.path)),
            _ => None,
        })
    })
}

/// Nodes that were started with other volumes than this one.
fn other_volumes(nodes: &[NodeSurvey], fresh: &Layout) -> Option<Failure> {
    let places = places(fresh);
    let differs = |node: &&NodeSurvey| {
        let planned: Vec<_> =
            places.iter().filter(|(url, _)| *url == node.url).map(|(_, path)| *path).collect();
        let mut has: Vec<_> = node.drives.iter().flatten().map(|s| s.path.as_str()).collect();
        has.sort_unstable();
        has != planned
    };
    let node = nodes.iter().find(differs)?;
    Some(Failure::new(
        format!(
            "compare volumes: {} was started with other drives than this node expects",
            node.url
        ),
        "start all nodes with the same volumes",
    ))
}

/// Whether the volumes named, which `fresh` is planned of, fit the layout in force. Places may differ: drives are known by their
/// identity. Their number may not be higher, for nobody would take in what is beyond it.
///
/// # Errors
/// [`Failure`] when more drives are named than the layout has.
pub fn check_volumes(fresh: &Layout, in_force: &Layout) -> Result<(), Failure> {
    let count = |layout: &Layout| layout.sets().map(|set| set.drives.len()).sum::<usize>();
    let (named, has) = (count(fresh), count(in_force));
    if named > has {
        return Err(Failure::new(
            format!("use {named} drives: the cluster was formatted with {has}"),
            "start it with the volumes it was formatted with: adding drives or pools is not there yet",
        ));
    }
    if named < has {
        tracing::warn!(
            named,
            has,
            "the cluster has more drives than the volumes name: the others are down"
        );
    }
    Ok(())
}

fn same_drives(one: &Layout, other: &Layout) -> bool {
    places(one) == places(other)
}

/// URL and path of every drive, sorted.
fn places(layout: &Layout) -> Vec<(&str, &str)> {
    let slots = layout.sets().flat_map(|set| &set.drives);
    let place = |slot: &'_ holdfast_placement::DriveSlot| slot.node.get();
    let mut places: Vec<_> =
        slots.map(|slot| (layout.nodes[place(slot)].url.as_str(), slot.path.as_str())).collect();
    places.sort_unstable();
    places
}

/// Whether a folder of this node may be made drive by `document` now (step 2).
#[must_use]
pub fn may_format(found: &Found, document: &Document) -> bool {
    matches!(found, Found::Proposed(proposed) if proposed.bytes == document.bytes)
}

#[cfg(test)]
mod tests {
    use holdfast_placement::parse_volumes;
    use holdfast_types::seam::SeededRandom;

    use super::*;

    /// 2 nodes with 2 drives each.
    fn layout(seed: u64) -> Layout {
        let volumes = ["http://n{1...2}:9000/d{1...2}".to_owned()];
        let pools = parse_volumes(&volumes).expect("valid");
        let random = SeededRandom::new(seed);
        Layout::plan(ClusterId::draw(&random), &pools, "", &random).expect("a layout")
    }

    fn node(n: usize, found: [Found; 2]) -> NodeSurvey {
        let drive = |(i, found)| Surveyed { path: format!("/d{}", i + 1), found };
        let drives = found.into_iter().enumerate().map(drive).collect();
        NodeSurvey { url: format!("http://n{n}:9000"), drives: Ok(drives) }
    }

    fn away(n: usize) -> NodeSurvey {
        NodeSurvey {
            url: format!("http://n{n}:9000"),
            drives: Err("connection refused".to_owned()),
        }
    }

    fn formatted(document: &Document, n: u128) -> Found {
        let cluster = document.layout.cluster;
        Found::Formatted { drive: DriveId(n), cluster, document: Some(document.clone()) }
    }

    const BLANK: [Found; 2] = [Found::Blank, Found::Blank];

    fn step(me: usize, nodes: &[NodeSurvey]) -> Step {
        next_step(me, nodes, &layout(9))
    }

    fn waits_for(step: Step, what: &str) {
        let Step::Wait(why) = step else { panic!("{step:?} is no wait for {what}") };
        assert!(why.contains(what), "{why}");
    }

    fn refused_for(step: Step, what: &str) {
        let Step::Refuse(failure) = step else { panic!("{step:?} is no refusal for {what}") };
        assert!(failure.cause.contains(what), "{failure}");
    }

    /// Goal: a fresh cluster is formatted by its first node, and only when every drive was seen blank.
    #[test]
    fn the_first_node_forms_when_every_drive_is_seen_blank() {
        let all = [node(1, BLANK), node(2, BLANK)];
        assert_eq!(step(0, &all), Step::Form(Document::of(layout(9))));
        waits_for(step(1, &all), "n1:9000 formats");
        waits_for(step(0, &[node(1, BLANK), away(2)]), "n2:9000 (connection refused)");
        waits_for(step(1, &[away(1), node(2, BLANK)]), "n1:9000");
        let rotten = Found::Unusable("device failed".to_owned());
        let bad = [Found::Blank, rotten];
        waits_for(step(0, &[node(1, BLANK), node(2, bad.clone())]), "n2:9000/d2: device failed");
        refused_for(step(0, &[node(1, bad), node(2, BLANK)]), "device failed");
        let mut fewer = node(2, BLANK);
        fewer.drives.as_mut().expect("drives").pop();
        refused_for(step(0, &[node(1, BLANK), fewer]), "other drives");
    }

    /// Goal: a crash in step 1 is completed with the same layout. Method: a proposal on one drive of
    /// either node; one of other volumes is not taken up.
    #[test]
    fn a_proposal_from_before_is_taken_up_again() {
        let before = Document::of(layout(3));
        let one = [Found::Proposed(before.clone()), Found::Blank];
        for all in [[node(1, one.clone()), node(2, BLANK)], [node(1, BLANK), node(2, one.clone())]]
        {
            assert_eq!(step(0, &all), Step::Form(before.clone()));
            waits_for(step(1, &all), "formats");
        }
        let pools = parse_volumes(&["http://n{1...2}/e{1...2}".to_owned()]).expect("valid");
        let random = SeededRandom::new(4);
        let other = Layout::plan(ClusterId(5), &pools, "", &random).expect("a layout");
        let other = [Found::Proposed(Document::of(other)), Found::Blank];
        let all = [node(1, other), node(2, BLANK)];
        assert_eq!(step(0, &all), Step::Form(Document::of(layout(9))));
    }

    /// Goal: volumes that grew are refused by what is wrong with them, others are not.
    #[test]
    fn more_drives_than_the_layout_has_are_refused() {
        let planned = |volumes: &[&str]| {
            let volumes: Vec<_> = volumes.iter().map(|&volume| volume.to_owned()).collect();
            let pools = parse_volumes(&volumes).expect("valid");
            Layout::plan(ClusterId(5), &pools, "http://me:1", &SeededRandom::new(1))
                .expect("a layout")
        };
        let in_force = planned(&["/d{1...4}"]);
        for grown in [&["/d{1...8}"][..], &["/d{1...5}"], &["/d{1...4}", "/e{1...4}"]] {
            let failure = check_volumes(&planned(grown), &in_force).expect_err("refused");
            assert!(failure.cause.contains("formatted with 4"), "{failure}");
        }
        for fits in ["/d{1...4}", "/e{1...4}", "/d{1...3}"] {
            assert_eq!(check_volumes(&planned(&[fits]), &in_force), Ok(()));
        }
    }

    /// Goal: once one drive is formatted, nothing is ever formatted by a new layout, whoever asks and
    /// whoever is away (INV-FORM-ONCE). Method: one formatted drive in every place.
    #[test]
    fn one_formatted_drive_settles_the_layout() {
        let document = Document::of(layout(3));
        for place in 0..4 {
            let mut all = [node(1, BLANK), node(2, BLANK)];
            let drives = all[place / 2].drives.as_mut().expect("drives");
            drives[place % 2].found = formatted(&document, 7);
            for me in 0..2 {
                assert_eq!(step(me, &all), Step::Open(document.clone()), "{place} seen by {me}");
            }
            let other = 1 - place / 2;
            all[other] = away(other + 1);
            assert_eq!(step(place / 2, &all), Step::Open(document.clone()));
        }
        let proposed = Found::Proposed(document.clone());
        assert!(may_format(&proposed, &document));
        assert!(!may_format(&Found::Blank, &document));
        assert!(!may_format(&proposed, &Document::of(layout(4))));
        assert!(!may_format(&formatted(&document, 1), &document));
    }

    /// Goal: a foreign drive among ours does not decide; two clusters in equal parts are refused.
    #[test]
    fn the_cluster_of_most_drives_rules() {
        let (ours, foreign) = (Document::of(layout(3)), Document::of(layout(4)));
        let mixed = [formatted(&ours, 1), formatted(&foreign, 2)];
        refused_for(step(0, &[node(1, mixed), away(2)]), "as many belong to");
        let mut newer = layout(3);
        newer.generation = 2;
        let newer = Document::of(newer);
        let both = [formatted(&ours, 1), formatted(&newer, 2)];
        assert_eq!(step(0, &[node(1, both), away(2)]), Step::Open(newer));
        let lost = Found::Formatted { drive: DriveId(1), cluster: ClusterId(1), document: None };
        refused_for(step(0, &[node(1, [lost, Found::Blank]), away(2)]), "layout document");
    }
}
