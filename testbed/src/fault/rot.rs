//! Rot: blocks of a drive's files change by themselves, as media do it: a bit flips, a block reads as
//! zeros, two blocks stand in each other's place.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rand::Rng;

/// Bytes of a block.
const BLOCK: usize = 4096;

/// A pick that hits a block of zeros (pre-written, never used) is drawn again; after this many picks
/// for each rotten block the drive is taken to hold too little.
const PICKS_MAX: usize = 2_000;

/// Which files of a drive rot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Area {
    /// All of the below.
    All,
    /// Larger shards.
    Volumes,
    /// Log segments: records and small shards.
    Log,
    /// Sorted runs.
    Runs,
}

impl Area {
    const fn folders(self) -> &'static [&'static str] {
        match self {
            Self::All => &["volumes", "log", "runs"],
            Self::Volumes => &["volumes"],
            Self::Log => &["log"],
            Self::Runs => &["runs"],
        }
    }
}

/// Rots `count` blocks of the drive at `path` that are not zero; returns how many bytes' blocks were
/// changed (a swap changes two).
pub(super) fn rot(path: &Path, area: Area, count: usize, random: &mut impl Rng) -> Result<usize> {
    let files = files_of(path, area)?;
    let blocks: usize = files.iter().map(|(_, blocks)| blocks).sum();
    if blocks == 0 {
        bail!("{} holds nothing that can rot", path.display());
    }
    let (mut rotten, mut picks) = (0, 0);
    while rotten < count {
        picks += 1;
        if picks > count * PICKS_MAX {
            bail!("found only {rotten} blocks that hold anything, of {count}");
        }
        let (file, block) = pick(&files, random.random_range(0..blocks));
        rotten += rot_block(file, block, count - rotten, random)
            .with_context(|| format!("rot {}", path.display()))?;
    }
    files.iter().try_for_each(|(file, _)| file.sync_all())?;
    Ok(rotten)
}

/// The files with whole blocks, and how many each has.
fn files_of(path: &Path, area: Area) -> Result<Vec<(File, usize)>> {
    let mut files = Vec::new();
    for folder in area.folders() {
        // A drive without large shards has no volumes yet.
        let Ok(entries) = fs::read_dir(path.join(folder)) else { continue };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in entries {
            paths.push(entry?.path());
        }
        paths.sort();
        for path in paths {
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.with_context(|| format!("open {}", path.display()))?;
            let blocks = file.metadata()?.len() as usize / BLOCK;
            files.push((file, blocks));
        }
    }
    Ok(files)
}

/// The `number`th block of all.
fn pick(files: &[(File, usize)], mut number: usize) -> (&File, usize) {
    for (file, blocks) in files {
        if number < *blocks {
            return (file, number);
        }
        number -= blocks;
    }
    unreachable!("the number is below the sum of all")
}

/// Changes one block, or swaps it with its next one. How many blocks are other ones now: none when it
/// holds nothing.
fn rot_block(file: &File, block: usize, most: usize, random: &mut impl Rng) -> Result<usize> {
    let at = (block * BLOCK) as u64;
    let mut bytes = vec![0; BLOCK];
    file.read_exact_at(&mut bytes, at)?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    match random.random_range(0..3) {
        0 => {
            let bit = random.random_range(0..BLOCK * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        1 => bytes.fill(0),
        _ => {
            let mut next = vec![0; BLOCK];
            let whole = file.read_exact_at(&mut next, at + BLOCK as u64).is_ok();
            if whole && most >= 2 && next != bytes && next.iter().any(|byte| *byte != 0) {
                file.write_all_at(&next, at)?;
                file.write_all_at(&bytes, at + BLOCK as u64)?;
                return Ok(2);
            }
            bytes.fill(0);
        }
    }
    file.write_all_at(&bytes, at)?;
    Ok(1)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Goal: as many blocks as asked for are other ones afterwards, in the folders asked for and no
    /// others, and blocks that hold nothing stay. Method: a made-up drive; compare block by block.
    #[test]
    fn as_many_blocks_rot_as_asked_for() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path();
        let content = |n: usize| -> Vec<u8> {
            (0..64 * BLOCK)
                .map(|i| if (i / BLOCK).is_multiple_of(2) { 0 } else { (i / BLOCK + n) as u8 })
                .collect()
        };
        let names = ["volumes/1.vol", "log/1.seg", "runs/1.run", "identity"];
        for (n, name) in names.iter().enumerate() {
            let file = path.join(name);
            fs::create_dir_all(file.parent().expect("below the folder")).expect("create");
            fs::write(&file, content(n)).expect("write");
        }
        let changed = |n: usize| {
            let now = fs::read(path.join(names[n])).expect("read");
            let pairs = now
                .chunks(BLOCK)
                .zip(content(n).chunks(BLOCK).map(<[u8]>::to_vec))
                .collect::<Vec<_>>();
            pairs.iter().filter(|(now, was)| *now != was.as_slice()).count()
        };
        let mut random = ChaCha8Rng::seed_from_u64(7);
        assert_eq!(rot(path, Area::Volumes, 9, &mut random).expect("rot"), 9);
        assert_eq!([changed(0), changed(1), changed(2), changed(3)], [9, 0, 0, 0]);
        assert_eq!(rot(path, Area::All, 3, &mut random).expect("rot"), 3);
        assert_eq!(changed(3), 0, "the identity is no block of a shard");
        let error = rot(path, Area::Runs, 500, &mut random).expect_err("too little is there");
        assert!(error.to_string().contains("found only"), "{error}");
    }
}
