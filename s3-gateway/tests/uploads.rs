//! Uploads in parts: what a client says of them is compared, or refused. Method: the whole service over
//! HTTP.

mod support;

use holdfast_engine::checksum::{Algorithm, Digester};
use support::{Answer, Call, Harness, get};

const BODY: &[u8] = b"a part that is the last one, too";

fn checksum(algorithm: Algorithm, body: &[u8]) -> String {
    let mut digester = Digester::new(Some(algorithm));
    digester.update(body);
    digester.finish().checksum.unwrap().value
}

/// An upload of one part, and that part as Complete names it.
struct Upload {
    id: String,
    etag: String,
}

impl Upload {
    async fn create(harness: &Harness, headers: &[(&str, &str)]) -> String {
        let create = Call::new("POST", "/bkt/k?uploads");
        let create = headers.iter().fold(create, |call, (name, value)| call.header(name, value));
        create.send(harness).await.ok().tag("UploadId")
    }

    async fn part(harness: &Harness, id: &str, headers: &[(&str, &str)]) -> Answer {
        let path = format!("/bkt/k?partNumber=1&uploadId={id}");
        let part = Call::new("PUT", &path).body(BODY);
        headers
            .iter()
            .fold(part, |call, (name, value)| call.header(name, value))
            .send(harness)
            .await
    }

    async fn new(harness: &Harness, headers: &[(&str, &str)]) -> Self {
        let id = Self::create(harness, headers).await;
        let etag = Self::part(harness, &id, &[]).await.ok().header("etag").to_owned();
        Self { id, etag }
    }

    async fn complete(&self, harness: &Harness, headers: &[(&str, &str)], of_part: &str) -> Answer {
        let xml = format!(
            "<CompleteMultipartUpload><Part><ETag>{}</ETag>{of_part}<PartNumber>1</PartNumber></Part>\
             </CompleteMultipartUpload>",
            self.etag
        );
        let call = Call::new("POST", &format!("/bkt/k?uploadId={}", self.id)).body(xml);
        headers
            .iter()
            .fold(call, |call, (name, value)| call.header(name, value))
            .send(harness)
            .await
    }
}

/// Goal: Complete confirms nothing that was not compared. The story: a checksum of the whole, of a part or a
/// type of checksum that the upload did not have, and every size, were taken and passed over. Method: each
/// of them, wrong; then the upload, still there, completed rightly.
#[tokio::test]
async fn what_complete_announces_is_compared() {
    let harness = Harness::with_bucket().await;
    let (crc, sha) = ("x-amz-checksum-crc32", "x-amz-checksum-sha256");
    let wrong = checksum(Algorithm::Crc32, b"other");
    let right = checksum(Algorithm::Crc32, BODY);
    let wrong_sha = checksum(Algorithm::Sha256, b"other");
    let algorithm = ("x-amz-checksum-algorithm", "CRC32");
    let full = [algorithm, ("x-amz-checksum-type", "FULL_OBJECT")];
    let named = format!("<ChecksumCRC32>{wrong}</ChecksumCRC32>");
    let size = BODY.len().to_string();
    let none: &[(&str, &str)] = &[];
    for (created, announced, of_part, code) in [
        (none, (crc, wrong.as_str()), "", "InvalidRequest"),
        (none, (crc, &right), "", "InvalidRequest"),
        (none, ("x-amz-checksum-type", "COMPOSITE"), "", "InvalidRequest"),
        (none, ("x-amz-request-payer", "requester"), &named, "InvalidPart"),
        (none, ("x-amz-mp-object-size", "5"), "", "InvalidRequest"),
        (none, ("x-amz-mp-object-size", "32 or so"), "", "InvalidArgument"),
        (&full, (crc, &wrong), "", "BadDigest"),
        (&full, (sha, &wrong_sha), "", "InvalidRequest"),
        (&full, ("x-amz-checksum-type", "COMPOSITE"), "", "InvalidRequest"),
        (&full[..1], ("x-amz-checksum-type", "FULL_OBJECT"), "", "InvalidRequest"),
        (&full, ("x-amz-checksum-type", "HALF_OBJECT"), "", "InvalidRequest"),
    ] {
        let upload = Upload::new(&harness, created).await;
        let answer = upload.complete(&harness, &[announced], of_part).await;
        answer.refused(400, code);
        assert_eq!(get(&harness, "/bkt/k").await.status, 404, "{announced:?}");
        let done = upload.complete(&harness, &[("x-amz-mp-object-size", &size)], "").await;
        done.ok();
        Call::new("DELETE", "/bkt/k").send(&harness).await.ok();
    }
    let upload = Upload::new(&harness, &full).await;
    let named = format!("<ChecksumCRC32>{right}</ChecksumCRC32>");
    let both = [(crc, right.as_str()), ("x-amz-checksum-type", "FULL_OBJECT")];
    upload.complete(&harness, &both, &named).await.ok();
}

/// Goal: a part whose checksum cannot become part of the whole's is refused at once. Method: another kind,
/// the right kind, and any kind where the upload has none.
#[tokio::test]
async fn parts_have_checksums_of_the_uploads_kind() {
    let harness = Harness::with_bucket().await;
    let sha1 = checksum(Algorithm::Sha1, BODY);
    let sha1 = [("x-amz-checksum-sha1", sha1.as_str())];
    let id = Upload::create(&harness, &[("x-amz-checksum-algorithm", "CRC32")]).await;
    let answer = Upload::part(&harness, &id, &sha1).await;
    answer.refused(400, "InvalidRequest");
    assert!(answer.tag("Message").contains("CRC32"), "{}", answer.text());
    let crc = checksum(Algorithm::Crc32, BODY);
    Upload::part(&harness, &id, &[("x-amz-checksum-crc32", crc.as_str())]).await.ok();
    let id = Upload::create(&harness, &[]).await;
    Upload::part(&harness, &id, &sha1).await.ok();
}
