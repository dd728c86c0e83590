//! The layout document: which pools, sets, drives and nodes a cluster has. Its bytes are described in
//! `docs/format/layout.md`.

use holdfast_types::{
    ClusterId, DriveId, Keyspace, NodeIndex, RegisterKey, SetEpoch, SetIndex, codec::CodecError,
    seam::Random,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    endpoint::authority_of, error::PlacementError, hash::KeyHash, sets::plan_sets,
    volumes::PoolSpec,
};

mod check;
mod membership;

/// What the document says it is.
const FORMAT: &str = "holdfast-layout";

/// The version written.
const VERSION: u64 = 2;

/// Bytes of a document at most: 16,384 drives at under 4 KiB each, path included.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 20;

/// A cluster's layout under one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The cluster.
    pub cluster: ClusterId,
    /// Raised by every change of pools; part of every ballot. From 1.
    pub generation: u32,
    /// Nodes; a node keeps its place for ever.
    pub nodes: Vec<NodeSpec>,
    /// Pools; a pool keeps its place for ever, a drained one stays with weight 0.
    pub pools: Vec<Pool>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// `http://host:port` or `https://host:port`. Host and port make it that node; the scheme says how
    /// the cluster spoke when the document was written.
    pub url: String,
}

/// A pool: sets that share one weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Its share of new keys, relative to the other pools'. Fixed within a generation.
    pub weight: u64,
    /// Its sets, never more or fewer than the pool was made with.
    pub sets: Vec<SetLayout>,
}

/// An erasure set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLayout {
    /// Counted over all pools.
    pub index: SetIndex,
    /// Raised by every change of its drives.
    pub epoch: SetEpoch,
    /// 1 to 16; a drive that replaces another takes its slot.
    pub drives: Vec<DriveSlot>,
}

/// A drive's place in a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveSlot {
    /// The drive.
    pub drive: DriveId,
    /// The node it is on.
    pub node: NodeIndex,
    /// Its folder there, absolute.
    pub path: String,
    /// Whether it took the slot over and does not hold yet what it should.
    pub rebuilding: bool,
}

/// The document around a layout.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<L> {
    format: String,
    version: u64,
    checksum: String,
    layout: L,
}

/// What every version of the document has, read first.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

impl Layout {
    /// The first layout of a cluster that is formatted now: generation 1, set epochs 0, fresh drive
    /// ids, each pool's weight its number of drives. `local_url` is the node's own URL, for a single
    /// node whose arguments name no host.
    ///
    /// # Errors
    /// [`PlacementError`] when a pool cannot be cut into sets or a path is not absolute.
    pub fn plan(
        cluster: ClusterId,
        pools: &[PoolSpec],
        local_url: &str,
        random: &dyn Random,
    ) -> Result<Self, PlacementError> {
        let mut layout = Self { cluster, generation: 1, nodes: Vec::new(), pools: Vec::new() };
        let mut index = 0;
        for spec in pools {
            let mut sets = Vec::new();
            for endpoints in plan_sets(spec)? {
                let slot = |endpoint: crate::Endpoint| DriveSlot {
                    drive: DriveId::draw(random),
                    node: layout.intern(endpoint.node.as_deref().unwrap_or(local_url)),
                    path: endpoint.path,
                    rebuilding: false,
                };
                let drives = endpoints.into_iter().map(slot).collect();
                sets.push(SetLayout { index: SetIndex(index), epoch: SetEpoch(0), drives });
                index += 1;
            }
            layout.pools.push(Pool { weight: spec.endpoints.len() as u64, sets });
        }
        layout.check()?;
        Ok(layout)
    }

    /// The index of the node with `url`, which joins the list when it is new.
    fn intern(&mut self, url: &str) -> NodeIndex {
        let place = self.nodes.iter().position(|node| node.url == url).unwrap_or_else(|| {
            self.nodes.push(NodeSpec { url: url.to_owned() });
            self.nodes.len() - 1
        });
        NodeIndex(place as u16)
    }

    /// The document: JSON with format, version and checksum.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let document = Document {
            format: FORMAT.to_owned(),
            version: VERSION,
            checksum: self.checksum(),
            layout: self,
        };
        let mut bytes = serde_json::to_vec_pretty(&document)
            .expect("numbers, strings and lists always serialize");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a document and checks all of it: what this returns can be worked with.
    ///
    /// # Errors
    /// [`PlacementError`] when the bytes are not a document, of an unknown version, were changed, or
    /// contradict themselves.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PlacementError> {
        let syntax = |cause: String| PlacementError::DocumentSyntax { cause };
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(syntax(format!("longer than {DOCUMENT_BYTES_MAX} bytes")));
        }
        let head: Head =
            serde_json::from_slice(bytes).map_err(|error| syntax(error.to_string()))?;
        if head.format != FORMAT {
            return Err(syntax(format!("format is not {FORMAT}")));
        }
        if head.version != VERSION {
            return Err(PlacementError::DocumentVersion { found: head.version });
        }
        let document: Document<Self> =
            serde_json::from_slice(bytes).map_err(|error| syntax(error.to_string()))?;
        if document.checksum != document.layout.checksum() {
            return Err(PlacementError::DocumentChecksum);
        }
        document.layout.check()?;
        Ok(document.layout)
    }

    /// XXH3-128 of the layout's compact JSON: spacing does not count, every value does.
    fn checksum(&self) -> String {
        let compact =
            serde_json::to_vec(self).expect("numbers, strings and lists always serialize");
        format!("{:032x}", xxh3_128(&compact))
    }

    /// All sets, in the order of their index.
    pub fn sets(&self) -> impl Iterator<Item = &SetLayout> {
        self.pools.iter().flat_map(|pool| &pool.sets)
    }

    /// The set of the registries.
    #[must_use]
    pub fn first_set(&self) -> &SetLayout {
        self.sets().next().expect("a checked layout has a set")
    }

    /// The set with this index.
    #[must_use]
    pub fn set(&self, index: SetIndex) -> Option<&SetLayout> {
        self.sets().nth(index.get())
    }

    /// The index of the node with this URL's host and port: a cluster that is started with TLS, or
    /// without, stays the same cluster.
    #[must_use]
    pub fn node(&self, url: &str) -> Option<NodeIndex> {
        let wanted = authority_of(url);
        let place = self.nodes.iter().position(|node| authority_of(&node.url) == wanted)?;
        Some(NodeIndex(place as u16))
    }

    /// The set of a key: its pool by weighted rendezvous, the set within by keyed hash of bucket id
    /// and placing name. Registries live in the first set, a set's membership in that set.
    ///
    /// # Errors
    /// [`CodecError`] when the name of an upload or part is malformed.
    pub fn set_of(&self, key: &RegisterKey) -> Result<&SetLayout, CodecError> {
        if matches!(key.space, Keyspace::Bucket | Keyspace::Document) {
            let named = membership::set_of_document(key).and_then(|set| self.set(set));
            return Ok(named.unwrap_or_else(|| self.first_set()));
        }
        let hash = self.hash(key)?;
        let weights = self.pools.iter().map(|pool| pool.weight);
        let place = hash.pool(weights).expect("a checked layout has a pool with weight");
        let sets = &self.pools[place].sets;
        Ok(&sets[hash.set(place as u16, sets.len())])
    }

    /// Where a key's shards live: shard `i` on `set.drives[order[i]]`. Depends on bucket and placing
    /// name only, so an object, its uploads and their parts share it.
    ///
    /// # Errors
    /// [`CodecError`] when the name of an upload or part is malformed.
    pub fn order(&self, set: &SetLayout, key: &RegisterKey) -> Result<Vec<usize>, CodecError> {
        Ok(self.hash(key)?.order(set.drives.len()))
    }

    fn hash(&self, key: &RegisterKey) -> Result<KeyHash, CodecError> {
        Ok(KeyHash::new(self.cluster, key.bucket, &key.placing_name()?))
    }
}
