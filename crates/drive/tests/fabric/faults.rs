//! Peers that die, hang or were never there.

use std::{sync::atomic::Ordering, time::Duration};

use holdfast_drive::{api::DriveRequest, node::Node};
use holdfast_types::{DriveId, ErrorClass};

use crate::rig::{SECOND, Server, client};

const ASK: [(DriveId, DriveRequest); 1] = [(DriveId(1), DriveRequest::Facts)];

fn class(results: &[holdfast_drive::api::DriveResult]) -> Option<ErrorClass> {
    assert_eq!(results.len(), 1, "one result a request");
    results[0].as_ref().err().map(holdfast_drive::api::DriveError::class)
}

/// Nothing was sent, so nothing was done: another place may serve at once.
#[tokio::test]
async fn a_node_that_is_not_there_is_unavailable_at_once() {
    let server = Server::start().await;
    let address = server.address;
    server.kill().await;
    let client = client(address, 5, |_| {});
    assert_eq!(class(&client.call(SECOND, ASK.to_vec()).await), Some(ErrorClass::Unavailable));
    let asked = tokio::time::Instant::now();
    assert_eq!(class(&client.call(SECOND, ASK.to_vec()).await), Some(ErrorClass::Unavailable));
    assert!(asked.elapsed() < Duration::from_millis(200), "{:?}", asked.elapsed());
    assert!(!client.is_up() && client.why_down().is_some());
}

/// A call to a node that hangs ends with its deadline, as unknown: it may still be carried out.
#[tokio::test]
async fn a_hung_node_costs_the_deadline_and_no_more() {
    let server = Server::start().await;
    let client = server.client();
    assert_eq!(class(&client.call(SECOND, ASK.to_vec()).await), None);
    server.node.hang.store(true, Ordering::SeqCst);
    let asked = tokio::time::Instant::now();
    let results = client.call(Duration::from_millis(300), ASK.to_vec()).await;
    assert_eq!(class(&results), Some(ErrorClass::TimedOut));
    assert!(asked.elapsed() < SECOND, "{:?}", asked.elapsed());
    server.node.hang.store(false, Ordering::SeqCst);
    assert_eq!(class(&client.call(SECOND, ASK.to_vec()).await), None);
}

/// The call was on its way when the node died: unknown, and known soon, not at the deadline.
#[tokio::test]
async fn a_node_killed_in_a_call_leaves_it_unknown() {
    let server = Server::start().await;
    let client = server.client();
    assert_eq!(class(&client.call(SECOND, ASK.to_vec()).await), None);
    server.node.hang.store(true, Ordering::SeqCst);
    let calls = server.node.calls.load(Ordering::SeqCst);
    let node = server.node.clone();
    let call = client.call(30 * SECOND, ASK.to_vec());
    let kill = async {
        while node.calls.load(Ordering::SeqCst) == calls {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.kill().await;
    };
    let asked = tokio::time::Instant::now();
    let (results, ()) = futures::join!(call, kill);
    assert_eq!(class(&results), Some(ErrorClass::TimedOut));
    assert!(asked.elapsed() < 10 * SECOND, "{:?}", asked.elapsed());
}

/// Goal: a restarted node is found again by itself; the session it does not know is renewed under the
/// caller. Method: kill, start at the same port, call until an answer comes.
#[tokio::test]
async fn a_node_that_comes_back_is_found_again() {
    let server = Server::start().await;
    let client = server.client();
    assert_eq!(class(&client.call(SECOND, ASK.to_vec()).await), None);
    let address = server.address;
    server.kill().await;
    let server = Server::start_at(address, 2).await;
    let mut outcome = class(&client.call(SECOND, ASK.to_vec()).await);
    for _ in 0..100 {
        if outcome.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        outcome = class(&client.call(SECOND, ASK.to_vec()).await);
    }
    assert_eq!(outcome, None);
    assert!(server.node.calls.load(Ordering::SeqCst) > 0);
}
