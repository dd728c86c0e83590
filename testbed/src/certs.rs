//! `testbed certs`: a certificates folder for test clusters.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use holdfast_tls::{
    certs::{AUTHORITIES, CERTIFICATE},
    testing::Authority,
};

/// Where the nodes of `testbed up` are.
const HOSTS: [&str; 3] = ["127.0.0.1", "localhost", "::1"];

/// Tests do not run for years; the key of the authority is not kept, so nothing can be renewed.
const DAYS: i64 = 365;

/// Make a certificates folder.
#[derive(clap::Args)]
pub struct Args {
    /// The folder, as `holdfastd --certs-dir` takes it. Clients trust its CAs/ca.crt.
    #[arg(long)]
    dir: PathBuf,
    /// Names and addresses of the nodes beside those of this machine's loopback.
    #[arg(long)]
    host: Vec<String>,
}

/// Makes the folder; one that has a certificate is left alone and refused.
pub fn run(args: &Args) -> Result<()> {
    if args.dir.join(CERTIFICATE).exists() {
        bail!("{} has a certificate: remove it first", args.dir.display());
    }
    let hosts: Vec<&str> = HOSTS.into_iter().chain(args.host.iter().map(String::as_str)).collect();
    make(&args.dir, &hosts)?;
    println!("{}", args.dir.join(AUTHORITIES).join("ca.crt").display());
    Ok(())
}

/// The absolute path of a certificates folder, which is made when it has none.
pub fn ensure(dir: &Path) -> Result<PathBuf> {
    if !dir.join(CERTIFICATE).exists() {
        make(dir, &HOSTS)?;
    }
    fs::canonicalize(dir).with_context(|| format!("find {}", dir.display()))
}

fn make(dir: &Path, hosts: &[&str]) -> Result<()> {
    let authority = Authority::new();
    let issued = authority.issue(hosts, DAYS);
    issued
        .write(dir, &authority)
        .with_context(|| format!("write certificates to {}", dir.display()))
}

/// All authorities of a certificates folder in one file of the cluster, for clients.
pub fn bundle(certs: &Path, cluster: &Path) -> Result<PathBuf> {
    let folder = certs.join(AUTHORITIES);
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    let mut pem = Vec::new();
    for path in paths {
        pem.extend(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        pem.push(b'\n');
    }
    let file = cluster.join("ca.pem");
    fs::write(&file, pem).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is made works, and what is there stays. Method: make, open as the daemon does, ensure,
    /// make again.
    #[test]
    fn certificates_are_made_once() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let args = Args { dir: dir.path().join("c"), host: vec!["node1".to_owned()] };
        run(&args).expect("made");
        let certs = holdfast_tls::Certs::open(&args.dir).expect("sound");
        for host in ["127.0.0.1", "::1", "localhost", "node1"] {
            assert_eq!(certs.check_name(host), Ok(()));
        }
        let before = fs::read(args.dir.join(CERTIFICATE)).expect("there");
        ensure(&args.dir).expect("there");
        assert!(run(&args).is_err());
        assert_eq!(fs::read(args.dir.join(CERTIFICATE)).expect("there"), before);
    }
}
