//! The other nodes, and whether enough of the cluster is there.

use std::{collections::BTreeMap, sync::Arc};

use holdfast_drive::{
    fabric::{Dialer, Here, RemoteConfig, RemoteNode, auth::Key},
    node::Node,
    traced::{Side, Traced},
};
use holdfast_placement::{Layout, Scheme, endpoint::authority_of};
use holdfast_types::{
    NodeIndex, Quorum,
    seam::{Clock, Random},
};
use tokio::sync::watch;

use crate::forming::NodeSurvey;

/// What all links are made with.
pub struct Links {
    /// The cluster secret's key.
    pub key: Key,
    /// What this process says of itself.
    pub here: watch::Receiver<Here>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Arc<dyn Random>,
    /// How nodes are spoken to now, whatever the layout's URLs say of the day it was written.
    pub scheme: Scheme,
    /// The network.
    pub dialer: Arc<dyn Dialer>,
}

/// Makes and keeps the links to other nodes, one each.
pub struct Peers {
    links: Links,
    known: BTreeMap<String, Arc<RemoteNode>>,
}

impl Peers {
    /// No peers yet.
    #[must_use]
    pub fn new(links: Links) -> Self {
        Self { links, known: BTreeMap::new() }
    }

    /// The links to all nodes but the one at place `me`.
    pub fn others(&mut self, urls: &[String], me: usize) -> Vec<Arc<RemoteNode>> {
        let others = urls.iter().enumerate().filter(|(place, _)| *place != me);
        others.map(|(_, url)| self.reach(url)).collect()
    }

    /// The link to the node at `url`, started when it is new.
    pub fn reach(&mut self, url: &str) -> Arc<RemoteNode> {
        let links = &self.links;
        let url = format!("{}://{}", links.scheme.name(), authority_of(url));
        let start = |url: &String| {
            Arc::new(RemoteNode::start(RemoteConfig {
                url: url.clone(),
                key: links.key.clone(),
                here: links.here.clone(),
                clock: links.clock.clone(),
                random: links.random.clone(),
                dialer: links.dialer.clone(),
            }))
        };
        self.known.entry(url).or_insert_with_key(start).clone()
    }
}

/// The nodes of a layout as this process reaches them.
pub struct Members {
    layout: Arc<Layout>,
    peers: Vec<Option<Arc<RemoteNode>>>,
    local: Option<(NodeIndex, Arc<dyn Node>)>,
}

impl Members {
    /// All nodes of `layout`: `local` is this process, the others are reached through `peers`.
    pub fn new(
        layout: Arc<Layout>,
        local: Option<(NodeIndex, Arc<dyn Node>)>,
        peers: &mut Peers,
    ) -> Self {
        let me = local.as_ref().map(|(index, _)| index.get());
        let reach = |(n, node): (usize, &holdfast_placement::NodeSpec)| {
            (Some(n) != me).then(|| peers.reach(&node.url))
        };
        let peers = layout.nodes.iter().enumerate().map(reach).collect();
        Self { layout, peers, local }
    }

    /// The carriers by node index.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<dyn Node>> {
        let carrier = |peer: &Option<Arc<RemoteNode>>| match (peer, &self.local) {
            (Some(peer), _) => Traced::new(peer.clone(), Side::Remote) as Arc<dyn Node>,
            (None, Some((_, local))) => local.clone(),
            (None, None) => unreachable!("only the local node has no link"),
        };
        self.peers.iter().map(carrier).collect()
    }

    /// The other nodes, with why they are away: nothing of their drives.
    #[must_use]
    pub fn reached(&self) -> Vec<NodeSurvey> {
        let one = |peer: &Arc<RemoteNode>| {
            let away = || peer.why_down().unwrap_or_else(|| "still connecting".to_owned());
            let drives = if peer.is_up() { Ok(Vec::new()) } else { Err(away()) };
            NodeSurvey { url: peer.name().to_owned(), drives }
        };
        self.peers.iter().flatten().map(one).collect()
    }

    /// Whom the process still waits for: `None` when every set has the drives a write needs.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let up: Vec<bool> =
            self.peers.iter().map(|peer| peer.as_ref().is_none_or(|peer| peer.is_up())).collect();
        let short = sets_short(&self.layout, &up)?;
        let away = self.peers.iter().flatten().filter(|peer| !peer.is_up());
        let away: Vec<_> = away
            .map(|peer| format!("{} ({})", peer.name(), peer.why_down().unwrap_or_default()))
            .collect();
        Some(format!("{short}; away: {}", away.join(", ")))
    }
}

/// What keeps the cluster from taking writes, by which nodes are `up`.
fn sets_short(layout: &Layout, up: &[bool]) -> Option<String> {
    layout.sets().find_map(|set| {
        let need = usize::from(Quorum::of(set.drives.len() as u8).write());
        let have = set.drives.iter().filter(|slot| up[slot.node.get()]).count();
        (have < need)
            .then(|| format!("set {} has {have} of the {need} drives that writes need", set.index))
    })
}

#[cfg(test)]
mod tests {
    use holdfast_placement::parse_volumes;
    use holdfast_types::{ClusterId, seam::SeededRandom};

    use super::*;

    /// Goal: readiness follows the write quorum. Method: 4 nodes x 4 drives, one set of 16 that writes
    /// with 12.
    #[test]
    fn a_cluster_is_short_when_two_of_four_nodes_are_away() {
        let pools = parse_volumes(&["http://n{1...4}/d{1...4}".to_owned()]).expect("valid");
        let random = SeededRandom::new(1);
        let layout = Layout::plan(ClusterId(7), &pools, "", &random).expect("planned");
        assert_eq!(sets_short(&layout, &[true, true, true, true]), None);
        assert_eq!(sets_short(&layout, &[true, false, true, true]), None);
        let short = sets_short(&layout, &[true, false, false, true]).expect("short");
        assert!(short.contains("8 of the 12"), "{short}");
    }
}
