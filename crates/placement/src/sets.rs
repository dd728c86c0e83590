//! Pools to erasure sets.

use holdfast_types::quorum::DRIVES_MAX;

use crate::{endpoint::Endpoint, error::PlacementError, volumes::PoolSpec};

/// The size of a pool's sets: the largest of 2 to 16 that divides the pool's drives and spreads evenly
/// over its hosts (INV-PLACE-3): each set has equally many drives on every host, or each host of a
/// group of hosts holds one. A pool of one drive is one set of one.
///
/// # Errors
/// [`PlacementError::SetSize`] when there is no such size, as for 17 hosts.
pub fn set_size(hosts: usize, drives_per_host: usize) -> Result<u8, PlacementError> {
    let drives = hosts * drives_per_host;
    if drives == 1 {
        return Ok(1);
    }
    let fits = |size: &u8| {
        let size = usize::from(*size);
        drives > 0
            && drives.is_multiple_of(size)
            && (size.is_multiple_of(hosts) || hosts.is_multiple_of(size))
    };
    let refused = PlacementError::SetSize { hosts, drives: drives_per_host };
    (2..=DRIVES_MAX).rev().find(fits).ok_or(refused)
}

/// The sets of a pool, each with its drives. Drives are dealt out host by host, so that consecutive
/// ones lie on different hosts whatever the order of the arguments was.
///
/// # Errors
/// [`PlacementError`] when hosts differ in drives or no set size fits.
pub fn plan_sets(pool: &PoolSpec) -> Result<Vec<Vec<Endpoint>>, PlacementError> {
    let nodes = pool.by_node();
    let Some((first, first_drives)) = nodes.first() else {
        return Err(PlacementError::NoVolumes);
    };
    let per_node = first_drives.len();
    if let Some((node, drives)) = nodes.iter().find(|(_, drives)| drives.len() != per_node) {
        return Err(PlacementError::Uneven {
            host: node.unwrap_or_default().to_owned(),
            have: drives.len(),
            other: first.unwrap_or_default().to_owned(),
            need: per_node,
        });
    }
    let size = usize::from(set_size(nodes.len(), per_node)?);
    let dealt: Vec<Endpoint> = (0..per_node)
        .flat_map(|drive| nodes.iter().map(move |(_, drives)| drives[drive].clone()))
        .collect();
    Ok(dealt.chunks(size).map(<[Endpoint]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::volumes::parse_volumes;

    fn pool(arguments: &[String]) -> PoolSpec {
        parse_volumes(arguments).expect("valid").remove(0)
    }

    /// Goal: all vectors of DESIGN section 8. Method: hosts x drives -> sets x size; the drives of each
    /// planned set are spread evenly over its hosts (INV-PLACE-3), and no drive is lost.
    #[test]
    fn the_vectors_of_the_design() {
        let vectors = [
            (4, 1, 1, 4),
            (4, 4, 1, 16),
            (3, 8, 2, 12),
            (4, 8, 2, 16),
            (5, 8, 4, 10),
            (6, 12, 6, 12),
            (7, 8, 4, 14),
            (8, 4, 2, 16),
            (8, 8, 4, 16),
            (9, 8, 8, 9),
            (10, 8, 8, 10),
            (12, 8, 8, 12),
            (16, 8, 8, 16),
            (20, 12, 24, 10),
        ];
        for (hosts, drives, sets, size) in vectors {
            assert_eq!(set_size(hosts, drives), Ok(size));
            let argument = if drives == 1 {
                format!("http://n{{1...{hosts}}}/d")
            } else {
                format!("http://n{{1...{hosts}}}/d{{1...{drives}}}")
            };
            let plan = plan_sets(&pool(&[argument])).expect("the vectors fit");
            assert_eq!(plan.len(), sets, "{hosts}x{drives}");
            for set in &plan {
                assert_eq!(set.len(), usize::from(size));
                let mut counts: HashMap<_, usize> = HashMap::new();
                for endpoint in set {
                    *counts.entry(endpoint.node.clone()).or_default() += 1;
                }
                let expected = usize::from(size).div_ceil(hosts);
                assert!(counts.values().all(|count| *count == expected), "{hosts}x{drives}");
            }
            let mut all: Vec<_> = plan.concat();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), hosts * drives);
        }
    }

    /// Goal: what cannot be spread is refused. Method: prime numbers of hosts above 16, a prime number
    /// of drives, hosts with different numbers of drives.
    #[test]
    fn pools_that_cannot_be_spread_are_refused() {
        for (hosts, drives) in [(17, 1), (17, 8), (17, 16), (19, 8), (1, 17), (0, 4)] {
            let expected = PlacementError::SetSize { hosts, drives };
            assert_eq!(set_size(hosts, drives), Err(expected));
        }
        let args = ["http://a/1", "http://a/2", "http://b/1"].map(str::to_owned);
        let uneven = plan_sets(&pool(&args));
        assert!(matches!(uneven, Err(PlacementError::Uneven { have: 1, need: 2, .. })));
    }

    /// Goal: a single node. Method: one path is 1x1, four folders are 1x4.
    #[test]
    fn single_nodes() {
        assert_eq!(plan_sets(&pool(&["/d".to_owned()])).expect("1x1")[0].len(), 1);
        let plan = plan_sets(&pool(&["/d{1...4}".to_owned()])).expect("1x4");
        assert_eq!((plan.len(), plan[0].len()), (1, 4));
    }

    /// Goal: the order of plain arguments does not matter for the spread. Method: a test cluster of
    /// 8 x 4 with its arguments grouped by node gives sets with two drives of each node.
    #[test]
    fn plain_arguments_are_dealt_out_host_by_host() {
        let argument = |i: usize| format!("http://127.0.0.1:{}/D/n{}/d{}", 1 + i / 4, i / 4, i % 4);
        let args: Vec<String> = (0..32).map(argument).collect();
        let plan = plan_sets(&pool(&args)).expect("8x4");
        assert_eq!(plan.len(), 2);
        assert_eq!(plan[0][0].to_string(), "http://127.0.0.1:1/D/n0/d0");
        assert_eq!(plan[0][1].to_string(), "http://127.0.0.1:2/D/n1/d0");
        assert_eq!(plan[1][0].to_string(), "http://127.0.0.1:1/D/n0/d2");
    }
}
