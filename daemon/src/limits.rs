//! Descriptors: the process takes what it may have, and leaves the greater part to its drives and peers.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Connections at one time; more are closed at once. Each costs a task and its buffers.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Of the descriptors clients may hold one in so many: drives and peers need the others, and a drive
/// that cannot create a file takes no more writes.
pub const CLIENTS_SHARE: usize = 4;

/// Raises the limit of open files to what the system allows this process, as servers do: a shell's
/// usual 1,024 is there for programs that use `select`. Returns the limit.
#[must_use]
pub fn raise_open_files() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let wanted = rustix::process::Rlimit { current: limit.maximum, ..limit };
        // Refused is no reason not to serve: fewer connections are let in.
        if setrlimit(Resource::Nofile, wanted).is_ok() {
            limit = wanted;
        }
    }
    limit.current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}

/// Connections that are let in at one time with so many descriptors.
#[must_use]
pub fn connections(open_files: usize) -> usize {
    (open_files / CLIENTS_SHARE).min(CONNECTIONS_MAX)
}

/// Takes all the descriptors that the system gives, and tells of too few.
#[must_use]
pub fn take_all() -> usize {
    let files = raise_open_files();
    let connections = connections(files);
    if connections < CONNECTIONS_MAX {
        tracing::warn!(
            files,
            connections,
            "few open files are allowed, so few connections are let in at a time; raise the limit \
             (`ulimit -Hn`, LimitNOFILE)"
        );
    }
    connections
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: clients never take most of the descriptors. Method: limits of usual machines.
    #[test]
    fn clients_leave_descriptors_to_drives() {
        let cases = [(256, 64), (1024, 256), (65_536, 16_384), (1 << 20, 16_384)];
        for (files, clients) in cases {
            assert_eq!(connections(files), clients);
        }
    }
}
