//! Who is not let in.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use holdfast_drive::{
    api::DriveRequest,
    fabric::{
        Dialer, Here, RemoteConfig, TcpDialer,
        auth::{Key, Stamp, sign},
        frame::message_frame,
    },
    node::Node,
};
use holdfast_proto::{PROTOCOL_MAX, v1};
use holdfast_types::{ClusterId, DriveId, ErrorClass, limits, seam::ManualClock};
use http_body_util::Full;
use tokio::sync::watch;
use tonic::{Status, body::Body, transport::Endpoint};
use tower::{Service, ServiceExt};

use crate::rig::{CLUSTER, NOW_MICROS, SECOND, SECRET, Server, client};

/// Calls as a client changed by `change`; nothing may reach the drives. Returns what it is told.
async fn told(change: impl FnOnce(&mut RemoteConfig)) -> String {
    let server = Server::start().await;
    let client = client(server.address, 7, change);
    let results = client.call(SECOND, vec![(DriveId(1), DriveRequest::Facts)]).await;
    assert_eq!(server.node.calls.load(Ordering::SeqCst), 0);
    let error = results[0].as_ref().expect_err("refused");
    assert_eq!(error.class(), ErrorClass::Unavailable, "nothing was sent");
    error.to_string()
}

#[tokio::test]
async fn another_secret_is_refused() {
    let why = told(|config| config.key = Key::of_secret(b"the secret of that cluster")).await;
    assert!(why.contains("HOLDFAST_CLUSTER_SECRET"), "{why}");
}

#[tokio::test]
async fn a_clock_beyond_the_bound_is_refused_either_way() {
    let skew = limits::CLOCK_SKEW_MICROS_MAX + 1_000_000;
    for wall in [NOW_MICROS + skew, NOW_MICROS - skew] {
        let why = told(|config| config.clock = Arc::new(ManualClock::at(wall))).await;
        assert!(why.contains("clocks") && why.contains("11 s"), "{why}");
    }
}

#[tokio::test]
async fn another_cluster_is_refused_and_none_is_not() {
    let here = |cluster| {
        let here = Here { name: "stranger".to_owned(), cluster, layout_generation: 1 };
        watch::Sender::new(here).subscribe()
    };
    let why = told(|config| config.here = here(Some(ClusterId(78)))).await;
    assert!(why.contains("belongs to cluster") && why.contains(&CLUSTER.to_string()), "{why}");
    let server = Server::start().await;
    let client = client(server.address, 7, |config| config.here = here(None));
    assert_eq!(client.peer().await.expect("let in").cluster, CLUSTER);
}

/// A raw call to the server: what a captured or made-up request would be.
async fn raw(server: &Server, path: &str, stamp: Stamp, key: &Key, frame: &Bytes) -> Status {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).expect("a URL");
    let mut channel = TcpDialer.dial(&endpoint);
    let mut request = http::Request::new(Body::new(Full::new(frame.clone())));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::try_from(path).expect("a path");
    let grpc = http::HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", grpc);
    sign(key, path, stamp, &frame[5..], request.headers_mut());
    let answer = channel.ready().await.expect("connected").call(request).await.expect("answered");
    Status::from_header_map(answer.headers()).unwrap_or_else(|| Status::ok(""))
}

const HANDSHAKE: &str = "/holdfast.fabric.v1.Control/Handshake";

fn handshake(protocol: u32) -> Bytes {
    message_frame(&v1::HandshakeRequest {
        protocol_min: protocol,
        protocol_max: protocol,
        wall_micros: NOW_MICROS,
        nonce: Bytes::from(vec![9; 16]),
        name: "old node".to_owned(),
        ..Default::default()
    })
}

#[tokio::test]
async fn other_protocol_versions_are_refused_by_name() {
    let server = Server::start().await;
    let stamp = Stamp { time_micros: NOW_MICROS, session: 0, number: 0 };
    let refused = raw(&server, HANDSHAKE, stamp, &Key::of_secret(SECRET), &handshake(99)).await;
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    assert!(refused.message().contains("old node"), "{}", refused.message());
    assert!(refused.message().contains("99"), "{}", refused.message());
}

#[tokio::test]
async fn a_replayed_handshake_is_refused() {
    let server = Server::start().await;
    let key = Key::of_secret(SECRET);
    let stamp = Stamp { time_micros: NOW_MICROS, session: 0, number: 0 };
    let first = raw(&server, HANDSHAKE, stamp, &key, &handshake(PROTOCOL_MAX)).await;
    assert_eq!(first.code(), tonic::Code::Ok);
    let second = raw(&server, HANDSHAKE, stamp, &key, &handshake(PROTOCOL_MAX)).await;
    assert_eq!(second.code(), tonic::Code::PermissionDenied);
    assert!(second.message().contains("sent before"), "{}", second.message());
}

/// Goal: the cluster secret alone opens no call or stream: they need a session, and so cannot be
/// carried from one node (or one life of it) to another. Method: well-signed calls without one.
#[tokio::test]
async fn calls_and_streams_without_a_session_are_refused() {
    let server = Server::start().await;
    let stamp = Stamp { time_micros: NOW_MICROS, session: 5, number: 1 };
    let frame = message_frame(&v1::CallRequest { deadline_micros: 1, ..Default::default() });
    for method in
        ["Control/Exchange", "Bulk/Upload", "Bulk/ReadShard", "Startup/Commit", "Startup/No"]
    {
        let path = format!("/holdfast.fabric.v1.{method}");
        let refused = raw(&server, &path, stamp, &Key::of_secret(SECRET), &frame).await;
        assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{method}");
    }
    assert_eq!(server.node.calls.load(Ordering::SeqCst), 0);
}

/// A clock that runs away after the handshake is noticed at the next call.
#[tokio::test]
async fn a_clock_that_runs_away_later_is_noticed() {
    let server = Server::start().await;
    let client = server.client();
    let ask = vec![(DriveId(1), DriveRequest::Facts)];
    assert!(client.call(SECOND, ask.clone()).await[0].is_ok());
    server.clock.advance_micros(limits::CLOCK_SKEW_MICROS_MAX + 1);
    let error = client.call(SECOND, ask).await.remove(0).expect_err("refused");
    assert!(error.to_string().contains("clocks"), "{error}");
}
