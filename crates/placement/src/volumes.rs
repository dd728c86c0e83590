//! Volume arguments to pools.
//!
//! An argument with ranges is one pool. Arguments without ranges together form one pool, a node being
//! host and port: that is how a test cluster puts several nodes on one machine. Paths without hosts
//! are drives of a single node.

use std::collections::{HashMap, HashSet};

use crate::{
    endpoint::{Endpoint, Scheme, host_of},
    error::PlacementError,
    notation::{ENDPOINTS_MAX, expand, has_range},
};

/// The drives of one pool, as named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// In the order of the arguments and their expansion.
    pub endpoints: Vec<Endpoint>,
}

impl PoolSpec {
    /// The pool's nodes in order of appearance, each with its drives in order of appearance.
    #[must_use]
    pub fn by_node(&self) -> Vec<(Option<&str>, Vec<&Endpoint>)> {
        let mut nodes: Vec<(Option<&str>, Vec<&Endpoint>)> = Vec::new();
        let mut places = HashMap::new();
        for endpoint in &self.endpoints {
            let node = endpoint.node.as_deref();
            let place = *places.entry(node).or_insert_with(|| {
                nodes.push((node, Vec::new()));
                nodes.len() - 1
            });
            nodes[place].1.push(endpoint);
        }
        nodes
    }

    /// Makes the relative paths of a single node absolute; `base` is the absolute working directory.
    pub fn make_absolute(&mut self, base: &str) {
        let base = base.trim_end_matches('/');
        for endpoint in self.endpoints.iter_mut().filter(|e| !e.path.starts_with('/')) {
            let path = endpoint.path.strip_prefix("./").unwrap_or(&endpoint.path);
            endpoint.path = format!("{base}/{path}");
        }
    }
}

/// Reads the volume arguments of a node into pools: at least one, each with at least one drive.
///
/// # Errors
/// [`PlacementError`]: a line of cause, and a line of cure by [`PlacementError::cure`].
pub fn parse_volumes(args: &[String]) -> Result<Vec<PoolSpec>, PlacementError> {
    if args.is_empty() {
        return Err(PlacementError::NoVolumes);
    }
    let (patterns, plain): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|argument| has_range(argument));
    if let (Some(pattern), Some(plain)) = (patterns.first(), plain.first()) {
        let (pattern, plain) = ((*pattern).clone(), (*plain).clone());
        return Err(PlacementError::MixedNotation { pattern, plain });
    }
    let pools = if patterns.is_empty() {
        let endpoints: Result<_, _> = plain.iter().map(|a| Endpoint::parse(a)).collect();
        vec![PoolSpec { endpoints: endpoints? }]
    } else {
        patterns.iter().map(|pattern| parse_pattern(pattern)).collect::<Result<_, _>>()?
    };
    check_together(&pools)?;
    Ok(pools)
}

/// One argument with ranges.
fn parse_pattern(pattern: &str) -> Result<PoolSpec, PlacementError> {
    let endpoints: Result<_, _> = expand(pattern)?.iter().map(|a| Endpoint::parse(a)).collect();
    Ok(PoolSpec { endpoints: endpoints? })
}

/// What no argument shows alone: duplicates, hosts for some drives only, too many drives.
fn check_together(pools: &[PoolSpec]) -> Result<(), PlacementError> {
    let all = || pools.iter().flat_map(|pool| &pool.endpoints);
    if all().count() > ENDPOINTS_MAX {
        let argument = all().last().map(ToString::to_string).unwrap_or_default();
        return Err(PlacementError::TooMany { argument, max: ENDPOINTS_MAX });
    }
    let (urls, paths): (Vec<&Endpoint>, Vec<&Endpoint>) = all().partition(|e| e.node.is_some());
    if let (Some(url), Some(path)) = (urls.first(), paths.first()) {
        let (url, path) = (url.to_string(), path.to_string());
        return Err(PlacementError::MixedHosts { url, path });
    }
    let scheme = |e: &&&Endpoint| e.node.as_deref().and_then(Scheme::of_url) == Some(Scheme::Https);
    let (secure, open): (Vec<&Endpoint>, Vec<&Endpoint>) = urls.iter().partition(scheme);
    if let (Some(https), Some(http)) = (secure.first(), open.first()) {
        let (http, https) = (http.to_string(), https.to_string());
        return Err(PlacementError::MixedSchemes { http, https });
    }
    let mut endpoints = HashSet::new();
    let mut folders = HashMap::new();
    for endpoint in all() {
        if !endpoints.insert(endpoint) {
            return Err(PlacementError::Duplicate { endpoint: endpoint.to_string() });
        }
        let Some(node) = &endpoint.node else { continue };
        let host = host_of(node);
        if folders.insert((host, &endpoint.path), node).is_some_and(|other| other != node) {
            let (host, path) = (host.to_owned(), endpoint.path.clone());
            return Err(PlacementError::SharedFolder { host, path });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Vec<PoolSpec>, PlacementError> {
        parse_volumes(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    fn texts(pool: &PoolSpec) -> Vec<String> {
        pool.endpoints.iter().map(ToString::to_string).collect()
    }

    /// Goal: DESIGN section 8: one argument a pool, hosts vary fastest. Method: two pools.
    #[test]
    fn one_argument_with_ranges_is_one_pool() {
        let pools =
            parse(&["http://n{1...2}:9000/d{1...2}", "http://m{01...02}/e"]).expect("valid");
        let first = ["http://n1:9000/d1", "http://n2:9000/d1", "http://n1:9000/d2"];
        assert_eq!(texts(&pools[0])[..3], first);
        assert_eq!(texts(&pools[1]), ["http://m01:9000/e", "http://m02:9000/e"]);
    }

    /// Goal: plain arguments are one pool, a node being host and port; paths are one node. Method:
    /// a test cluster's arguments, and a single node's.
    #[test]
    fn plain_arguments_are_one_pool() {
        let cluster = [
            "http://127.0.0.1:1/D/n1/d1",
            "http://127.0.0.1:1/D/n1/d2",
            "http://127.0.0.1:2/D/n2/d1",
        ];
        let pools = parse(&cluster).expect("valid");
        assert_eq!(pools.len(), 1);
        let nodes = pools[0].by_node();
        let counts: Vec<_> = nodes.iter().map(|(node, drives)| (*node, drives.len())).collect();
        assert_eq!(counts, [(Some("http://127.0.0.1:1"), 2), (Some("http://127.0.0.1:2"), 1)]);
        let mut single = parse(&["./data/d{1...4}"]).expect("valid");
        single[0].make_absolute("/home/x/");
        assert_eq!(texts(&single[0])[0], "/home/x/data/d1");
        assert_eq!(single[0].by_node().len(), 1);
        assert_eq!(parse(&["/a", "/b"]).expect("valid")[0].by_node()[0].1.len(), 2);
        assert_eq!(parse(&["/one"]).expect("valid")[0].endpoints.len(), 1);
    }

    /// Goal: refusals that concern several arguments. Method: one vector a reason; cause and cure are
    /// single lines.
    #[test]
    fn contradictions_are_refused() {
        let vectors: [(&[&str], &str); 9] = [
            (&[], "NoVolumes"),
            (&["/d{1...2}", "/e"], "MixedNotation"),
            (&["/d", "http://a/d"], "MixedHosts"),
            (&["/d{1...2}", "http://a/d{1...2}"], "MixedHosts"),
            (&["http://a/d", "https://a/d"], "MixedSchemes"),
            (&["/d", "/d/"], "Duplicate"),
            (&["http://a/d", "http://A:9000/d"], "Duplicate"),
            (&["http://a/d{1...2}", "http://a/d{2...3}"], "Duplicate"),
            (&["http://a:1/d", "http://a:2/d"], "SharedFolder"),
        ];
        for (args, variant) in vectors {
            let error = parse(args).expect_err(variant);
            assert!(format!("{error:?}").starts_with(variant), "{args:?}: {error:?}");
            assert!(!error.to_string().contains('\n') && !error.cure().contains('\n'));
        }
        let many: Vec<String> = (0..=ENDPOINTS_MAX).map(|i| format!("/d/{i}")).collect();
        assert!(matches!(parse_volumes(&many), Err(PlacementError::TooMany { .. })));
    }
}
