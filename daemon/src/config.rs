//! Command line and environment as one checked [`Config`]. Pure: what it reads is given to it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use holdfast_drive::fabric::auth::SECRET_BYTES_MIN;
use holdfast_placement::{Endpoint, PoolSpec, Scheme, notation, parse_volumes};

use crate::{
    cli::{Cli, Command, GatewayArgs, ServerArgs},
    failure::Failure,
};

/// Where a node without arguments keeps everything.
pub const DEFAULT_DATA: &str = "./holdfast-data";

/// Characters of a password at least. The number; S3 signatures resist no shorter ones.
pub const PASSWORD_CHARS_MIN: usize = 8;

/// The port of a listener whose address names none.
const DEFAULT_ADDRESS: &str = ":9000";

/// Actor threads at most: more than drives of any node make no sense.
const ARBITERS_MAX: usize = 256;

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// On this address alone; on all when `None`.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ip {
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.port)),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// What this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A node with drives.
    Server {
        /// All drives of the cluster.
        pools: Vec<PoolSpec>,
        /// Whether they are the defaults, below [`DEFAULT_DATA`].
        defaults: bool,
        /// Whether drives may be on the root file system.
        allow_root_disk: bool,
    },
    /// A gateway without drives.
    Gateway {
        /// URLs of nodes.
        nodes: Vec<String>,
    },
}

/// The keys that sign everything.
#[derive(Clone, PartialEq, Eq)]
pub struct RootKeys {
    /// The access key.
    pub user: String,
    /// The secret key.
    pub password: String,
}

impl std::fmt::Debug for RootKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RootKeys({}, ..)", self.user)
    }
}

/// Everything an operator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What this process is.
    pub role: Role,
    /// Where it listens.
    pub listen: Listen,
    /// Root's keys; `None`: to be generated, on a node with default volumes.
    pub root: Option<RootKeys>,
    /// The cluster secret; `None`: a single node makes its own.
    pub secret: Option<Secret>,
    /// The certificates folder; `None`: no TLS.
    pub certs_dir: Option<PathBuf>,
    /// Actor threads; `None`: by the number of drives.
    pub arbiters: Option<usize>,
}

/// The cluster secret; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Config {
    /// Checks command line and environment together; flags beat environment. `base` is the absolute
    /// working directory.
    ///
    /// # Errors
    /// [`Failure`] for the first thing that is wrong.
    pub fn read(cli: &Cli, env: &HashMap<String, String>, base: &str) -> Result<Self, Failure> {
        let env = |name: &str| env.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let as_server = |args: &ServerArgs| {
            Ok::<_, Failure>((
                server(args, env, base)?,
                args.address.clone(),
                args.certs_dir.clone(),
            ))
        };
        let (role, address, certs_dir) = match &cli.command {
            None => as_server(&cli.server)?,
            Some(Command::Server(args)) => as_server(args)?,
            Some(Command::Gateway(args)) => {
                (gateway(args, env)?, args.address.clone(), args.certs_dir.clone())
            }
        };
        let address = address.as_deref().or(env("HOLDFAST_ADDRESS")).unwrap_or(DEFAULT_ADDRESS);
        let config = Self {
            role,
            listen: parse_address(address)?,
            root: root_keys(env("HOLDFAST_ROOT_USER"), env("HOLDFAST_ROOT_PASSWORD"))?,
            secret: env("HOLDFAST_CLUSTER_SECRET").map(parse_secret).transpose()?,
            certs_dir: certs_dir
                .or(env("HOLDFAST_CERTS_DIR").map(PathBuf::from))
                .map(|dir| Path::new(base).join(dir)),
            arbiters: env("HOLDFAST_ARBITERS").map(parse_arbiters).transpose()?,
        };
        config.check_together()?;
        Ok(config)
    }

    /// How this process speaks, and is spoken to.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        if self.certs_dir.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// Nodes of the cluster, as far as the arguments say.
    #[must_use]
    pub fn node_urls(&self) -> Vec<String> {
        let mut urls: Vec<String> = Vec::new();
        match &self.role {
            Role::Gateway { nodes } => urls.clone_from(nodes),
            Role::Server { pools, .. } => {
                let named = pools.iter().flat_map(|pool| &pool.endpoints);
                for url in named.filter_map(|endpoint| endpoint.node.as_ref()) {
                    if !urls.contains(url) {
                        urls.push(url.clone());
                    }
                }
            }
        }
        urls
    }

    fn check_together(&self) -> Result<(), Failure> {
        let defaults = matches!(self.role, Role::Server { defaults: true, .. });
        if self.root.is_none() && !defaults {
            return Err(Failure::new(
                "read settings: no root credentials are set",
                "set HOLDFAST_ROOT_USER and HOLDFAST_ROOT_PASSWORD, alike on all nodes",
            ));
        }
        let alone = matches!(self.role, Role::Server { .. }) && self.node_urls().len() < 2;
        if self.secret.is_none() && !alone {
            return Err(Failure::new(
                "read settings: the cluster has several nodes and no cluster secret is set",
                "set HOLDFAST_CLUSTER_SECRET to the same random text on all nodes, for example from \
                 `openssl rand -hex 32`",
            ));
        }
        self.check_scheme()
    }

    /// A node that speaks TLS speaks it with all others, and with none otherwise.
    fn check_scheme(&self) -> Result<(), Failure> {
        let scheme = self.scheme();
        let urls = self.node_urls();
        let Some(other) = urls.iter().find(|url| Scheme::of_url(url) != Some(scheme)) else {
            return Ok(());
        };
        Err(match scheme {
            Scheme::Http => Failure::new(
                format!(
                    "read settings: {other} is to be reached over TLS and no certificates are given"
                ),
                "give the folder with public.crt, private.key and CAs/ as --certs-dir or \
                 HOLDFAST_CERTS_DIR, or write http://",
            ),
            Scheme::Https => Failure::new(
                format!("read settings: a certificates folder is given and {other} is without TLS"),
                "write https:// for every node, or leave --certs-dir and HOLDFAST_CERTS_DIR out",
            ),
        })
    }
}

fn server<'a>(
    args: &ServerArgs,
    env: impl Fn(&str) -> Option<&'a str>,
    base: &str,
) -> Result<Role, Failure> {
    let from_env = || env("HOLDFAST_VOLUMES").unwrap_or_default().split_whitespace();
    let mut volumes = args.volumes.clone();
    if volumes.is_empty() {
        volumes = from_env().map(str::to_owned).collect();
    }
    let defaults = volumes.is_empty();
    if defaults {
        volumes = vec![format!("{DEFAULT_DATA}/drive{{1...4}}")];
    }
    let mut pools = parse_volumes(&volumes)?;
    pools.iter_mut().for_each(|pool| pool.make_absolute(base));
    let allow_root_disk = args.allow_root_disk || defaults;
    Ok(Role::Server { pools, defaults, allow_root_disk })
}

fn gateway<'a>(args: &GatewayArgs, env: impl Fn(&str) -> Option<&'a str>) -> Result<Role, Failure> {
    let mut given = args.nodes.clone();
    if given.is_empty() {
        let listed = env("HOLDFAST_NODES").unwrap_or_default();
        given = listed.split_whitespace().map(str::to_owned).collect();
    }
    let mut nodes: Vec<String> = Vec::new();
    for pattern in &given {
        for url in notation::expand(pattern.trim_end_matches('/'))? {
            // A node's URL is checked as the URL of a drive on it.
            let node = Endpoint::parse(&format!("{url}/drive"))?.node.ok_or_else(|| {
                Failure::new(
                    format!("read nodes: {url} is not the URL of a node"),
                    "write http://host:port or https://host:port",
                )
            })?;
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
    }
    if nodes.is_empty() {
        return Err(Failure::new(
            "read nodes: a gateway has no drives and no nodes are named",
            "name some with --nodes http://node{1...4}:9000 or HOLDFAST_NODES",
        ));
    }
    Ok(Role::Gateway { nodes })
}

fn parse_address(text: &str) -> Result<Listen, Failure> {
    let wrong = || {
        Failure::new(
            format!("read address {text}: it is not IP:PORT"),
            "write an IP address and a port, as in 10.0.0.1:9000 or [::1]:9000, or :9000 for all \
             addresses",
        )
    };
    let listen = match text.strip_prefix(':') {
        Some(port) => Listen { ip: None, port: port.parse().map_err(|_| wrong())? },
        None => {
            let address: SocketAddr = text.parse().map_err(|_| wrong())?;
            let ip = (!address.ip().is_unspecified()).then_some(address.ip());
            Listen { ip, port: address.port() }
        }
    };
    if listen.port == 0 { Err(wrong()) } else { Ok(listen) }
}

fn root_keys(user: Option<&str>, password: Option<&str>) -> Result<Option<RootKeys>, Failure> {
    let (user, password) = match (user, password) {
        (None, None) => return Ok(None),
        (Some(user), Some(password)) => (user, password),
        _ => {
            return Err(Failure::new(
                "read settings: only one of HOLDFAST_ROOT_USER and HOLDFAST_ROOT_PASSWORD is set",
                "set both",
            ));
        }
    };
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return Err(Failure::new(
            format!("read settings: HOLDFAST_ROOT_PASSWORD is shorter than {PASSWORD_CHARS_MIN}"),
            format!("choose one of at least {PASSWORD_CHARS_MIN} characters"),
        ));
    }
    let in_signatures = |c: char| c.is_ascii_graphic() && c != '/' && c != ',' && c != '=';
    if user.len() < 3 || !user.chars().all(in_signatures) {
        return Err(Failure::new(
            "read settings: HOLDFAST_ROOT_USER cannot be an access key",
            "use at least 3 letters, digits or signs, without spaces, '/', ',' and '='",
        ));
    }
    Ok(Some(RootKeys { user: user.to_owned(), password: password.to_owned() }))
}

fn parse_secret(text: &str) -> Result<Secret, Failure> {
    if text.len() < SECRET_BYTES_MIN {
        return Err(Failure::new(
            format!("read settings: HOLDFAST_CLUSTER_SECRET is shorter than {SECRET_BYTES_MIN}"),
            "use a random text, for example from `openssl rand -hex 32`",
        ));
    }
    Ok(Secret(text.to_owned()))
}

fn parse_arbiters(text: &str) -> Result<usize, Failure> {
    let number = text.parse().ok().filter(|number| (1..=ARBITERS_MAX).contains(number));
    number.ok_or_else(|| {
        Failure::new(
            format!("read settings: HOLDFAST_ARBITERS is {text}"),
            format!("use a number from 1 to {ARBITERS_MAX}, or leave it out"),
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Config, Failure> {
        let args = std::iter::once("holdfastd").chain(args.iter().copied());
        let cli = Cli::try_parse_from(args).expect("the command line is well formed");
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::read(&cli, &env.collect(), "/home/op")
    }

    const ROOT: [(&str, &str); 2] =
        [("HOLDFAST_ROOT_USER", "admin"), ("HOLDFAST_ROOT_PASSWORD", "12345678")];
    const SECRET: (&str, &str) = ("HOLDFAST_CLUSTER_SECRET", "0123456789abcdef");

    fn paths(config: &Config) -> Vec<String> {
        let Role::Server { pools, .. } = &config.role else { panic!("a server") };
        pools.iter().flat_map(|pool| &pool.endpoints).map(ToString::to_string).collect()
    }

    /// Goal: no arguments at all is a node that works. Method: the defaults, with and without `server`.
    #[test]
    fn without_arguments_a_node_serves_four_folders_of_its_own() {
        for args in [&[][..], &["server"]] {
            let config = read(args, &[]).expect("defaults are valid");
            assert_eq!(paths(&config)[0], "/home/op/holdfast-data/drive1");
            assert_eq!(paths(&config).len(), 4);
            assert_eq!(config.listen, Listen { ip: None, port: 9000 });
            assert_eq!((config.certs_dir.as_ref(), config.scheme()), (None, Scheme::Http));
            let expected = (None, None, None);
            assert_eq!((config.root, config.secret, config.arbiters), expected);
            let Role::Server { defaults, allow_root_disk, .. } = config.role else { panic!() };
            assert!(defaults && allow_root_disk);
        }
    }

    #[test]
    fn flags_beat_the_environment() {
        let mut env = ROOT.to_vec();
        env.extend([
            ("HOLDFAST_VOLUMES", "/env/d{1...2} /more/d{1...2}"),
            ("HOLDFAST_ADDRESS", "10.0.0.1:1"),
        ]);
        let from_env = read(&[], &env).expect("valid");
        assert_eq!(paths(&from_env), ["/env/d1", "/env/d2", "/more/d1", "/more/d2"]);
        let ip = Some("10.0.0.1".parse().expect("an address"));
        assert_eq!(from_env.listen, Listen { ip, port: 1 });
        let flags = read(&["--address", ":7", "/flag/d"], &env).expect("valid");
        assert_eq!((paths(&flags), flags.listen.port), (vec!["/flag/d".to_owned()], 7));
        let Role::Server { defaults, allow_root_disk, .. } = flags.role else { panic!() };
        assert!(!defaults && !allow_root_disk);
    }

    #[test]
    fn a_gateway_names_nodes() {
        let env = [ROOT[0], ROOT[1], SECRET, ("HOLDFAST_NODES", "http://env:1")];
        let from_env = read(&["gateway"], &env).expect("valid");
        assert_eq!(from_env.node_urls(), ["http://env:1"]);
        let flags = read(&["gateway", "--nodes", "http://n{1...2}"], &env).expect("valid");
        assert_eq!(flags.node_urls(), ["http://n1:9000", "http://n2:9000"]);
    }

    /// Goal: TLS is for all nodes or for none, by flag or environment. Method: each way, and each mixture.
    #[test]
    fn a_certificates_folder_goes_with_https() {
        let env = [ROOT[0], ROOT[1], SECRET];
        let certs = [ROOT[0], ROOT[1], SECRET, ("HOLDFAST_CERTS_DIR", "/env/certs")];
        let cluster = "https://n{1...4}/d{1...4}";
        let flag = read(&["--certs-dir", "c", cluster], &certs).expect("valid");
        assert_eq!(flag.certs_dir, Some(PathBuf::from("/home/op/c")));
        let from_env = read(&["gateway", "--nodes", "https://n1"], &certs).expect("valid");
        assert_eq!(from_env.certs_dir, Some(PathBuf::from("/env/certs")));
        assert_eq!((from_env.scheme(), from_env.node_urls().len()), (Scheme::Https, 1));
        assert!(read(&["/d"], &certs).is_ok(), "a single node names nobody");
        let bare = read(&[cluster], &env).expect_err("no certificates");
        assert!(
            bare.cause.contains("no certificates") && bare.cure.contains("--certs-dir"),
            "{bare}"
        );
        let plain = read(&["http://n{1...4}/d{1...4}"], &certs).expect_err("in the clear");
        assert!(plain.cause.contains("without TLS") && plain.cure.contains("https://"), "{plain}");
    }

    /// Goal: every refusal says what is wrong and what to do, a line each, and shows no secret.
    #[test]
    fn refusals_have_a_cause_and_a_cure() {
        let with = |more: &[(&'static str, &'static str)]| [&ROOT[..], more].concat();
        let password = |text| vec![ROOT[0], ("HOLDFAST_ROOT_PASSWORD", text)];
        let cluster = "http://n{1...4}/d{1...4}";
        let vectors: [(&[&str], Vec<(&str, &str)>, &str); 13] = [
            (&["/d{1..4}"], with(&[]), "braces"),
            (&["/d"], vec![], "no root credentials"),
            (&[], vec![ROOT[0]], "only one of"),
            (&[], password("1234567"), "shorter than 8"),
            (&[], vec![("HOLDFAST_ROOT_USER", "a/b"), ROOT[1]], "access key"),
            (&[cluster], with(&[]), "no cluster secret"),
            (&[cluster], with(&[("HOLDFAST_CLUSTER_SECRET", "sesame")]), "shorter than 16"),
            (&["--address", "host:9000"], vec![], "not IP:PORT"),
            (&["--address", ":0"], vec![], "not IP:PORT"),
            (&[], vec![("HOLDFAST_ARBITERS", "0")], "HOLDFAST_ARBITERS"),
            (&["gateway"], with(&[SECRET]), "no nodes"),
            (&["gateway", "--nodes", "/folder"], with(&[SECRET]), "not the URL"),
            (&["gateway", "--nodes", "http://n1"], with(&[]), "no cluster secret"),
        ];
        for (args, env, why) in vectors {
            let failure = read(args, &env).expect_err(why);
            assert!(failure.cause.contains(why), "{args:?}: {failure}");
            assert!(!failure.cure.is_empty() && failure.to_string().lines().count() == 2);
            assert!(!failure.to_string().contains("sesame"), "{failure}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let env = [ROOT[0], ROOT[1], SECRET];
        let shown = format!("{:?}", read(&["/d"], &env).expect("valid"));
        assert!(!shown.contains("12345678") && !shown.contains("0123456789"), "{shown}");
    }
}
