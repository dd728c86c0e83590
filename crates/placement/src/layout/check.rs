//! What makes a layout one that can be worked with.

use std::collections::HashSet;

use holdfast_types::{ClusterId, DriveId, quorum::DRIVES_MAX};

use super::{DriveSlot, Layout, SetLayout};
use crate::{
    endpoint::{authority_of, is_absolute_path, is_node_url},
    error::PlacementError,
    notation::ENDPOINTS_MAX,
};

/// Pools of a cluster at most: each key asks every pool for a score.
const POOLS_MAX: usize = 256;

impl Layout {
    /// Checks everything that code behind [`Layout::from_bytes`] relies on.
    ///
    /// # Errors
    /// [`PlacementError::DocumentInvalid`] naming what is wrong.
    pub(super) fn check(&self) -> Result<(), PlacementError> {
        self.check_outline()?;
        let mut drives = HashSet::new();
        let mut places = HashSet::new();
        for (index, set) in self.sets().enumerate() {
            if set.index.get() != index {
                return invalid(format!("set {} stands at place {index}", set.index));
            }
            set.check()?;
            for slot in &set.drives {
                self.check_node(slot)?;
                if !drives.insert(slot.drive) {
                    return invalid(format!("drive {} has two slots", slot.drive));
                }
                if !places.insert((slot.node, &slot.path)) {
                    return invalid(format!("folder {} of node {} twice", slot.path, slot.node));
                }
            }
        }
        Ok(())
    }

    fn check_outline(&self) -> Result<(), PlacementError> {
        if self.cluster == ClusterId::NIL || self.generation == 0 {
            return invalid("cluster id or generation is zero".to_owned());
        }
        if self.nodes.is_empty() || self.nodes.len() > ENDPOINTS_MAX {
            return invalid(format!("it names {} nodes", self.nodes.len()));
        }
        let mut known = HashSet::new();
        let mut odd = |url: &str| !is_node_url(url) || !known.insert(authority_of(url).to_owned());
        if let Some(node) = self.nodes.iter().find(|node| odd(&node.url)) {
            return invalid(format!("node URL {:?} is malformed or repeated", node.url));
        }
        if self.pools.is_empty() || self.pools.len() > POOLS_MAX {
            return invalid(format!("it has {} pools", self.pools.len()));
        }
        if self.pools.iter().all(|pool| pool.weight == 0) {
            return invalid("no pool has weight".to_owned());
        }
        if self.pools.iter().any(|pool| pool.sets.is_empty()) {
            return invalid("a pool has no sets".to_owned());
        }
        let drives = self.sets().map(|set| set.drives.len()).sum::<usize>();
        if drives > ENDPOINTS_MAX {
            return invalid(format!("it has {drives} drives"));
        }
        Ok(())
    }

    fn check_node(&self, slot: &DriveSlot) -> Result<(), PlacementError> {
        let DriveSlot { drive, node, .. } = slot;
        if node.get() >= self.nodes.len() {
            return invalid(format!("drive {drive} is on node {node}, which does not exist"));
        }
        Ok(())
    }
}

impl SetLayout {
    /// Checks what can be said of a set without its layout.
    ///
    /// # Errors
    /// [`PlacementError::DocumentInvalid`] naming what is wrong.
    pub(super) fn check(&self) -> Result<(), PlacementError> {
        let (index, count) = (self.index, self.drives.len());
        if self.drives.is_empty() || count > usize::from(DRIVES_MAX) {
            return invalid(format!("set {index} has {count} drives"));
        }
        for (at, DriveSlot { drive, path, .. }) in self.drives.iter().enumerate() {
            if *drive == DriveId::NIL {
                return invalid(format!("a drive of set {index} has no id"));
            }
            if self.drives[..at].iter().any(|other| other.drive == *drive) {
                return invalid(format!("drive {drive} has two slots"));
            }
            if !is_absolute_path(path) {
                return invalid(format!("drive {drive} has path {path:?}"));
            }
        }
        Ok(())
    }
}

fn invalid(cause: String) -> Result<(), PlacementError> {
    Err(PlacementError::DocumentInvalid { cause })
}
