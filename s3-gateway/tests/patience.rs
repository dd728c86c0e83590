//! Clients that send nothing, or too much, keep nobody else out. Method: the whole service, bodies of which
//! nothing more comes, and time that passes by itself when nobody has anything to do.

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::Request;
use http_body_util::BodyExt as _;
use support::{Call, Harness, get, sign};

/// Some bytes, then silence.
fn silent(begins: &'static [u8]) -> s3s::Body {
    let begins = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(begins))]);
    s3s::dto::StreamingBlob::wrap(begins.chain(stream::pending())).into()
}

/// Sends the head of a call with such a body behind it; status and text of the answer.
async fn send(harness: &Harness, call: Call, begins: &'static [u8]) -> (u16, String) {
    let (parts, _) = sign::signed(call).request.into_parts();
    exchange(harness, Request::from_parts(parts, silent(begins))).await
}

async fn exchange(harness: &Harness, request: Request<s3s::Body>) -> (u16, String) {
    let answer = harness.service.handle(request).await;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    (status, String::from_utf8_lossy(&body.unwrap_or_default()).into_owned())
}

#[tokio::test(start_paused = true)]
async fn a_client_that_falls_silent_is_not_waited_for() {
    let harness = Harness::with_bucket().await;
    let calls = [
        Call::new("PUT", "/bkt/k").payload("UNSIGNED-PAYLOAD").header("content-length", "1000"),
        Call::new("PUT", "/bkt/k").header("content-length", "1000"),
        Call::new("PUT", "/bkt/k"),
        Call::new("PUT", "/bkt/k")
            .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
            .header("x-amz-decoded-content-length", "1000")
            .header("x-amz-trailer", "x-amz-checksum-crc32"),
        Call::new("POST", "/bkt?delete").header("content-length", "1000"),
    ];
    for (n, call) in calls.into_iter().enumerate() {
        let began = tokio::time::Instant::now();
        let (status, text) = send(&harness, call, b"3e8\r\n<Delete>").await;
        assert!(status == 400 && text.contains("<Code>RequestTimeout<"), "{n}: {status} {text}");
        let waited = began.elapsed();
        assert!((20..=60).contains(&waited.as_secs()), "{n}: {waited:?}");
        assert_eq!(get(&harness, "/bkt/k").await.status, 404);
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_no_key_keeps_nobody_out() {
    let harness = Harness::with(|config| config.requests_max = 1);
    // Unsigned: refused, unread.
    let unsigned = Request::put("/bkt/k").body(silent(b"x")).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(1), exchange(&harness, unsigned)).await;
    assert_eq!(answer.expect("at once").0, 403);
    // Of unknown length and with a signature that nobody has checked: a request more is served beside it.
    let service = harness.service.clone();
    let slow: Vec<_> = (0..200)
        .map(|_| {
            let call = Call { secret_key: "wrong".to_owned(), ..Call::new("PUT", "/bkt/k") };
            let (parts, _) = sign::signed(call).request.into_parts();
            let service = service.clone();
            tokio::spawn(async move {
                service.handle(Request::from_parts(parts, silent(b"x"))).await.status().as_u16()
            })
        })
        .collect();
    tokio::task::yield_now().await;
    get(&harness, "/").await.ok();
    let mut refused = [0; 2];
    for answer in slow {
        match answer.await.unwrap() {
            400 => refused[0] += 1,
            503 => refused[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(refused, [64, 136], "so many are waited for at a time");
}

#[tokio::test]
async fn what_is_wrong_with_one_key_is_said_of_that_key() {
    let harness = Harness::with_bucket().await;
    support::put(&harness, "/bkt/good", b"x").await.ok();
    let long = "k".repeat(1025);
    let xml = format!(
        "<Delete><Object><Key>good</Key></Object><Object><Key>{long}</Key></Object>\
         <Object><Key>odd</Key><VersionId>no-such-form</VersionId></Object></Delete>"
    );
    let answer = Call::new("POST", "/bkt?delete").body(xml).send(&harness).await;
    let text = answer.ok().text();
    assert!(text.contains("<Deleted><Key>good</Key></Deleted>"), "{text}");
    assert_eq!(text.matches("<Error>").count(), 2, "{text}");
    assert!(text.contains("<Code>KeyTooLongError</Code>"), "{text}");
    assert_eq!(get(&harness, "/bkt/good").await.status, 404);
    let none = "<Delete><Object><Key></Key></Object></Delete>";
    Call::new("POST", "/bkt?delete").body(none).send(&harness).await.refused(400, "MalformedXML");
    let endless = vec![b' '; (8 << 20) + 1];
    let answer = Call::new("POST", "/bkt?delete").body(endless).send(&harness).await;
    answer.refused(400, "MaxMessageLengthExceeded");
}

#[tokio::test]
async fn a_payload_hash_that_is_none_is_called_so() {
    let harness = Harness::with_bucket().await;
    for odd in ["zzz", "STREAMING-UNSIGNED-PAYLOAD", "unsigned-payload"] {
        let put = Call::new("PUT", "/bkt/k").payload(odd).body(&b"x"[..]);
        put.send(&harness).await.refused(400, "InvalidArgument");
    }
}
