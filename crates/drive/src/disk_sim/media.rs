//! What is seen and what is on the media: blocks of files, and names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use holdfast_types::seam::Random;

use super::below;
use crate::disk::{BLOCK, BLOCK_U64, folder_of};

/// Bytes of the unit in which a torn block mixes old and new.
const SECTOR: usize = 512;

pub(super) type Block = Arc<[u8; BLOCK]>;

/// Bytes of one file.
#[derive(Debug, Default, Clone)]
pub(super) struct Inode {
    pub seen: BTreeMap<u64, Block>,
    pub media: BTreeMap<u64, Block>,
    pub dirty: BTreeSet<u64>,
    pub len: u64,
    pub media_len: u64,
}

/// A change of names that no folder sync has covered.
#[derive(Debug, Clone)]
pub(super) enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    pub(super) fn touches(&self, folder: &str) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path) => folder_of(path) == folder,
            Self::Rename(from, to) => folder_of(from) == folder || folder_of(to) == folder,
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl Inode {
    pub(super) fn crash(&mut self, random: &dyn Random) {
        let mut reaches = self.media_len;
        for block in std::mem::take(&mut self.dirty) {
            let blank: Block = Arc::new([0; BLOCK]);
            let new = self.seen.get(&block).unwrap_or(&blank).clone();
            let old = self.media.get(&block).unwrap_or(&blank).clone();
            let kept = match below(random, 8) {
                0..=2 => continue,
                3..=6 => new,
                _ => torn(&old, &new, random),
            };
            reaches = reaches.max((block + 1) * BLOCK_U64);
            self.media.insert(block, kept);
        }
        self.media_len = reaches.min(self.len.max(self.media_len));
        self.len = self.media_len;
        let blocks = self.len.div_ceil(BLOCK_U64);
        self.media.retain(|block, _| *block < blocks);
        self.seen = self.media.clone();
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (block, within) = (at / BLOCK_U64, (at % BLOCK_U64) as usize);
            let step = rest.len().min(BLOCK - within);
            let (head, tail) = rest.split_at(step);
            self.dirty.insert(block);
            if step == BLOCK && head.iter().all(|byte| *byte == 0) {
                self.seen.remove(&block);
            } else {
                let target = self.seen.entry(block).or_insert_with(|| Arc::new([0; BLOCK]));
                Arc::make_mut(target)[within..within + step].copy_from_slice(head);
            }
            at += step as u64;
            rest = tail;
        }
        self.len = self.len.max(at);
    }

    pub(super) fn sync(&mut self) {
        for block in std::mem::take(&mut self.dirty) {
            match self.seen.get(&block) {
                Some(bytes) => self.media.insert(block, bytes.clone()),
                None => self.media.remove(&block),
            };
        }
        self.media_len = self.len;
    }
}

/// New sectors up to a random one, or from it on; the old ones elsewhere.
fn torn(old: &Block, new: &Block, random: &dyn Random) -> Block {
    let cut = SECTOR * below(random, (BLOCK / SECTOR) as u64 + 1) as usize;
    let (head, tail) = if below(random, 2) == 0 { (new, old) } else { (old, new) };
    let mut mixed = **head;
    mixed[cut..].copy_from_slice(&tail[cut..]);
    Arc::new(mixed)
}
