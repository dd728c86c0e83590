//! Which volume goes back to the file system, and which is emptied for it. Pure.
//!
//! INV-VOL-3: the volume with the highest number always stays: the next one gets the number behind it, so that no
//! number is ever used twice. It is the pre-written spare, too, for blocks are taken from the lowest
//! volume first.

/// How full a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fill {
    /// The volume.
    pub volume: u32,
    /// Its blocks.
    pub blocks: u32,
    /// Those that are taken.
    pub taken: u32,
    /// Nothing is put there any more: it is being emptied.
    pub closed: bool,
}

/// A volume is worth emptying when at most this share of it is taken: less is moved than is gained.
const SPARSE_PERCENT: u64 = 60;

/// The same when the file system has nothing left for another volume.
const SPARSE_PERCENT_TIGHT: u64 = 90;

fn largest(fills: &[Fill]) -> u64 {
    fills.iter().map(|fill| u64::from(fill.blocks)).max().unwrap_or(0)
}

/// Blocks that can be had without `volume`.
fn open_without(fills: &[Fill], volume: u32) -> u64 {
    let open = fills.iter().filter(|fill| !fill.closed && fill.volume != volume);
    open.map(|fill| u64::from(fill.blocks - fill.taken)).sum()
}

/// Blocks that stay free when a volume goes: a whole one, far more than makes a new one be written; a
/// quarter of one when the file system is short of space.
fn kept_free(fills: &[Fill], tight: bool) -> u64 {
    if tight { largest(fills) / 4 } else { largest(fills) }
}

/// Whether another volume is due: less than a quarter of the largest one's size is free.
#[must_use]
pub fn wants_more(fills: &[Fill]) -> bool {
    let free: u64 = fills.iter().map(|fill| u64::from(fill.blocks - fill.taken)).sum();
    free * 4 < largest(fills)
}

/// A volume that holds nothing and is not missed.
#[must_use]
pub fn surplus(fills: &[Fill], tight: bool) -> Option<u32> {
    let (_last, others) = fills.split_last()?;
    let empty = others.iter().filter(|fill| fill.taken == 0);
    let enough = |fill: &&Fill| open_without(fills, fill.volume) >= kept_free(fills, tight);
    empty.filter(enough).map(|fill| fill.volume).next()
}

/// The volume to be emptied: the sparsest whose shards fit the others with room to spare.
#[must_use]
pub fn victim(fills: &[Fill], tight: bool, barred: impl Fn(u32) -> bool) -> Option<u32> {
    let percent = if tight { SPARSE_PERCENT_TIGHT } else { SPARSE_PERCENT };
    let (_last, others) = fills.split_last()?;
    let sparse = others.iter().filter(|fill| {
        let taken = u64::from(fill.taken);
        taken > 0
            && !barred(fill.volume)
            && taken * 100 <= u64::from(fill.blocks) * percent
            && open_without(fills, fill.volume) >= taken + kept_free(fills, tight)
    });
    let share = |fill: &&Fill| (u64::from(fill.taken) << 32) / u64::from(fill.blocks.max(1));
    sparse.min_by_key(share).map(|fill| fill.volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fills(taken: &[u32]) -> Vec<Fill> {
        let fill = |(n, taken): (usize, &u32)| Fill {
            volume: n as u32 + 1,
            blocks: 100,
            taken: *taken,
            closed: false,
        };
        taken.iter().enumerate().map(fill).collect()
    }

    /// Goal: what goes is empty, not the last, and a whole volume's worth stays free; what is emptied
    /// is sparse and fits the rest. Method: cases by hand, one for each clause.
    #[test]
    fn volumes_go_when_they_are_not_missed() {
        assert_eq!(surplus(&fills(&[0, 0, 0]), false), Some(1));
        assert_eq!(surplus(&fills(&[100, 0, 0]), false), Some(2));
        assert_eq!(surplus(&fills(&[100, 0, 1]), false), None, "99 of 100 blocks would stay free");
        assert_eq!(surplus(&fills(&[100, 0, 1]), true), Some(2));
        assert_eq!(surplus(&fills(&[100, 100, 0]), false), None, "the last one stays");
        assert_eq!(surplus(&[], false), None);

        let none = |_| false;
        assert_eq!(victim(&fills(&[50, 40, 50, 0]), false, none), Some(2));
        assert_eq!(victim(&fills(&[50, 40, 50, 0]), false, |v| v == 2), Some(1));
        assert_eq!(victim(&fills(&[50, 50, 50]), false, none), None, "100 have to stay free");
        assert_eq!(victim(&fills(&[50, 50, 50]), true, none), Some(1));
        assert_eq!(victim(&fills(&[80, 80, 80, 0]), false, none), None, "too much to move");
        assert_eq!(victim(&fills(&[80, 80, 80, 0]), true, none), Some(1));
        let mut closed = fills(&[50, 40, 50, 0]);
        closed[3].closed = true;
        assert_eq!(victim(&closed, false, none), None, "nothing is put into a closed one");

        assert!(wants_more(&fills(&[100, 76])));
        assert!(!wants_more(&fills(&[100, 75])));
        assert!(!wants_more(&[]), "the first volume comes with the first upload");
    }
}
