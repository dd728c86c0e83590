//! Blocks of a drive's files that hold bytes of live shards, and the damage done to them.
//!
//! A block that holds something dead can rot unseen, and rightly so. Here each block is known to be live: nothing was
//! deleted since the cluster was made, so that in volumes whatever lies behind an extent's header belongs to its
//! shard; in the log, a block that is a piece of an object's bytes from its first byte to its last is part of a shard's
//! payload. Headers are left alone: they are hints for salvage, and no scrub reads them (ADR 0022).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use holdfast_drive::volume::extent::ExtentHeader;
use rand::{Rng, seq::SliceRandom as _};
use serde::Serialize;

use crate::bench::content::Pieces;

/// Bytes of a block.
const BLOCK: usize = 4096;

/// A file is read so many bytes at a time.
const READ_BYTES: usize = 256 * BLOCK;

/// A block of a live shard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Victim {
    file: PathBuf,
    block: usize,
    /// Tells the drive's shards apart.
    shard: String,
}

/// What was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Damage {
    /// Blocks of which a bit flipped.
    pub flipped: usize,
    /// Blocks that read as zeros.
    pub zeroed: usize,
    /// Blocks that stand in each other's place.
    pub swapped: usize,
    /// Of all these, blocks of the log; the others are of volumes.
    pub in_log: usize,
    /// Shards they are of.
    #[serde(skip)]
    pub shards: BTreeSet<String>,
}

impl Damage {
    /// Blocks that are other ones now.
    pub const fn blocks(&self) -> usize {
        self.flipped + self.zeroed + self.swapped
    }

    /// Adds what was done to another drive.
    pub fn add(&mut self, other: Self) {
        self.flipped += other.flipped;
        self.zeroed += other.zeroed;
        self.swapped += other.swapped;
        self.in_log += other.in_log;
        self.shards.extend(other.shards);
    }
}

/// Blocks of larger shards of the drive at `path`.
pub fn in_volumes(path: &Path) -> Result<Vec<Victim>> {
    let (mut found, mut owners) = (Vec::new(), BTreeMap::new());
    for file in files(&path.join("volumes"))? {
        let mut shard: Option<String> = None;
        each_block(&file, |block, bytes| {
            if let Ok(header) = ExtentHeader::decode(bytes) {
                let owner = format!("{} {}", path.display(), header.operation);
                owners.insert(owner.clone(), header.key);
                shard = Some(owner);
            } else if let Some(shard) = shard.as_ref().filter(|_| !is_zero(bytes)) {
                let (file, shard) = (file.clone(), shard.clone());
                found.push(Victim { file, block, shard });
            }
        })?;
    }
    // An upload that was given up leaves an extent that nobody reads: its key would be there twice.
    let keys: BTreeSet<_> = owners.values().map(|key| key.name.clone()).collect();
    if keys.len() != owners.len() {
        bail!("{} holds {} bodies of {} keys", path.display(), owners.len(), keys.len());
    }
    Ok(found)
}

/// Blocks of small shards of the drive at `path`.
pub fn in_log(path: &Path, pieces: &Pieces) -> Result<Vec<Victim>> {
    let mut found: BTreeMap<usize, Vec<Victim>> = BTreeMap::new();
    for file in files(&path.join("log"))? {
        // A shard's bytes follow each other in the pad as they do in the log.
        let (mut first, mut follows) = (0, None);
        each_block(&file, |block, bytes| {
            let Some(at) = pieces.find(bytes) else { return };
            if follows != Some((block, at)) {
                first = block;
            }
            follows = Some((block + 1, at + BLOCK));
            let shard = format!("{} {first}", file.display());
            found.entry(at).or_default().push(Victim { file: file.clone(), block, shard });
        })?;
    }
    // What was moved to another segment is there twice: one of them is dead.
    Ok(found.into_values().filter(|twins| twins.len() == 1).flatten().collect())
}

/// Changes `count` of `victims`.
pub fn damage(mut victims: Vec<Victim>, count: usize, random: &mut impl Rng) -> Result<Damage> {
    let all: BTreeSet<Victim> = victims.iter().cloned().collect();
    victims.shuffle(random);
    let mut done: BTreeSet<Victim> = BTreeSet::new();
    let (mut damage, mut touched) = (Damage::default(), BTreeMap::new());
    for victim in victims {
        if damage.blocks() == count {
            break;
        }
        if done.contains(&victim) {
            continue;
        }
        let next = Victim { block: victim.block + 1, ..victim.clone() };
        let twin = damage.blocks() + 2 <= count && all.contains(&next) && !done.contains(&next);
        let file = match touched.entry(victim.file.clone()) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => place.insert(open(&victim.file)?),
        };
        let at = (victim.block * BLOCK) as u64;
        match random.random_range(0..3) {
            0 => {
                flip(file, at, random)?;
                damage.flipped += 1;
            }
            1 if twin && swap(file, at)? => {
                damage.swapped += 2;
                done.insert(next);
            }
            _ => {
                file.write_all_at(&[0; BLOCK], at)?;
                damage.zeroed += 1;
            }
        }
        damage.shards.insert(victim.shard.clone());
        done.insert(victim);
    }
    if damage.blocks() != count {
        bail!("only {} blocks hold live bytes, of {count}", all.len());
    }
    touched.values().try_for_each(File::sync_all)?;
    Ok(damage)
}

/// Flips a bit of a byte that is not zero: what lies behind a shard's end is.
fn flip(file: &File, at: u64, random: &mut impl Rng) -> Result<()> {
    let mut bytes = [0; BLOCK];
    file.read_exact_at(&mut bytes, at)?;
    let live: Vec<usize> = (0..BLOCK).filter(|place| bytes[*place] != 0).collect();
    let place = *live.get(random.random_range(0..live.len().max(1))).context("a block of zeros")?;
    bytes[place] ^= 1 << random.random_range(0..8);
    file.write_all_at(&bytes, at)?;
    Ok(())
}

/// Swaps a block with the next; false when they hold the same.
fn swap(file: &File, at: u64) -> Result<bool> {
    let (mut one, mut other) = ([0; BLOCK], [0; BLOCK]);
    file.read_exact_at(&mut one, at)?;
    file.read_exact_at(&mut other, at + BLOCK as u64)?;
    if one == other {
        return Ok(false);
    }
    file.write_all_at(&other, at)?;
    file.write_all_at(&one, at + BLOCK as u64)?;
    Ok(true)
}

fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.with_context(|| format!("open {}", path.display()))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder);
    let entries = entries.with_context(|| format!("read {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // A file that is still being made has another name until it is whole.
        if path.extension().is_some_and(|end| end == "vol" || end == "seg") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn each_block(path: &Path, mut look: impl FnMut(usize, &[u8])) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let blocks = file.metadata()?.len() as usize / BLOCK;
    let (mut buffer, mut block) = (vec![0; READ_BYTES], 0);
    while block < blocks {
        let now = (blocks - block).min(READ_BYTES / BLOCK);
        let piece = &mut buffer[..now * BLOCK];
        file.read_exact_at(piece, (block * BLOCK) as u64)?;
        piece.chunks_exact(BLOCK).zip(block..).for_each(|(bytes, at)| look(at, bytes));
        block += now;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use holdfast_types::{BucketId, DriveId, Geometry, OperationId, RegisterKey, ShardIndex};
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::bench::content::Content;

    fn header(operation: u128, key: &str) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        let header = ExtentHeader {
            operation: OperationId(operation),
            drive: DriveId(1),
            shard: ShardIndex(0),
            ordinal: 0,
            geometry: Geometry::EMPTY,
            key: RegisterKey::object(BucketId(1), key.as_bytes().to_vec()),
        };
        header.write_to(&mut block);
        block
    }

    /// Goal: only blocks of live shards are victims, and as many as asked for are other ones afterwards. Method:
    /// a made-up drive: two shards in a volume with zeros around, one in the log, its twin, and what is no shard.
    #[test]
    fn only_live_blocks_are_hurt() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path();
        let content = Content::new(5);
        let bytes = |key: &str, blocks: usize| {
            let mut window = content.of(key, (blocks * BLOCK) as u64);
            let mut out = Vec::new();
            while let Some(piece) = window.next_piece() {
                out.extend_from_slice(&piece);
            }
            out
        };
        for name in ["volumes", "log"] {
            fs::create_dir(path.join(name)).expect("create");
        }
        let zeros = vec![0; 2 * BLOCK];
        let volume = [
            zeros.clone(),
            header(1, "a"),
            bytes("a", 9),
            zeros.clone(),
            header(2, "b"),
            bytes("b", 3),
        ];
        let volume_file = path.join("volumes/1.vol");
        fs::write(&volume_file, volume.concat()).expect("write");
        let log = [vec![9; BLOCK + 100], bytes("c", 4), vec![7; BLOCK - 100], bytes("d", 2)];
        fs::write(path.join("log/1.seg"), log.concat()).expect("write");
        fs::write(path.join("log/2.seg"), bytes("d", 2)).expect("write");
        let victims = in_volumes(path).expect("scan");
        assert_eq!(victims.len(), 12);
        let small = in_log(path, &Pieces::of(&content)).expect("scan");
        // Three whole blocks of c, which begins within one; d is there twice.
        assert_eq!(small.iter().map(|victim| victim.block).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(small.iter().map(|victim| &victim.shard).collect::<BTreeSet<_>>().len(), 1);
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let done = damage(victims.clone(), 10, &mut random).expect("damage");
        assert_eq!((done.blocks(), done.shards.len()), (10, 2));
        let now = fs::read(&volume_file).expect("read");
        let was = volume.concat();
        let changed = now.chunks(BLOCK).zip(was.chunks(BLOCK)).filter(|(now, was)| now != was);
        assert_eq!(changed.count(), 10);
        assert!(damage(small, 4, &mut random).is_err(), "more than there is");
        fs::write(path.join("volumes/2.vol"), [header(3, "a"), bytes("x", 1)].concat())
            .expect("write");
        assert!(in_volumes(path).is_err(), "a body that nobody reads");
    }
}
