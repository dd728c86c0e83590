//! Nothing is stored that is not what the client announced. Method: every way to announce a digest, right
//! and wrong, through the whole service; a refused body must leave no object.

mod support;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use holdfast_engine::checksum::{Algorithm, Digester};
use support::{Answer, Call, Harness, get};

const BODY: &[u8] = b"the quick brown fox";

fn checksum(algorithm: Algorithm, body: &[u8]) -> String {
    let mut digester = Digester::new(Some(algorithm));
    digester.update(body);
    digester.finish().checksum.unwrap().value
}

fn md5(body: &[u8]) -> String {
    let mut digester = Digester::new(None);
    digester.update(body);
    BASE64.encode(hex::decode(digester.finish().etag).unwrap())
}

async fn nothing_is_there(harness: &Harness) {
    assert_eq!(get(harness, "/bkt/k").await.status, 404);
}

#[tokio::test]
async fn checksums_by_header_are_verified_stored_and_echoed() {
    for algorithm in Algorithm::ALL {
        let harness = Harness::with_bucket().await;
        let header = format!("x-amz-checksum-{}", algorithm.name().to_lowercase());
        let put = |value: String| Call::new("PUT", "/bkt/k").body(BODY).header(&header, &value);
        put(checksum(algorithm, b"other")).send(&harness).await.refused(400, "BadDigest");
        nothing_is_there(&harness).await;
        let right = checksum(algorithm, BODY);
        let answer = put(right.clone()).send(&harness).await;
        assert_eq!(answer.ok().header(&header), right);
        assert_eq!(get(&harness, "/bkt/k").await.header(&header), "", "only when asked for");
        let asked = Call::new("GET", "/bkt/k").header("x-amz-checksum-mode", "ENABLED");
        let read = asked.clone().send(&harness).await;
        assert_eq!(read.header(&header), right);
        assert_eq!(read.header("x-amz-checksum-type"), "FULL_OBJECT");
        let part = asked.header("range", "bytes=1-2").send(&harness).await;
        assert_eq!(part.header(&header), "", "a range has no checksum");
    }
}

fn trailing(algorithm: Algorithm, value: Option<String>, length: usize) -> Call {
    let header = format!("x-amz-checksum-{}", algorithm.name().to_lowercase());
    let trailer = value.map_or_else(String::new, |value| format!("{header}:{value}\r\n"));
    let body = [format!("{:x}\r\n", BODY.len()).as_bytes(), BODY, b"\r\n0\r\n"].concat();
    let body = [&body[..], trailer.as_bytes(), b"\r\n"].concat();
    Call::new("PUT", "/bkt/k")
        .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
        .header("content-encoding", "gzip, aws-chunked")
        .header("x-amz-decoded-content-length", &length.to_string())
        .header("x-amz-trailer", &header)
        .body(body)
}

#[tokio::test]
async fn checksums_by_trailer_are_verified_and_must_come() {
    for algorithm in Algorithm::ALL {
        let harness = Harness::with_bucket().await;
        let wrong = trailing(algorithm, Some(checksum(algorithm, b"other")), BODY.len());
        wrong.send(&harness).await.refused(400, "BadDigest");
        let none = trailing(algorithm, None, BODY.len());
        none.send(&harness).await.refused(400, "MalformedTrailerError");
        nothing_is_there(&harness).await;
        let right = checksum(algorithm, BODY);
        trailing(algorithm, Some(right), BODY.len()).send(&harness).await.ok();
        let read = get(&harness, "/bkt/k").await;
        assert_eq!((&read.body[..], read.header("content-encoding")), (BODY, "gzip"));
    }
}

#[tokio::test]
async fn bodies_have_the_length_they_announce() {
    let harness = Harness::with_bucket().await;
    for length in [BODY.len() - 1, BODY.len() + 1] {
        let right = checksum(Algorithm::Crc32, BODY);
        let call = trailing(Algorithm::Crc32, Some(right), length);
        call.send(&harness).await.refused(400, "IncompleteBody");
        nothing_is_there(&harness).await;
    }
}

#[tokio::test]
async fn other_digests_are_verified() {
    let harness = Harness::with_bucket().await;
    let put = || Call::new("PUT", "/bkt/k").body(BODY);
    put().header("content-md5", &md5(b"other")).send(&harness).await.refused(400, "BadDigest");
    put().header("content-md5", "rubbish").send(&harness).await.refused(400, "InvalidDigest");
    let hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    put().payload(hash).send(&harness).await.refused(400, "XAmzContentSHA256Mismatch");
    nothing_is_there(&harness).await;
    put().header("content-md5", &md5(BODY)).send(&harness).await.ok();
    put().payload("UNSIGNED-PAYLOAD").send(&harness).await.ok();
}

/// Goal: a large body takes the way over the hashing thread and is the same.
#[tokio::test]
async fn large_bodies_are_verified_too() {
    let harness = Harness::with_bucket().await;
    let body: Vec<u8> = (0..6_000_000_u32).map(|at| (at % 253) as u8).collect();
    let put = |sum: String| {
        let call = Call::new("PUT", "/bkt/k").payload("UNSIGNED-PAYLOAD").body(body.clone());
        call.header("x-amz-checksum-crc64nvme", &sum)
    };
    let wrong = checksum(Algorithm::Crc64Nvme, b"other");
    put(wrong).send(&harness).await.refused(400, "BadDigest");
    put(checksum(Algorithm::Crc64Nvme, &body)).send(&harness).await.ok();
    let read = get(&harness, "/bkt/k").await;
    assert!(read.body == body, "{} bytes", read.body.len());
    assert_eq!(
        BASE64.encode(hex::decode(read.header("etag").trim_matches('"')).unwrap()),
        md5(&body)
    );
}

fn delete_xml(keys: &[&str]) -> String {
    let objects: String =
        keys.iter().map(|key| format!("<Object><Key>{key}</Key></Object>")).collect();
    format!("<Delete>{objects}</Delete>")
}

/// Goal: XML bodies, which s3s reads by itself, are compared with their digests as well.
#[tokio::test]
async fn xml_bodies_are_verified() {
    let harness = Harness::with_bucket().await;
    Call::new("PUT", "/bkt/k").body(BODY).send(&harness).await.ok();
    let xml = delete_xml(&["k"]);
    let delete = || Call::new("POST", "/bkt?delete").body(xml.clone());
    delete().header("content-md5", &md5(b"other")).send(&harness).await.refused(400, "BadDigest");
    let wrong = checksum(Algorithm::Crc32, b"other");
    let call = delete().header("x-amz-checksum-crc32", &wrong);
    call.send(&harness).await.refused(400, "BadDigest");
    get(&harness, "/bkt/k").await.ok();
    let right = delete().header("content-md5", &md5(xml.as_bytes())).send(&harness).await;
    assert_eq!(right.ok().tags("Key"), ["k"]);
    nothing_is_there(&harness).await;
}

#[tokio::test]
async fn deletes_in_bulk_are_bounded_and_can_be_quiet() {
    let harness = Harness::with_bucket().await;
    let keys: Vec<String> = (0..1001).map(|at| format!("k{at}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let post = |xml: String| Call::new("POST", "/bkt?delete").body(xml);
    post(delete_xml(&keys)).send(&harness).await.refused(400, "MalformedXML");
    let all = post(delete_xml(&keys[..1000])).send(&harness).await;
    assert_eq!(all.ok().tags("Deleted").len(), 1000);
    let quiet = delete_xml(&keys[..3]).replace("<Delete>", "<Delete><Quiet>true</Quiet>");
    let quiet: Answer = post(quiet).send(&harness).await;
    assert!(quiet.ok().tags("Deleted").is_empty());
}

#[tokio::test]
async fn user_metadata_is_bounded_and_kept() {
    let harness = Harness::with_bucket().await;
    let put = |bytes: usize| {
        let call = Call::new("PUT", "/bkt/k").body(BODY).header("cache-control", "no-store");
        call.header("x-amz-meta-a", &"v".repeat(bytes))
            .header("expires", "Tue, 14 Nov 2023 22:13:20 GMT")
    };
    put(2048).send(&harness).await.refused(400, "MetadataTooLarge");
    put(2047).send(&harness).await.ok();
    let read = Call::new("HEAD", "/bkt/k").send(&harness).await;
    assert_eq!(read.header("x-amz-meta-a").len(), 2047);
    assert_eq!(read.header("cache-control"), "no-store");
    assert_eq!(read.header("expires"), "Tue, 14 Nov 2023 22:13:20 GMT");
    assert_eq!(read.header("content-type"), "binary/octet-stream");
}

/// Goal: a checksum that the client says it sends and that does not come is missed. The story: one was
/// computed for it instead, over whatever had come. Method: with and without Content-MD5, which stands in.
#[tokio::test]
async fn checksums_that_got_lost_are_missed() {
    let harness = Harness::with_bucket().await;
    let put =
        || Call::new("PUT", "/bkt/k").body(BODY).header("x-amz-sdk-checksum-algorithm", "CRC32");
    put().send(&harness).await.refused(400, "InvalidRequest");
    nothing_is_there(&harness).await;
    put().header("content-md5", &md5(BODY)).send(&harness).await.ok();
    let asked = Call::new("GET", "/bkt/k").header("x-amz-checksum-mode", "ENABLED");
    assert!(!asked.send(&harness).await.header("x-amz-checksum-crc32").is_empty());
}

/// Goal: no XML is carried out whose checksum was not compared. The story: s3s takes the framing off and looks
/// at no trailer, so that a wrong one deleted all the same. Method: keys to delete, with a wrong trailer.
#[tokio::test]
async fn framed_xml_is_refused() {
    let harness = Harness::with_bucket().await;
    Call::new("PUT", "/bkt/k").body(BODY).send(&harness).await.ok();
    let xml = "<Delete><Object><Key>k</Key></Object></Delete>";
    let body = format!("{:x}\r\n{xml}\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", xml.len());
    let call = Call::new("POST", "/bkt?delete")
        .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
        .header("x-amz-decoded-content-length", &xml.len().to_string())
        .header("x-amz-trailer", "x-amz-checksum-crc32")
        .body(body);
    call.send(&harness).await.refused(501, "NotImplemented");
    assert_eq!(get(&harness, "/bkt/k").await.ok().body, BODY);
}
