//! Free ports for daemons that will be stopped and started again.

use std::{fs, net::TcpListener};

use anyhow::{Result, bail};
use rand::Rng as _;

/// Ports below are often taken by services.
const LOWEST: u16 = 10_000;

/// `count` loopback ports that are free now and outside the range from which the kernel takes ports
/// for outgoing connections: while a node is down, one of the load's connections could get its port,
/// and the node could not start again.
pub fn free(count: usize) -> Result<Vec<u16>> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let below = candidates_end(&range);
    let mut random = rand::rng();
    let mut held = Vec::new();
    for _ in 0..10_000 {
        if held.len() == count {
            break;
        }
        let port = random.random_range(LOWEST..below);
        // Held until all are found, so that none is found twice.
        held.extend(TcpListener::bind(("127.0.0.1", port)).ok().map(|listener| (port, listener)));
    }
    if held.len() < count {
        bail!("found only {} free ports of {count} between {LOWEST} and {below}", held.len());
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

/// Where the kernel's own range begins, when that leaves enough room below.
fn candidates_end(range: &str) -> u16 {
    const LINUX_DEFAULT: u16 = 32_768;
    let first = range.split_ascii_whitespace().next().and_then(|text| text.parse().ok());
    first.filter(|first| *first >= LOWEST + 1_000).unwrap_or(LINUX_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: ports are distinct, free, and below the kernel's range. Method: take 16 and bind them.
    #[test]
    fn ports_are_free_and_distinct() {
        let ports = free(16).expect("a machine has 16 free ports");
        let listeners: Vec<_> =
            ports.iter().map(|port| TcpListener::bind(("127.0.0.1", *port))).collect();
        assert!(listeners.iter().filter(|listener| listener.is_ok()).count() >= 15, "{ports:?}");
        assert_eq!(candidates_end("32768\t60999\n"), 32_768);
        assert_eq!(candidates_end("15000 60999"), 15_000);
        assert_eq!(candidates_end("1024 65535"), 32_768);
        assert_eq!(candidates_end(""), 32_768);
    }
}
