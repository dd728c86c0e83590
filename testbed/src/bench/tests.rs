//! The bench against a small S3 server in memory, which checks every signature and can misbehave.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use clap::Parser as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::{
    Args, measure,
    sign::{self, Credentials, sha256_hex},
};

/// What the server does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    FlippedByte,
    ShortBody,
    LostKey,
    SlowDown,
}

struct Store {
    objects: Mutex<BTreeMap<String, Bytes>>,
    fault: Mutex<Fault>,
}

impl Store {
    fn set(&self, fault: Fault) {
        *self.fault.lock().expect("lock") = fault;
    }

    fn len(&self) -> usize {
        self.objects.lock().expect("lock").len()
    }

    fn answer(&self, method: &Method, key: &str, query: &str, body: Bytes) -> (u16, Bytes) {
        let mut objects = self.objects.lock().expect("lock");
        let fault = *self.fault.lock().expect("lock");
        if fault == Fault::SlowDown {
            return (503, "<Error><Code>SlowDown</Code></Error>".into());
        }
        match (method.as_str(), key) {
            ("PUT", "") => (409, "<Error><Code>BucketAlreadyOwnedByYou</Code></Error>".into()),
            ("GET", "") => (200, list(&objects, query, fault).into()),
            ("POST", "") => {
                let text = String::from_utf8(body.to_vec()).expect("XML");
                for piece in text.split("<Key>").skip(1) {
                    objects.remove(piece.split("</Key>").next().expect("a key"));
                }
                (200, "<DeleteResult></DeleteResult>".into())
            }
            ("PUT", _) => {
                objects.insert(key.to_owned(), body);
                (200, Bytes::new())
            }
            ("DELETE", _) => {
                objects.remove(key);
                (204, Bytes::new())
            }
            ("GET" | "HEAD", _) => match objects.get(key) {
                None => (404, "<Error><Code>NoSuchKey</Code></Error>".into()),
                Some(bytes) => (200, damaged(bytes, fault)),
            },
            _ => (405, Bytes::new()),
        }
    }
}

fn damaged(bytes: &Bytes, fault: Fault) -> Bytes {
    let mut bytes = bytes.to_vec();
    match fault {
        Fault::FlippedByte => *bytes.last_mut().expect("objects are not empty") ^= 1,
        Fault::ShortBody => bytes.truncate(bytes.len() - 1),
        _ => {}
    }
    bytes.into()
}

/// Pages of 7 keys.
fn list(objects: &BTreeMap<String, Bytes>, query: &str, fault: Fault) -> String {
    let get = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value);
        percent_encoding::percent_decode_str(value.unwrap_or_default())
            .decode_utf8()
            .expect("UTF-8")
            .into_owned()
    };
    let (prefix, after) = (get("prefix"), get("continuation-token"));
    let mut keys: Vec<&String> =
        objects.keys().filter(|key| key.starts_with(&prefix) && **key > after).collect();
    if fault == Fault::LostKey && after.is_empty() {
        keys.remove(3);
    }
    let page = &keys[..keys.len().min(7)];
    let more = keys.len() > page.len();
    let entries: String =
        page.iter().map(|key| format!("<Contents><Key>{key}</Key></Contents>")).collect();
    let token = if more {
        format!("<NextContinuationToken>{}</NextContinuationToken>", page[page.len() - 1])
    } else {
        String::new()
    };
    format!("<R><IsTruncated>{more}</IsTruncated>{token}{entries}</R>")
}

/// Whether the request is signed by us, over the headers it names and the body it has.
fn is_signed(request: &Request<()>, body: &[u8]) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let given = header("authorization").expect("signed");
    let names = given.split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next());
    let names: Vec<&str> = names.expect("names").split(';').collect();
    let headers: Vec<(&str, &str)> =
        names.into_iter().map(|name| (name, header(name).expect("a signed header"))).collect();
    let hash = header("x-amz-content-sha256").expect("hash");
    let credentials = Credentials {
        access_key: "access".into(),
        secret_key: "secret".into(),
        region: "us-east-1".into(),
    };
    let expected = credentials.authorization(&sign::Request {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        headers: &headers,
        payload_hash: hash,
        date: header("x-amz-date").expect("date"),
    });
    expected == given && (hash == sign::UNSIGNED_PAYLOAD || hash == sha256_hex(body))
}

/// Starts the server; its endpoint.
async fn serve(store: Arc<Store>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            let store = Arc::clone(&store);
            let service = service_fn(move |request: Request<Incoming>| {
                let store = Arc::clone(&store);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.expect("body").to_bytes();
                    let request = Request::from_parts(parts, ());
                    let path = request.uri().path().strip_prefix("/bucket").expect("our bucket");
                    let key = path.trim_start_matches('/').to_owned();
                    let (status, answer) = if is_signed(&request, &body) {
                        let query = request.uri().query().unwrap_or_default();
                        store.answer(request.method(), &key, query, body)
                    } else {
                        (403, "<Error><Code>SignatureDoesNotMatch</Code></Error>".into())
                    };
                    let mut response = Response::new(Full::new(answer));
                    *response.status_mut() = StatusCode::from_u16(status).expect("status");
                    Ok::<_, Infallible>(response)
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    endpoint
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(endpoint: &str, rest: &str) -> Args {
    let fixed =
        ["bench", "--endpoint", endpoint, "--access-key", "access", "--secret-key", "secret"];
    let fixed = fixed.into_iter().chain(["--bucket", "bucket", "--concurrency", "3"]);
    Cli::parse_from(fixed.chain(rest.split_ascii_whitespace())).args
}

async fn store() -> (Arc<Store>, String) {
    let store =
        Arc::new(Store { objects: Mutex::new(BTreeMap::new()), fault: Mutex::new(Fault::None) });
    let endpoint = serve(Arc::clone(&store)).await;
    (store, endpoint)
}

/// Goal: each operation does its work once over all objects, with every request signed as the server
/// sees it. Method: all operations in turn; the counts of the report and of the server.
#[tokio::test]
async fn every_operation_goes_over_all_objects() {
    let (store, endpoint) = store().await;
    let run = async |rest: &str| measure(&args(&endpoint, rest)).await.expect(rest);
    let put = run("put --objects 20 --size 1000").await;
    assert_eq!((put.operations, put.errors, store.len()), (20, 0, 20), "{put}");
    let signed = run("put --objects 20 --size 1000 --sign-payload").await;
    assert!(signed.is_good() && store.len() == 20, "{signed}");
    let get = run("get --objects 30 --size 1000").await;
    assert_eq!((get.operations, get.errors, store.len()), (30, 0, 30), "missing ones are written");
    let stat = run("stat --objects 10 --size 1000").await;
    assert_eq!((stat.objects, stat.operations, stat.errors), (30, 30, 0));
    let list = run("list --objects 10 --size 1000").await;
    assert_eq!((list.operations, list.objects_done, list.errors), (15, 90, 0), "{list}");
    let delete = run("delete --objects 30 --size 1000 --batch 8").await;
    assert_eq!((delete.operations, delete.objects_done, store.len()), (4, 30, 0), "{delete}");
    let single = run("delete --objects 3 --size 1000 --batch 1").await;
    assert_eq!((single.operations, single.errors, store.len()), (3, 0, 0), "{single}");
    assert!(get.latency_ms.p50 > 0.0 && get.latency_ms.max >= get.latency_ms.p999);
}

/// Goal: a run for a duration takes that long and goes on beyond the number of objects. Method: a
/// second of GETs of two objects, one endpoint given twice.
#[tokio::test]
async fn a_duration_is_kept() {
    let (_store, endpoint) = store().await;
    let both = format!("{endpoint},{endpoint}");
    let rest = "get --objects 2 --size 100KiB --duration 1s";
    let report = measure(&args(&both, rest)).await.expect("it runs");
    assert!(report.is_good() && report.operations > 2, "{report}");
    assert!((1.0..3.0).contains(&report.seconds), "{report}");
}

/// Goal: in an open loop a server that stalls shows in every request that was due meanwhile (coordinated
/// omission), and not in the time from sending. Method: one worker, one slow answer of 300 ms among
/// requests due every 10 ms.
#[tokio::test]
async fn a_stall_counts_for_all_that_were_due() {
    let (store, endpoint) = store().await;
    let rest = "stat --objects 5 --size 10 --rate 100 --duration 2s";
    let stalled = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            std::thread::spawn(move || {
                let _held = store.objects.lock().expect("lock");
                std::thread::sleep(std::time::Duration::from_millis(300));
            })
        }
    });
    let mut args = args(&endpoint, rest);
    args.concurrency = 1;
    let report = measure(&args).await.expect("it runs");
    stalled.await.expect("begun").join().expect("it stalls");
    let service = report.service_ms.as_ref().expect("an open loop");
    assert!((150..=200).contains(&report.operations), "{report}");
    assert!(report.latency_ms.max >= 250.0 && report.latency_ms.p90 >= 50.0, "{report}");
    assert!(service.p90 < 50.0 && service.max >= 250.0, "{report}");
}

/// Goal: a mixed run does everything in its shares and tells each apart; the servers are followed over
/// time. Method: this process stands in for the server.
#[tokio::test]
async fn a_mixed_run_tells_its_operations_apart() {
    let (_store, endpoint) = store().await;
    let pid = std::process::id();
    let rest = format!(
        "mixed --objects 20 --size 100 --duration 1s --mix get=60,put=30,stat=10 --pids {pid} \
         --interval 100ms"
    );
    let report = measure(&args(&endpoint, &rest)).await.expect("it runs");
    assert!(report.is_good(), "{report}");
    let share = |operation| {
        let kind = report.kinds.iter().find(|kind| kind.operation == operation).expect("done");
        kind.operations as f64 / report.operations as f64
    };
    use super::load::Operation::{Get, Put, Stat};
    assert!((share(Get) - 0.6).abs() < 0.1 && (share(Put) - 0.3).abs() < 0.1, "{report}");
    assert!(share(Stat) > 0.02 && report.mix.as_deref() == Some("get=60,put=30,stat=10"));
    assert!((5..=11).contains(&report.timeline.len()), "{:?}", report.timeline);
    let objects: u64 = report.timeline.iter().map(|point| point.objects).sum();
    assert!(objects > 0 && objects <= report.objects_done);
    assert!(report.timeline.iter().all(|point| point.server_mib > 1.0));
    assert!(report.to_string().contains("p99.99"), "{report}");
}

/// Goal: nothing wrong goes unseen. Method: a flipped byte, a body cut short, a key left out of a
/// list, 503; each is counted, as a wrong answer where it is one.
#[tokio::test]
async fn wrong_answers_are_counted() {
    let (store, endpoint) = store().await;
    let run = async |rest: &str| measure(&args(&endpoint, rest)).await.expect(rest);
    assert!(run("put --objects 10 --size 500KiB").await.is_good());
    store.set(Fault::FlippedByte);
    let get = run("get --objects 10 --size 500KiB").await;
    assert_eq!((get.errors, get.corrupt, get.operations), (10, 10, 0), "{get}");
    assert!(!get.is_good() && get.to_string().contains("differs"), "{get}");
    store.set(Fault::ShortBody);
    let get = run("get --objects 10 --size 500KiB").await;
    assert_eq!((get.errors, get.corrupt), (10, 10), "{get}");
    let stat = run("stat --objects 10 --size 500KiB").await;
    assert_eq!((stat.errors, stat.corrupt), (10, 10), "{stat}");
    store.set(Fault::SlowDown);
    let error = measure(&args(&endpoint, "get --objects 10")).await.expect_err("cannot prepare");
    assert!(format!("{error:#}").contains("503 Service Unavailable SlowDown"), "{error:#}");
    store.set(Fault::None);
    assert!(run("list --objects 10 --size 500KiB").await.is_good());
}

/// Goal: a list that loses a key is seen. Method: the key is lost only after the preparation, which
/// would write it again.
#[tokio::test]
async fn a_lost_key_is_seen() {
    let (store, endpoint) = store().await;
    let args = args(&endpoint, "list --objects 10 --size 10 --duration 1s");
    let faulty = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            store.set(Fault::LostKey);
        }
    });
    let report = measure(&args).await.expect("it runs");
    faulty.await.expect("the fault is set");
    assert!(report.corrupt > 0 && report.to_string().contains("expected 1/10B/0000000003"));
}
