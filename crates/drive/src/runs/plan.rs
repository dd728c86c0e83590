//! Which runs to merge: by size tiers.

use std::ops::Range;

/// Runs of one tier that are merged into one: each item is written about log4(items) times.
pub const FAN_IN: usize = 4;

/// A run belongs to the window when it is at most this many times what the newer ones of the window
/// have together.
const TIER_RATIO: u64 = 2;

/// More runs than this make every look-up dear: the cheapest window is merged whatever the tiers.
pub const RUNS_MAX: usize = 24;

/// Chooses a window of adjoining runs to merge; `sizes` are bytes, newest first. `None` when nothing
/// is worth merging. The window has at least two runs.
///
/// Windows adjoin because a merged run takes the place of its inputs in age.
#[must_use]
pub fn plan_merge(sizes: &[u64]) -> Option<Range<usize>> {
    let tiered = (0..sizes.len()).map(|start| tier_window(sizes, start));
    if let Some(window) = tiered.into_iter().find(|window| window.len() >= FAN_IN) {
        return Some(window);
    }
    if sizes.len() <= RUNS_MAX {
        return None;
    }
    let cost = |start: &usize| sizes[*start..start + FAN_IN].iter().sum::<u64>();
    let start = (0..=sizes.len() - FAN_IN).min_by_key(cost)?;
    Some(start..start + FAN_IN)
}

/// The longest window from `start` towards older runs in which each run fits the ones before it.
fn tier_window(sizes: &[u64], start: usize) -> Range<usize> {
    let mut sum = sizes[start];
    let mut end = start + 1;
    while end < sizes.len() && sizes[end] <= sum.saturating_mul(TIER_RATIO) {
        sum = sum.saturating_add(sizes[end]);
        end += 1;
    }
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: equal runs merge when there are four, a large old one is left alone. Method: tables.
    #[test]
    fn tiers() {
        assert_eq!(plan_merge(&[]), None);
        assert_eq!(plan_merge(&[10, 10, 10]), None);
        assert_eq!(plan_merge(&[10, 10, 10, 10]), Some(0..4));
        assert_eq!(plan_merge(&[10, 10, 10, 10, 1000]), Some(0..4));
        assert_eq!(plan_merge(&[1, 100, 100, 100, 100, 9000]), Some(1..5));
        assert_eq!(plan_merge(&[1, 10, 100, 1000, 10_000]), None);
    }

    /// Goal: the number of runs and the bytes written stay bounded. Method: 2,000 equal flushes.
    #[test]
    fn runs_stay_few_and_writes_amplify_little() {
        let mut sizes: Vec<u64> = Vec::new();
        let mut written = 0_u64;
        for _ in 0..2_000 {
            sizes.insert(0, 100);
            while let Some(window) = plan_merge(&sizes) {
                assert!(window.len() >= 2);
                let merged = sizes[window.clone()].iter().sum();
                written += merged;
                sizes.splice(window, [merged]);
            }
            assert!(sizes.len() <= RUNS_MAX);
        }
        assert_eq!(sizes.iter().sum::<u64>(), 200_000);
        assert!(written / 200_000 <= 12, "each byte was merged {} times", written / 200_000);
    }
}
