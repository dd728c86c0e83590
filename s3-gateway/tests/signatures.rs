//! Who gets in: signatures in headers, in URLs and in chunks, and the holes of s3s that are closed at
//! the gateway's edge. Method: the whole service over HTTP, against a signer of our own.

mod support;

use holdfast_engine::checksum::{Algorithm, Digester};
use support::{Call, Harness, get, now, put, sign};

#[tokio::test]
async fn signed_requests_pass_and_others_do_not() {
    let harness = Harness::with_bucket().await;
    put(&harness, "/bkt/k", b"v").await.ok();
    assert_eq!(get(&harness, "/bkt/k").await.ok().body, "v");

    let mut stranger = Call::new("GET", "/bkt/k");
    stranger.access_key = "nobody".to_owned();
    stranger.send(&harness).await.refused(403, "InvalidAccessKeyId");

    let mut forged = Call::new("GET", "/bkt/k");
    forged.secret_key = "guessed-wrong".to_owned();
    let forged = forged.send(&harness).await;
    forged.refused(403, "SignatureDoesNotMatch");
    assert!(forged.tag("Message").contains("secret key"), "{}", forged.text());

    let anonymous = http::Request::get("/bkt/k").header("host", "gateway.test");
    let anonymous = harness.exchange(anonymous.body(Default::default()).unwrap()).await;
    anonymous.refused(403, "AccessDenied");
}

#[tokio::test]
async fn clocks_must_agree_within_a_quarter_of_an_hour() {
    let harness = Harness::with_bucket().await;
    for at in [now() - 800, now() + 800] {
        Call::new("GET", "/bkt").at(at).send(&harness).await.ok();
    }
    for at in [now() - 1000, now() + 1000] {
        let answer = Call::new("GET", "/bkt").at(at).send(&harness).await;
        answer.refused(403, "RequestTimeTooSkewed");
    }
}

#[tokio::test]
async fn presigned_urls_live_as_long_as_they_say() {
    let harness = Harness::with_bucket().await;
    let url = |at| Call::new("PUT", "/bkt/k").body("v").at(at);
    url(now()).send_presigned(&harness, 60).await.ok();
    url(now() - 120).send_presigned(&harness, 60).await.refused(403, "AccessDenied");
    url(now()).send_presigned(&harness, -1).await.refused(403, "AccessDenied");
    let long = url(now()).send_presigned(&harness, 604_801).await;
    long.refused(400, "AuthorizationQueryParametersError");
}

/// Goal: a header that changes what a request means is refused when the signature does not cover it.
/// The story: whoever holds a presigned PUT adds `x-amz-copy-source` and reads another bucket.
#[tokio::test]
async fn unsigned_headers_are_refused() {
    let harness = Harness::with_bucket().await;
    put(&harness, "/bkt/secret", b"s").await.ok();
    let put = || Call::new("PUT", "/bkt/k");
    let copied = put().smuggle("x-amz-copy-source", "/bkt/secret");
    copied.clone().send_presigned(&harness, 60).await.refused(403, "AccessDenied");
    copied.send(&harness).await.refused(403, "AccessDenied");
    let described = put().smuggle("x-amz-meta-owner", "mallory");
    described.send_presigned(&harness, 60).await.refused(403, "AccessDenied");
    assert_eq!(get(&harness, "/bkt/k").await.status, 404);

    let harmless = put().body("v").smuggle("x-amz-user-agent", "browser");
    harmless.send_presigned(&harness, 60).await.ok();
    let signed = put().header("x-amz-copy-source", "/bkt/secret");
    signed.send_presigned(&harness, 60).await.ok();
    assert_eq!(get(&harness, "/bkt/k").await.body, "s");
}

/// Goal: metadata that an SDK moved into the presigned URL's query arrives.
#[tokio::test]
async fn hoisted_headers_count() {
    let harness = Harness::with_bucket().await;
    let url = Call::new("PUT", "/bkt/k?x-amz-meta-colour=red").body("v");
    url.send_presigned(&harness, 60).await.ok();
    assert_eq!(get(&harness, "/bkt/k").await.header("x-amz-meta-colour"), "red");
    let url = Call::new("PUT", "/bkt/k?x-amz-tagging=a%3Db").body("v");
    url.send_presigned(&harness, 60).await.refused(501, "NotImplemented");
}

#[tokio::test]
async fn other_ways_in_are_closed() {
    let harness = Harness::with_bucket().await;
    let token = Call::new("GET", "/bkt").header("x-amz-security-token", "t");
    token.send(&harness).await.refused(400, "InvalidToken");
    let token = Call::new("GET", "/bkt?X-Amz-Security-Token=t");
    token.send_presigned(&harness, 60).await.refused(400, "InvalidToken");

    let old = http::Request::get("/bkt").header("authorization", "AWS root-user:c2ln");
    let old = old.header("date", "Tue, 14 Nov 2023 22:13:20 GMT").body(Default::default());
    let old = harness.exchange(old.unwrap()).await;
    old.refused(400, "InvalidRequest");
    assert!(old.tag("Message").contains("s3v4"), "the cure is named: {}", old.text());

    let form = Call::new("POST", "/bkt").header("content-type", "multipart/form-data; boundary=x");
    form.send(&harness).await.refused(501, "NotImplemented");
}

/// A chunked PUT of `chunks`, changed by `change` after signing.
fn chunked(
    chunks: &[&[u8]],
    change: impl FnOnce(&mut Vec<u8>),
) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let length: usize = chunks.iter().map(|chunk| chunk.len()).sum();
    let call = Call::new("PUT", "/bkt/k")
        .header("x-amz-decoded-content-length", &length.to_string())
        .header("content-encoding", "aws-chunked")
        .payload("STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    let mut signed = sign::signed(call);
    let mut body: Vec<u8> = chunks.iter().flat_map(|chunk| signed.chunks.chunk(chunk)).collect();
    body.extend(signed.chunks.chunk(b""));
    change(&mut body);
    signed.request.map(|_| http_body_util::Full::new(body.into()))
}

#[tokio::test]
async fn signed_chunks_are_verified() {
    let harness = Harness::with_bucket().await;
    let chunks: [&[u8]; 3] = [&[1; 70_000], &[2; 1], &[3; 9000]];
    harness.exchange(chunked(&chunks, |_| {})).await.ok();
    let read = get(&harness, "/bkt/k").await;
    assert_eq!(read.body, chunks.concat());
    assert_eq!(read.header("content-encoding"), "", "aws-chunked must not be kept");

    let tampered = harness.exchange(chunked(&chunks, |body| body[200] ^= 1)).await;
    tampered.refused(403, "SignatureDoesNotMatch");
    assert_eq!(get(&harness, "/bkt/k").await.body, chunks.concat(), "the old object stays");
}

/// Goal: no client makes the gateway hold a gigabyte for one chunk.
#[tokio::test]
async fn signed_chunks_are_bounded() {
    let harness = Harness::with_bucket().await;
    let large = vec![7; (16 << 20) + 1];
    let answer = harness.exchange(chunked(&[&large], |_| {})).await;
    answer.refused(400, "InvalidChunkSizeError");
}

/// Goal: a signed chunked body ends with its last chunk, whose signature says that this was all. The story:
/// the end of the connection was taken for it. Method: all data, without that chunk, and cut within it.
#[tokio::test]
async fn signed_chunks_end_with_the_last_one() {
    let harness = Harness::with_bucket().await;
    let chunks: [&[u8]; 2] = [&[1; 70_000], &[2; 5]];
    let last = "0;chunk-signature=".len() + 64 + "\r\n\r\n".len();
    for cut in [last, last - 1, 70, 5] {
        let answer =
            harness.exchange(chunked(&chunks, |body| body.truncate(body.len() - cut))).await;
        answer.refused(400, "IncompleteBody");
    }
    assert_eq!(get(&harness, "/bkt/k").await.status, 404);
}

/// Goal: a checksum that an SDK moved into the presigned URL is compared with the body; that of no body,
/// which SDKs put there because there is none yet, means nothing. Method: each of them.
#[tokio::test]
async fn hoisted_checksums_count() {
    let harness = Harness::with_bucket().await;
    let url = |sum: &str| {
        let mut call = Call::new("PUT", "/bkt/k?x-amz-sdk-checksum-algorithm=CRC32").body("v");
        call.query.push(("x-amz-checksum-crc32".to_owned(), sum.to_owned()));
        call
    };
    let of = |body: &[u8]| {
        let mut digester = Digester::new(Some(Algorithm::Crc32));
        digester.update(body);
        digester.finish().checksum.unwrap().value
    };
    url(&of(b"other")).send_presigned(&harness, 60).await.refused(400, "BadDigest");
    assert_eq!(get(&harness, "/bkt/k").await.status, 404);
    url(&of(b"")).send_presigned(&harness, 60).await.ok();
    let right = url(&of(b"v")).send_presigned(&harness, 60).await;
    assert_eq!(right.ok().header("x-amz-checksum-crc32"), of(b"v"));
}

/// Goal: what lacks in a presigned URL is named. Method: one without its date, one of another algorithm.
#[tokio::test]
async fn presigned_urls_that_lack_something() {
    let harness = Harness::with_bucket().await;
    let changed = |change: fn(&str) -> String| {
        let request = sign::presigned(Call::new("GET", "/bkt"), 60);
        let (mut parts, body) = request.into_parts();
        parts.uri = change(&parts.uri.to_string()).parse().unwrap();
        http::Request::from_parts(parts, body)
    };
    let undated = harness.exchange(changed(|uri| uri.replace("X-Amz-Date=", "X-Amz-Day="))).await;
    undated.refused(400, "AuthorizationQueryParametersError");
    assert!(undated.tag("Message").contains("X-Amz-Date"), "{}", undated.text());
    let other = harness.exchange(changed(|uri| uri.replace("HMAC-SHA256", "HMAC-SHA1"))).await;
    other.refused(400, "AuthorizationQueryParametersError");
}
