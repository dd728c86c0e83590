//! Tells systemd how the service is: a datagram to the socket it names (sd_notify(3)).

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

/// Sends `state` (`READY=1`, `STOPPING=1`, `STATUS=...`) to the socket named by `NOTIFY_SOCKET`; does
/// nothing when there is none.
///
/// # Errors
/// When the socket does not take it; the service goes on without.
pub fn notify(socket: Option<&str>, state: &str) -> io::Result<()> {
    let Some(name) = socket.filter(|name| !name.is_empty()) else { return Ok(()) };
    let address = match name.strip_prefix('@') {
        Some(hidden) => SocketAddr::from_abstract_name(hidden)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// How often systemd wants to hear `WATCHDOG=1`: twice in the time it gives (sd_watchdog_enabled(3)).
/// `None` when it does not watch this process.
#[must_use]
pub fn watchdog_every(usec: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(own_pid));
    let micros: u64 = usec?.parse().ok().filter(|micros| *micros > 1 && ours)?;
    Some(Duration::from_micros(micros / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_and_only_by_the_process_it_is_for() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog_every(Some("2000000"), None, 7), second);
        assert_eq!(watchdog_every(Some("2000000"), Some("7"), 7), second);
        for (usec, pid) in
            [(None, None), (Some("0"), None), (Some("x"), None), (Some("2"), Some("8"))]
        {
            assert_eq!(watchdog_every(usec, pid, 7), None, "{usec:?} {pid:?}");
        }
    }

    /// Goal: systemd gets the words. Method: a socket of ours in its place, by path and abstract.
    #[test]
    fn the_named_socket_gets_the_state() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).expect("bound");
        notify(path.to_str(), "READY=1").expect("sent");
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer).expect("received");
        assert_eq!(&buffer[..length], b"READY=1");
        let hidden = format!("holdfast-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&hidden).expect("a name");
        let receiver = UnixDatagram::bind_addr(&address).expect("bound");
        notify(Some(&format!("@{hidden}")), "STOPPING=1").expect("sent");
        let length = receiver.recv(&mut buffer).expect("received");
        assert_eq!(&buffer[..length], b"STOPPING=1");
        assert!(notify(None, "READY=1").is_ok());
        assert!(notify(dir.path().join("none").to_str(), "READY=1").is_err());
    }
}
