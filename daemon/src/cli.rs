//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Holdfast: an S3 object store for clusters of nodes with local drives.
///
/// Environment: HOLDFAST_VOLUMES, HOLDFAST_ADDRESS, HOLDFAST_NODES, HOLDFAST_ROOT_USER,
/// HOLDFAST_ROOT_PASSWORD, HOLDFAST_CLUSTER_SECRET, HOLDFAST_CERTS_DIR, HOLDFAST_ARBITERS,
/// HOLDFAST_LOG. Flags beat it.
#[derive(Parser, Debug, Clone, Default)]
#[command(name = "holdfastd", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to be; a server when left out.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// As a server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What a process can be.
#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// A node with drives that serves S3.
    Server(ServerArgs),
    /// A gateway without drives: serves S3 from the drives of the cluster's nodes.
    Gateway(GatewayArgs),
}

/// A node with drives.
#[derive(Args, Debug, Clone, Default)]
pub struct ServerArgs {
    /// Where to listen: IP:PORT, or :PORT on all addresses [default: :9000]
    #[arg(long, value_name = "IP:PORT")]
    pub address: Option<String>,
    /// Serve TLS, to clients and to the other nodes: a folder with public.crt and private.key, and CAs/
    /// with the authorities of the other nodes' certificates
    #[arg(long, value_name = "DIR")]
    pub certs_dir: Option<PathBuf>,
    /// Accept drive folders on the root file system (development, tests).
    #[arg(long)]
    pub allow_root_disk: bool,
    /// The cluster's drives, the same on all nodes: one argument a pool, as in
    /// http://node{1...8}:9000/mnt/holdfast{1...8}, or folders of this node alone [default:
    /// ./holdfast-data/drive{1...4}]
    #[arg(value_name = "VOLUMES")]
    pub volumes: Vec<String>,
}

/// A gateway without drives.
#[derive(Args, Debug, Clone, Default)]
pub struct GatewayArgs {
    /// Where to listen: IP:PORT, or :PORT on all addresses [default: :9000]
    #[arg(long, value_name = "IP:PORT")]
    pub address: Option<String>,
    /// Serve TLS and reach the nodes over it: a folder with public.crt and private.key, and CAs/ with the
    /// authorities of the nodes' certificates
    #[arg(long, value_name = "DIR")]
    pub certs_dir: Option<PathBuf>,
    /// Nodes of the cluster, as in http://node{1...8}:9000; one that answers is enough
    #[arg(long, value_name = "URL", num_args = 1..)]
    pub nodes: Vec<String>,
}
