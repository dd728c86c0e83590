//! Which of the cluster's nodes is this process? Pure: addresses and names are looked up before.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use holdfast_placement::endpoint::{Scheme, authority_of};

use crate::{config::Listen, failure::Failure};

/// What the machine knows of addresses.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// The machine's own.
    pub own: Vec<IpAddr>,
    /// What each host name of the arguments stands for; empty when it is not known.
    pub of_host: HashMap<String, Vec<IpAddr>>,
}

/// Host and port of a node's URL.
///
/// # Errors
/// [`Failure`] when it is no such URL; those of the arguments were checked.
pub fn host_and_port(url: &str) -> Result<(String, u16), Failure> {
    let split = Scheme::of_url(url).and_then(|_| authority_of(url).rsplit_once(':'));
    let parsed = split.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parsed.ok_or_else(|| {
        Failure::new(format!("read node URL {url}: no host and port"), "write http://host:port")
    })?;
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// The place of this process in `urls`: the node whose port is the listener's and whose host is an
/// address of this machine (the listener's own address, when it has one).
///
/// # Errors
/// [`Failure`] when no node fits, or more than one.
pub fn find_me(urls: &[String], listen: Listen, known: &Addresses) -> Result<usize, Failure> {
    let mut mine = Vec::new();
    for (place, url) in urls.iter().enumerate() {
        let (host, port) = host_and_port(url)?;
        if port == listen.port && is_mine(&host, listen, known) {
            mine.push(place);
        }
    }
    let port = listen.port;
    match mine[..] {
        [place] => Ok(place),
        [] => Err(Failure::new(
            format!("find this node among {}: none is at port {port} of this machine", some(urls)),
            "check the hosts and ports of the volumes, that the names resolve here, and --address",
        )),
        [first, second, ..] => Err(Failure::new(
            format!("find this node: {} and {} are both it", urls[first], urls[second]),
            "name every node once, or give each its own address with --address IP:PORT",
        )),
    }
}

fn is_mine(host: &str, listen: Listen, known: &Addresses) -> bool {
    let literal = host.parse::<IpAddr>().ok();
    let named = || known.of_host.get(host).cloned().unwrap_or_default();
    let addresses = literal.map_or_else(named, |ip| vec![ip]);
    addresses.iter().any(|address| match listen.ip {
        Some(ip) => ip == *address,
        None => known.own.contains(address) || is_loopback(*address),
    })
}

/// All of 127.0.0.0/8 is this machine, though interfaces show one address of it.
fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == Ipv4Addr::LOCALHOST.octets()[0],
        IpAddr::V6(v6) => v6.is_loopback(),
    }
}

/// The first few URLs.
fn some(urls: &[String]) -> String {
    match urls {
        [first, _, _, _, .., last] => format!("{first} ... {last}"),
        few => few.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &[&str]) -> Vec<String> {
        list.iter().map(|url| (*url).to_owned()).collect()
    }

    fn listen(ip: Option<&str>, port: u16) -> Listen {
        Listen { ip: ip.map(|ip| ip.parse().expect("an address")), port }
    }

    fn known() -> Addresses {
        let ip = |text: &str| text.parse().expect("an address");
        let of_host = [("n1", "10.0.0.1"), ("n2", "10.0.0.2"), ("n3", "10.0.0.3")];
        Addresses {
            own: vec![ip("127.0.0.1"), ip("10.0.0.2"), ip("fe80::2")],
            of_host: of_host.map(|(host, address)| (host.to_owned(), vec![ip(address)])).into(),
        }
    }

    /// Goal: a node finds itself by name and address, by port alone on one machine, and says so when it
    /// cannot. Method: clusters of hosts, of ports, of both.
    #[test]
    fn a_node_is_found_by_address_and_port() {
        let hosts = urls(&["http://n1:9000", "http://n2:9000", "http://n3:9000"]);
        assert_eq!(find_me(&hosts, listen(None, 9000), &known()), Ok(1));
        assert_eq!(find_me(&hosts, listen(Some("10.0.0.3"), 9000), &known()), Ok(2));
        let ports = urls(&["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.9:3"]);
        assert_eq!(find_me(&ports, listen(Some("127.0.0.1"), 2), &known()), Ok(1));
        assert_eq!(find_me(&ports, listen(None, 3), &known()), Ok(2));
        let secure = urls(&["https://n1:9000", "https://n2:9000"]);
        assert_eq!(find_me(&secure, listen(None, 9000), &known()), Ok(1));
        let six = urls(&["http://[fe80::1]:9000", "http://[fe80::2]:9000"]);
        assert_eq!(find_me(&six, listen(None, 9000), &known()), Ok(1));
    }

    #[test]
    fn no_node_and_two_nodes_are_refused() {
        let hosts = urls(&["http://n1:9000", "http://n3:9000", "http://lost:9000"]);
        let failure = find_me(&hosts, listen(None, 9000), &known()).expect_err("not among them");
        assert!(failure.cause.contains("none is at port 9000"), "{failure}");
        let twice = urls(&["http://n2:9000", "http://10.0.0.2:9000"]);
        let failure = find_me(&twice, listen(None, 9000), &known()).expect_err("twice");
        assert!(failure.cause.contains("both"), "{failure}");
        assert!(host_and_port("ftp://x").is_err());
    }
}
