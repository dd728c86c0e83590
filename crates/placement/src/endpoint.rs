//! One drive of one node, as an operator names it.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::error::PlacementError;

/// The port of a node whose URL names none: the default of `--address`.
pub const DEFAULT_PORT: u16 = 9000;

/// Bytes of a path at most: Linux's PATH_MAX, less the room for our own files' names.
pub const PATH_BYTES_MAX: usize = 3_072;

/// A drive: the node's URL, or none on a single node, and the folder there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// `http://host:port`, or `https://` when the nodes speak TLS: host in lower case, port always
    /// there. `None`: this node, the only one.
    pub node: Option<String>,
    /// The folder, without a trailing slash. Absolute when there is a node URL.
    pub path: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.node.as_deref().unwrap_or_default())?;
        f.write_str(&self.path)
    }
}

impl Endpoint {
    /// Reads `http://host[:port]/path`, `https://host[:port]/path` or a path. Ranges have been expanded
    /// before.
    ///
    /// # Errors
    /// [`PlacementError`] naming the part that is refused.
    pub fn parse(argument: &str) -> Result<Self, PlacementError> {
        let Some((scheme, rest)) = argument.split_once("://") else {
            return Ok(Self { node: None, path: parse_path(argument, argument)? });
        };
        let Some(scheme) = Scheme::parse(scheme) else {
            let (argument, scheme) = (argument.to_owned(), scheme.to_owned());
            return Err(PlacementError::Scheme { argument, scheme });
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let node = parse_authority(scheme, authority).ok_or_else(|| PlacementError::Host {
            argument: argument.to_owned(),
            host: authority.to_owned(),
        })?;
        if path.contains(['?', '#']) {
            let cause = "a query or fragment stands behind the path";
            return Err(PlacementError::Path { argument: argument.to_owned(), cause });
        }
        Ok(Self { node: Some(node), path: parse_path(argument, path)? })
    }
}

/// How a node is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// In the clear.
    #[default]
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// Its name in URLs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The scheme of a node's URL.
    #[must_use]
    pub fn of_url(url: &str) -> Option<Self> {
        url.split_once("://").and_then(|(scheme, _)| Self::parse(scheme))
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|it| text.eq_ignore_ascii_case(it.name()))
    }
}

/// `host:port` of a node's URL: what makes it that node, however it is spoken to.
#[must_use]
pub fn authority_of(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, authority)| authority)
}

/// The host of a node's URL, without scheme and port.
pub(crate) fn host_of(url: &str) -> &str {
    let authority = authority_of(url);
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

/// `host[:port]` to the node URL in its one form; `None` when it is not that.
pub(crate) fn parse_authority(scheme: Scheme, authority: &str) -> Option<String> {
    let (host, port) = match authority.rsplit_once(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some((host, port)) if !port.ends_with(']') => (host, parse_port(port)?),
        _ => (authority, DEFAULT_PORT),
    };
    let host = host.to_ascii_lowercase();
    is_host(&host).then(|| format!("{}://{host}:{port}", scheme.name()))
}

/// 1 to 65535, in its shortest form.
fn parse_port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    (port > 0 && text == port.to_string()).then_some(port)
}

/// RFC 1123 names, IPv4 addresses, IPv6 addresses in brackets.
fn is_host(host: &str) -> bool {
    if let Some(inside) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inside.parse::<Ipv6Addr>().is_ok();
    }
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    host.len() <= 253 && host.split('.').all(is_label)
}

/// One label of a host name. Underscores are no letters of RFC 1123, but container networks use them.
fn is_label(label: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let edges = !label.starts_with('-') && !label.ends_with('-');
    !label.is_empty() && label.len() <= 63 && edges && label.bytes().all(letter)
}

/// A folder's path in its one form: no trailing, doubled or dot components.
fn parse_path(argument: &str, path: &str) -> Result<String, PlacementError> {
    let refuse = |cause| Err(PlacementError::Path { argument: argument.to_owned(), cause });
    let is_url = argument.len() != path.len();
    let path = path.strip_suffix('/').unwrap_or(path);
    // A relative path may begin with a dot.
    let components = path.strip_prefix("./").filter(|_| !is_url).unwrap_or(path);
    let components = components.strip_prefix('/').unwrap_or(components);
    if components.is_empty() {
        return refuse("the path names no folder");
    }
    if path.len() > PATH_BYTES_MAX {
        return refuse("the path is too long");
    }
    if path.chars().any(char::is_control) {
        return refuse("the path has a control character");
    }
    if components.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return refuse("the path has an empty, `.` or `..` component");
    }
    Ok(path.to_owned())
}

/// Whether `path` is an absolute path in the form that [`Endpoint::parse`] gives.
pub(crate) fn is_absolute_path(path: &str) -> bool {
    path.starts_with('/') && parse_path(path, path).is_ok_and(|parsed| parsed == path)
}

/// Whether `url` is a node's URL in the form that [`Endpoint::parse`] gives.
pub(crate) fn is_node_url(url: &str) -> bool {
    let parsed = Scheme::of_url(url).and_then(|it| parse_authority(it, authority_of(url)));
    parsed.is_some_and(|parsed| parsed == url)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one drive has one spelling. Method: vectors of argument, node and path.
    #[test]
    fn endpoints_are_read_into_one_form() {
        let vectors = [
            ("http://a:9001/d", Some("http://a:9001"), "/d"),
            ("HTTP://Node-1.Example/mnt/d1/", Some("http://node-1.example:9000"), "/mnt/d1"),
            ("http://10.0.0.1:1/d", Some("http://10.0.0.1:1"), "/d"),
            ("http://[::1]/d", Some("http://[::1]:9000"), "/d"),
            ("http://[fe80::1]:9001/d", Some("http://[fe80::1]:9001"), "/d"),
            ("HTTPS://n1/d", Some("https://n1:9000"), "/d"),
            ("http://my_host/d d", Some("http://my_host:9000"), "/d d"),
            ("/mnt/d", None, "/mnt/d"),
            ("./data/d1", None, "./data/d1"),
            ("data", None, "data"),
        ];
        for (argument, node, path) in vectors {
            let endpoint = Endpoint::parse(argument).expect(argument);
            assert_eq!((endpoint.node.as_deref(), &endpoint.path[..]), (node, path));
            assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
        }
    }

    /// Goal: what is no drive is refused with its reason. Method: one vector a reason and more.
    #[test]
    fn what_names_no_drive_is_refused() {
        let vectors = [
            ("s3://a/d", "Scheme"),
            ("http:///d", "Host"),
            ("http://a:/d", "Host"),
            ("http://a:0/d", "Host"),
            ("http://a:65536/d", "Host"),
            ("http://a:09/d", "Host"),
            ("http://user@a/d", "Host"),
            ("http://-a/d", "Host"),
            ("http://a..b/d", "Host"),
            ("http://256.1.1.1/d", "Host"),
            ("http://[::g]/d", "Host"),
            ("http://::1/d", "Host"),
            ("http://a?x/d", "Host"),
            ("http://a", "Path"),
            ("http://a/", "Path"),
            ("http://a/d?x=1", "Path"),
            ("http://a/b//d", "Path"),
            ("http://a/../d", "Path"),
            ("http://a/./d", "Path"),
            ("/", "Path"),
            ("", "Path"),
            (".", "Path"),
            ("./", "Path"),
            ("../d", "Path"),
            ("/d\n", "Path"),
        ];
        for (argument, variant) in vectors {
            let error = Endpoint::parse(argument).expect_err(argument);
            assert!(format!("{error:?}").starts_with(variant), "{argument}: {error:?}");
        }
        let long = format!("/{}", "d".repeat(PATH_BYTES_MAX));
        assert!(matches!(Endpoint::parse(&long), Err(PlacementError::Path { .. })));
    }
}
