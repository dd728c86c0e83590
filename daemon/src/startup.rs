//! From volumes to a layout: surveys the nodes, forms a fresh cluster once, waits for who is missing.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use holdfast_drive::{
    api::DriveError,
    fabric::{RemoteNode, Startup, auth::SKEW_MARK},
    node::Node,
};
use holdfast_placement::Layout;
use holdfast_proto::{v1, value};
use holdfast_types::{ClusterId, DriveId, ErrorClass, NodeIndex, seam::Clock};

use crate::{
    failure::Failure,
    folders::Folders,
    forming::{Document, Found, NodeSurvey, REMAINS, Step, Surveyed, next_step},
    opens::Opens,
};

/// How often the nodes are looked at again while something is missing.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// How often the log says whom the node waits for.
pub const REPORT_MICROS: u64 = 10_000_000;

/// A survey of one node takes this long at most.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(5);

/// This node's drives, for its peers before there is a layout.
pub struct LocalStartup {
    /// The node's URL.
    pub url: String,
    /// Its drives' folders.
    pub folders: Arc<Folders>,
    /// How often drives were opened.
    pub opens: Arc<Opens>,
}

impl LocalStartup {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folders) -> T + Send + 'static,
    ) -> T {
        let folders = self.folders.clone();
        let done = tokio::task::spawn_blocking(move || work(&folders)).await;
        done.expect("looking at folders does not panic")
    }

    fn node_of(&self, document: &Document) -> Result<NodeIndex, DriveError> {
        my_index(&document.layout, &self.url).map_err(|failure| conflict(failure.cause))
    }
}

/// This node's place in a layout. A node that is the only one is it by any name.
///
/// # Errors
/// [`Failure`] when the layout has no such node.
pub fn my_index(layout: &Layout, url: &str) -> Result<NodeIndex, Failure> {
    let alone = (layout.nodes.len() == 1).then_some(NodeIndex(0));
    layout.node(url).or(alone).ok_or_else(|| {
        Failure::new(
            format!("find {url} in the cluster's layout: it has no such node"),
            "start the node with the volumes and at the address that the cluster was formatted with",
        )
    })
}

fn conflict(message: impl Into<String>) -> DriveError {
    DriveError::failed(DriveId::NIL, ErrorClass::Conflict, message)
}

fn read_document(bytes: Bytes) -> Result<Document, DriveError> {
    let wrong = |error: holdfast_placement::PlacementError| {
        DriveError::failed(DriveId::NIL, error.class(), error.to_string())
    };
    Document::read(bytes).map_err(wrong)
}

#[async_trait]
impl Startup for LocalStartup {
    async fn survey(&self, opens: Vec<v1::DriveOpens>) -> Result<v1::SurveyReply, DriveError> {
        let known = self.opens.clone();
        known.learn_wire(opens);
        let work = move |folders: &Folders| known.keep(folders).map(|()| folders.survey());
        let drives = self.blocking(work).await.map_err(conflict)?;
        let (drives, opens) = (to_wire(&drives), self.opens.to_wire());
        Ok(v1::SurveyReply { node: self.url.clone(), drives, opens })
    }

    async fn propose(&self, document: Bytes) -> Result<(), DriveError> {
        let document = read_document(document)?;
        self.node_of(&document)?;
        self.blocking(move |folders| folders.propose(&document)).await.map_err(conflict)
    }

    async fn commit(&self, document: Bytes) -> Result<(), DriveError> {
        let document = read_document(document)?;
        let me = self.node_of(&document)?;
        self.blocking(move |folders| folders.commit(&document, me)).await.map_err(conflict)
    }
}

/// Drives as a message. A document that several drives carry travels once: an empty one is the one
/// before it.
fn to_wire(drives: &[Surveyed]) -> Vec<v1::SurveyedDrive> {
    let mut last = Bytes::new();
    let mut carried = |document: &Document| {
        let same = document.bytes == last;
        last = document.bytes.clone();
        if same { Bytes::new() } else { last.clone() }
    };
    let one = |surveyed: &Surveyed| {
        let mut message =
            v1::SurveyedDrive { path: surveyed.path.clone(), ..v1::SurveyedDrive::default() };
        message.state = match &surveyed.found {
            Found::Blank => "blank",
            Found::Proposed(document) => {
                message.layout = carried(document);
                "proposed"
            }
            Found::Formatted { drive, cluster, document } => {
                message.drive = value::id(drive.to_bytes());
                message.cluster = value::id(cluster.to_bytes());
                match document {
                    Some(document) => {
                        message.layout = carried(document);
                        "formatted"
                    }
                    None => "formatted without layout",
                }
            }
            Found::Remains => {
                REMAINS.clone_into(&mut message.reason);
                "unusable"
            }
            Found::Unusable(why) => {
                message.reason.clone_from(why);
                "unusable"
            }
        }
        .to_owned();
        message
    };
    drives.iter().map(one).collect()
}

/// The inverse of [`to_wire`]; what is malformed is unusable.
fn from_wire(drives: Vec<v1::SurveyedDrive>) -> Vec<Surveyed> {
    let mut last: Option<Document> = None;
    let mut found = |message: &v1::SurveyedDrive| -> Result<Found, String> {
        if !message.layout.is_empty() {
            last = Some(Document::read(message.layout.clone()).map_err(|e| e.to_string())?);
        }
        let formatted = |document| -> Result<Found, String> {
            let id = |bytes: &[u8], field| value::read_id(bytes, field).map_err(|e| e.to_string());
            Ok(Found::Formatted {
                drive: DriveId::from_bytes(id(&message.drive, "drive")?),
                cluster: ClusterId::from_bytes(id(&message.cluster, "cluster")?),
                document,
            })
        };
        match message.state.as_str() {
            "blank" => Ok(Found::Blank),
            "proposed" => last.clone().map(Found::Proposed).ok_or("no layout".to_owned()),
            "formatted" => formatted(last.clone()),
            "formatted without layout" => formatted(None),
            "unusable" => Ok(Found::Unusable(message.reason.clone())),
            other => Err(format!("unknown state {other}")),
        }
    };
    let one = |message: v1::SurveyedDrive| {
        let found = found(&message).unwrap_or_else(|why| {
            Found::Unusable(format!("its node describes it in a way not understood here: {why}"))
        });
        Surveyed { path: message.path, found }
    };
    drives.into_iter().map(one).collect()
}

/// One node of the cluster as this process reaches it.
#[derive(Clone)]
pub enum Member {
    /// This process.
    Me(Arc<LocalStartup>),
    /// Another one.
    Peer(Arc<RemoteNode>),
}

impl Member {
    async fn survey(&self) -> NodeSurvey {
        match self {
            Self::Me(local) => {
                let drives = local.blocking(Folders::survey).await;
                NodeSurvey { url: local.url.clone(), drives: Ok(drives) }
            }
            Self::Peer(peer) => {
                let drives =
                    match tokio::time::timeout(SURVEY_TIMEOUT, peer.survey(Vec::new())).await {
                        Ok(Ok(reply)) => Ok(from_wire(reply.drives)),
                        Ok(Err(error)) => Err(peer.why_down().unwrap_or_else(|| error.to_string())),
                        Err(_) => Err("it does not answer".to_owned()),
                    };
                NodeSurvey { url: peer.name().to_owned(), drives }
            }
        }
    }

    async fn propose(&self, document: &Document) -> Result<(), String> {
        let outcome = match self {
            Self::Me(local) => local.propose(document.bytes.clone()).await,
            Self::Peer(peer) => peer.propose(document.bytes.clone()).await,
        };
        outcome.map_err(|error| error.to_string())
    }

    async fn commit(&self, document: &Document) -> Result<(), String> {
        let outcome = match self {
            Self::Me(local) => local.commit(document.bytes.clone()).await,
            Self::Peer(peer) => peer.commit(document.bytes.clone()).await,
        };
        outcome.map_err(|error| error.to_string())
    }
}

/// The cluster's layout; a fresh cluster is formed on the way. `me` is this process among `members`.
///
/// # Errors
/// [`Failure`] when waiting does not help.
pub async fn find_layout(
    me: usize,
    members: &[Member],
    fresh: &Layout,
    clock: &dyn Clock,
) -> Result<Document, Failure> {
    let mut reports = Reports::new(clock);
    loop {
        let nodes = join_all(members.iter().map(Member::survey)).await;
        check_clocks(nodes.iter().enumerate().filter(|(n, _)| *n != me).map(|(_, node)| node))?;
        match next_step(me, &nodes, fresh) {
            Step::Open(document) => return Ok(document),
            Step::Refuse(failure) => return Err(failure),
            Step::Wait(why) => reports.waiting(&why),
            Step::Form(document) => match form(members, &document).await {
                Ok(()) => return Ok(document),
                Err(why) => reports.waiting(&why),
            },
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Both steps, see [`crate::forming`].
async fn form(members: &[Member], document: &Document) -> Result<(), String> {
    let kept = join_all(members.iter().map(|member| member.propose(document))).await;
    let refused: Vec<String> = kept.into_iter().filter_map(Result::err).collect();
    if !refused.is_empty() {
        return Err(format!("propose the layout: {}", refused.join("; ")));
    }
    let cluster = document.layout.cluster;
    tracing::info!(%cluster, "every drive has kept the layout; formatting");
    let done = join_all(members.iter().map(|member| member.commit(document))).await;
    for why in done.into_iter().filter_map(Result::err) {
        // Each node completes its own drives when it starts; this one must have its own.
        tracing::warn!("format drives: {why}");
    }
    Ok(())
}

/// Gives up when it is our clock that is off: most of the other nodes find it so, and more than agree with it, ourselves
/// among them. One node with a wrong clock must not talk the others out of starting. Of two nodes nobody can tell which.
///
/// # Errors
/// [`Failure`] that names one of them.
pub fn check_clocks<'a>(peers: impl IntoIterator<Item = &'a NodeSurvey>) -> Result<(), Failure> {
    let (mut all, mut agree, mut skewed) = (0, 0, Vec::new());
    for peer in peers {
        all += 1;
        match &peer.drives {
            Ok(_) => agree += 1,
            Err(why) if why.contains(SKEW_MARK) => skewed.push((&peer.url, why)),
            Err(_) => {}
        }
    }
    let most = 2 * skewed.len() > all && (all == 1 || skewed.len() > agree + 1);
    match skewed.first() {
        Some((url, why)) if most => Err(Failure::new(
            format!(
                "compare clocks with {url}: {why}; {} of {all} other nodes say so",
                skewed.len()
            ),
            "set the clocks of all nodes by NTP, then start again",
        )),
        _ => Ok(()),
    }
}

/// The layout, for a process without drives: from whichever node has it.
///
/// # Errors
/// [`Failure`] when the clocks differ.
pub async fn fetch_layout(
    peers: &[Arc<RemoteNode>],
    clock: &dyn Clock,
) -> Result<Document, Failure> {
    let mut reports = Reports::new(clock);
    loop {
        let members = peers.iter().cloned().map(Member::Peer).collect::<Vec<_>>();
        let nodes = join_all(members.iter().map(Member::survey)).await;
        check_clocks(&nodes)?;
        let answers = nodes.iter().any(|node| node.drives.is_ok());
        let carried = nodes.iter().filter_map(|node| node.drives.as_ref().ok()).flatten();
        let documents = carried.filter_map(|surveyed| match &surveyed.found {
            Found::Formatted { cluster, document: Some(document), .. } => {
                (document.layout.cluster == *cluster).then_some(document)
            }
            _ => None,
        });
        if let Some(newest) = documents.cloned().reduce(|known, other| known.merged(&other)) {
            return Ok(newest);
        }
        let away = nodes
            .iter()
            .filter_map(|node| Some(format!("{} ({})", node.url, node.drives.as_ref().err()?)));
        let away: Vec<_> = away.collect();
        let what = if answers { "no node has a layout yet" } else { "no node answers" };
        reports.waiting(&format!("{what}; away: {}", away.join(", ")));
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Says what is waited for: at once when it is new after a moment's patience, then every 10 s.
pub struct Reports<'a> {
    clock: &'a dyn Clock,
    next_micros: u64,
}

impl<'a> Reports<'a> {
    /// The first report comes after a second: peers that start together are not worth a line.
    #[must_use]
    pub fn new(clock: &'a dyn Clock) -> Self {
        Self { clock, next_micros: clock.monotonic_micros() + 1_000_000 }
    }

    /// Something is missing.
    pub fn waiting(&mut self, why: &str) {
        let now = self.clock.monotonic_micros();
        if now >= self.next_micros {
            tracing::info!("waiting: {why}");
            self.next_micros = now + REPORT_MICROS;
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_placement::parse_volumes;
    use holdfast_types::seam::SeededRandom;

    use super::*;

    fn document(seed: u64) -> Document {
        let pools = parse_volumes(&["/d{1...2}".to_owned()]).expect("valid");
        let random = SeededRandom::new(seed);
        let layout = Layout::plan(ClusterId(7), &pools, "http://me:1", &random).expect("planned");
        Document::of(layout)
    }

    /// Goal: peers see what the node sees. Method: every kind of folder to messages and back, with
    /// documents that repeat and that differ.
    #[test]
    fn surveys_survive_the_wire() {
        let (one, other) = (document(1), document(2));
        let formatted = |n, document: Option<&Document>| Found::Formatted {
            drive: DriveId(n),
            cluster: ClusterId(7),
            document: document.cloned(),
        };
        let found = [
            Found::Blank,
            formatted(1, Some(&one)),
            formatted(2, Some(&one)),
            formatted(3, None),
            formatted(4, Some(&one)),
            Found::Unusable("rotten".to_owned()),
            Found::Proposed(other.clone()),
            Found::Proposed(other),
        ];
        let drives: Vec<_> = found
            .into_iter()
            .enumerate()
            .map(|(n, found)| Surveyed { path: format!("/d{n}"), found })
            .collect();
        let messages = to_wire(&drives);
        let documents = messages.iter().filter(|message| !message.layout.is_empty()).count();
        assert_eq!(documents, 2, "a document travels once");
        assert_eq!(from_wire(messages), drives);
        let odd = v1::SurveyedDrive { state: "haunted".to_owned(), ..Default::default() };
        assert!(
            matches!(&from_wire(vec![odd])[0].found, Found::Unusable(why) if why.contains("haunted"))
        );
    }

    /// Goal: a wild clock of ours stops us, a wild clock of a peer stops nobody else, whoever answers first. Method: surveys of
    /// other nodes as a node with the wrong clock, and as its peers, see them.
    #[test]
    fn our_wild_clock_is_told_from_a_peers() {
        // s: finds our clock wrong, o: agrees, a: is away.
        let stops = |peers: &str| {
            let survey = |(n, is): (usize, char)| NodeSurvey {
                url: format!("http://n{n}:9000"),
                drives: match is {
                    's' => Err(format!("authenticate call: {SKEW_MARK} by 60 s")),
                    'o' => Ok(Vec::new()),
                    _ => Err("connection refused".to_owned()),
                },
            };
            let peers: Vec<_> = peers.chars().enumerate().map(survey).collect();
            check_clocks(&peers).is_err()
        };
        for ours in ["s", "ss", "sss", "ssa", "sssso"] {
            assert!(stops(ours), "{ours}");
        }
        for theirs in ["", "a", "sa", "so", "saa", "sao", "sso", "oo", "ssoo"] {
            assert!(!stops(theirs), "{theirs}");
        }
    }

    #[test]
    fn a_single_node_is_in_its_layout_by_any_name() {
        let layout = document(1).layout;
        assert_eq!(my_index(&layout, "http://renamed:9"), Ok(NodeIndex(0)));
        let pools = parse_volumes(&["http://n{1...2}/d{1...2}".to_owned()]).expect("valid");
        let random = SeededRandom::new(1);
        let two = Layout::plan(ClusterId(7), &pools, "", &random).expect("planned");
        assert_eq!(my_index(&two, "http://n2:9000"), Ok(NodeIndex(1)));
        assert!(my_index(&two, "http://n3:9000").is_err());
    }
}
