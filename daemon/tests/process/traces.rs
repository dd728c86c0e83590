//! Traces, as a collector receives them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use tonic::{Request, Response, Status};

use crate::{
    client::Client,
    node::{Node, free_port},
};

/// Spans by their ids, each with the process that made it.
type Spans = Arc<Mutex<BTreeMap<Vec<u8>, (String, Span)>>>;

/// An OTLP collector that keeps everything.
struct Collector(Spans);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().expect("no panic while it is held");
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|it| it.attributes).unwrap_or_default();
            let instance = attributes.into_iter().find(|it| it.key == "service.instance.id");
            let instance = match instance.and_then(|it| it.value?.value) {
                Some(Value::StringValue(text)) => text,
                other => panic!("an instance is a text, not {other:?}"),
            };
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.insert(span.span_id.clone(), (instance.clone(), span));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Starts a collector on a thread of its own.
fn collector() -> (SocketAddr, Spans) {
    let spans = Spans::default();
    let kept = spans.clone();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let service = TraceServiceServer::new(Collector(kept));
        let serving = tonic::transport::Server::builder().add_service(service).serve(address);
        runtime.expect("a runtime").block_on(serving).expect("serves");
    });
    (address, spans)
}

/// From the client's span to each of a trace, by names: `client > PUT > set.write > ...`; nodes are
/// told apart by a `*` before the names of spans that another node made than the one before.
fn paths(spans: &Spans, trace: u128) -> BTreeSet<String> {
    let spans = spans.lock().expect("no panic while it is held");
    let path = |span: &Span| -> Option<String> {
        let mut names = Vec::new();
        let mut at = span.span_id.clone();
        while let Some((instance, span)) = spans.get(&at) {
            let parent = spans.get(&span.parent_span_id);
            let moved = parent.is_some_and(|(other, _)| other != instance);
            names.push(format!("{}{}", if moved { "*" } else { "" }, span.name));
            at.clone_from(&span.parent_span_id);
        }
        (at == CLIENT_SPAN.to_be_bytes()).then(|| {
            names.push("client".to_owned());
            names.reverse();
            names.join(" > ")
        })
    };
    let ours = spans.values().filter(|(_, span)| span.trace_id == trace.to_be_bytes());
    ours.filter_map(|(_, span)| path(span)).collect()
}

const CLIENT_SPAN: u64 = 0xb7ad_6b71_6920_3331;

/// The header of a client that traces.
fn header(trace: u128) -> String {
    format!("traceparent: 00-{trace:032x}-{CLIENT_SPAN:016x}-01\r\n")
}

fn start(dir: &Path, ports: [u16; 2], n: usize, env: &[(&str, &str)]) -> Node {
    let drives = ports.into_iter().flat_map(|port| (0..2).map(move |drive| (port, drive)));
    let url = |(port, drive)| format!("http://127.0.0.1:{port}{}/{port}-{drive}", dir.display());
    let volumes: Vec<String> = drives.map(url).collect();
    let mut args = vec!["server", "--allow-root-disk"];
    args.extend(volumes.iter().map(String::as_str));
    Node::start_with_env(dir, ports[n], &args, env)
}

/// The status that the span of a trace's request says it was answered with.
fn answered(spans: &Spans, trace: u128) -> Option<i64> {
    let spans = spans.lock().expect("no panic while it is held");
    let ours = |span: &&Span| span.trace_id == trace.to_be_bytes();
    let root = spans.values().map(|(_, span)| span).find(ours)?;
    let status = root.attributes.iter().find(|it| it.key == "http.response.status_code")?;
    match status.value.as_ref()?.value.as_ref()? {
        Value::IntValue(status) => Some(*status),
        other => panic!("a status is a number, not {other:?}"),
    }
}

/// Waits until the trace has one of these paths.
fn wait_for_one(spans: &Spans, trace: u128, wanted: &[&str]) {
    let started = Instant::now();
    while !wanted.iter().any(|path| paths(spans, trace).contains(*path)) {
        let late = started.elapsed() > Duration::from_secs(30);
        assert!(!late, "none of {wanted:#?} in {:#?}", paths(spans, trace));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until the trace has all these paths.
fn wait_for(spans: &Spans, trace: u128, wanted: &[&str]) {
    let started = Instant::now();
    loop {
        let there = paths(spans, trace);
        let missing: Vec<_> = wanted.iter().filter(|path| !there.contains(**path)).collect();
        if missing.is_empty() {
            return;
        }
        let late = started.elapsed() > Duration::from_secs(30);
        assert!(!late, "missing {missing:#?} in {there:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Goal: one trace from the client's span through S3, the set, the fabric and the other node to the
/// drive's log and the I/O of shards; nothing of a request that the client does not trace. Method: a
/// collector in the test, two nodes, a small and a large object put and got.
#[test]
fn a_request_is_one_tree_over_both_nodes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, spans) = collector();
    let endpoint = format!("http://{address}");
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint[..]), ("OTEL_BSP_SCHEDULE_DELAY", "200")];
    let ports = [free_port(), free_port()];
    let mut nodes = [0, 1].map(|n| start(dir.path(), ports, n, &env));
    nodes.iter_mut().for_each(|node| {
        node.wait_ready();
    });
    let client = Client::new(nodes[0].address);
    let traced = |trace: u128, method: &str, path: &str, body: &[u8]| {
        let (status, answer) = client.request_with(method, path, body, &header(trace));
        assert_eq!(status, 200, "{method} {path}: {}", String::from_utf8_lossy(&answer));
        answer
    };
    traced(1, "PUT", "/first", b"");
    let (small, large) = (vec![7; 10_240], vec![8; 5 << 20]);
    traced(2, "PUT", "/first/small", &small);
    wait_for(
        &spans,
        2,
        &[
            "client > PUT > set.write > node.call > drive.request > log.append",
            "client > PUT > set.write > fabric.call > *fabric.serve > node.call > drive.request > log.append",
        ],
    );
    assert!(traced(3, "GET", "/first/small", b"") == small);
    wait_for(&spans, 3, &["client > GET > set.read > node.call > drive.request"]);
    traced(4, "PUT", "/first/large", &large);
    wait_for(
        &spans,
        4,
        &[
            "client > PUT > set.receive > node.call > shard.write",
            "client > PUT > set.receive > fabric.call > *fabric.serve > node.call > shard.write",
        ],
    );
    assert!(traced(5, "GET", "/first/large", b"") == large);
    // Local drives are read first, unless they are slow just then: this machine may be busy.
    let local = "client > GET > node.call > shard.read";
    let remote = "client > GET > fabric.call > *fabric.serve > node.call > shard.read";
    wait_for_one(&spans, 5, &[local, remote]);

    // What is refused before it is routed is a request, too.
    let (status, _) = client.request_with("GET", "/first?torrent", b"", &header(7));
    assert_eq!(status, 403);
    wait_for(&spans, 7, &["client > GET"]);
    assert_eq!(answered(&spans, 7), Some(403));

    let before = spans.lock().expect("held").len();
    let silent = header(6).replace("-01\r\n", "-00\r\n");
    let (status, _) = client.request_with("GET", "/first/small", b"", &silent);
    assert_eq!(status, 200);
    for node in nodes {
        assert!(node.terminate().0.success(), "what is left is sent and it ends well");
    }
    assert!(paths(&spans, 6).is_empty());
    let spans = spans.lock().expect("held");
    let known = [1_u128, 2, 3, 4, 5, 7].map(u128::to_be_bytes);
    let strangers: Vec<_> =
        spans.values().filter(|(_, span)| !known.iter().any(|id| span.trace_id == id)).collect();
    assert!(strangers.is_empty(), "background work is not traced: {strangers:#?} of {before}");
}
