//! Whether a node is ready: `GET /_health/ready` answers 200.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use holdfast_tls::{HTTP_1, roots};
use rustls::{ClientConnection, StreamOwned};

/// How long one question may take. A paused node accepts the connection and then says nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the node at `endpoint` (`http://IP:PORT`, or `https://` with the authorities in `ca`) says
/// that it is ready.
pub fn is_ready(endpoint: &str, ca: Option<&Path>) -> bool {
    ask(endpoint, ca, "/_health/ready") == Some(200)
}

/// The status of a GET without credentials; `None` when there is no answer.
fn ask(endpoint: &str, ca: Option<&Path>, path: &str) -> Option<u16> {
    let (scheme, authority) = endpoint.split_once("://")?;
    let address: SocketAddr = authority.parse().ok()?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    if scheme == "http" {
        return exchange(stream, &request);
    }
    let config = roots::client_config(ca, &[HTTP_1]).ok()?;
    let name = roots::server_name(authority).ok()?;
    let connection = ClientConnection::new(config, name).ok()?;
    exchange(StreamOwned::new(connection, stream), &request)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Option<u16> {
    stream.write_all(request.as_bytes()).ok()?;
    // "HTTP/1.1 200" is all that matters.
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    let head = std::str::from_utf8(&head).ok()?;
    head.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answering(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).expect("read");
            stream.write_all(answer.as_bytes()).expect("write");
        });
        endpoint
    }

    /// Goal: only 200 is ready. Method: listeners that answer 200, 503 and nonsense, and none at all.
    #[test]
    fn only_200_is_ready() {
        assert!(is_ready(&answering("HTTP/1.1 200 OK\r\n\r\n"), None));
        assert!(!is_ready(&answering("HTTP/1.1 503 Service Unavailable\r\n\r\n"), None));
        assert!(!is_ready(&answering("x"), None));
        assert!(!is_ready("http://127.0.0.1:1", None));
        assert!(!is_ready("nonsense", None));
    }
}
