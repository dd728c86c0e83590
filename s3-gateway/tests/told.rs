//! Headers that s3s alone would refuse or misread: conditions in all their forms, ranges of an object that
//! changed, values that S3 keeps as they are. Method: the whole service over HTTP.

mod support;

use holdfast_engine::checksum::{Algorithm, Digester};
use support::{Call, Harness, get, put};

const GIF: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// Goal: dates in the three forms of RFC 9110 count, and what is no date is no condition. The story: all but
/// one form were answered 400. Method: a long past date in each form, on GET and HEAD, by each way in.
#[tokio::test]
async fn dates_of_conditions() {
    let harness = Harness::with_bucket().await;
    put(&harness, "/bkt/k", b"v").await.ok();
    for date in [GIF, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
        for (name, status) in [("if-modified-since", 200), ("if-unmodified-since", 412)] {
            for method in ["GET", "HEAD"] {
                let call = || Call::new(method, "/bkt/k").header(name, date);
                assert_eq!(call().send(&harness).await.status, status, "{method} {name}: {date}");
                let presigned = call().send_presigned(&harness, 60).await;
                assert_eq!(presigned.status, status, "{method} {name}: {date}");
            }
        }
        let copied = Call::new("PUT", "/bkt/copy")
            .header("x-amz-copy-source", "/bkt/k")
            .header("x-amz-copy-source-if-unmodified-since", date);
        copied.send(&harness).await.refused(412, "PreconditionFailed");
    }
    for name in ["if-modified-since", "if-unmodified-since"] {
        let read = Call::new("GET", "/bkt/k").header(name, "soon").send(&harness).await;
        assert_eq!(read.ok().text(), "v");
    }
    // A write that depends on what nobody can read is not made.
    let copied = Call::new("PUT", "/bkt/copy")
        .header("x-amz-copy-source", "/bkt/k")
        .header("x-amz-copy-source-if-unmodified-since", "soon");
    copied.send(&harness).await.refused(400, "InvalidArgument");
    assert_eq!(get(&harness, "/bkt/copy").await.status, 404);
}

/// Goal: a list of entity tags is a list. The story: it was taken for one tag that no object has, so that
/// `If-None-Match` of a PUT let it overwrite what it was to spare. Method: lists with and without the tag.
#[tokio::test]
async fn lists_of_entity_tags() {
    let harness = Harness::with_bucket().await;
    let tag = put(&harness, "/bkt/k", b"one").await.ok().header("etag").to_owned();
    let with = format!("\"other\", {tag}");
    let without = "\"other\", \"another\"";
    let call = |method, name: &str, value: &str| Call::new(method, "/bkt/k").header(name, value);
    assert_eq!(call("GET", "if-none-match", &with).send(&harness).await.status, 304);
    assert_eq!(call("GET", "if-none-match", without).send(&harness).await.status, 200);
    assert_eq!(call("GET", "if-match", &with).send(&harness).await.status, 200);
    assert_eq!(call("GET", "if-match", without).send(&harness).await.status, 412);
    let two = |name, value: &str| call("PUT", name, value).body("two");
    two("if-none-match", &with).send(&harness).await.refused(412, "PreconditionFailed");
    two("if-match", without).send(&harness).await.refused(412, "PreconditionFailed");
    call("DELETE", "if-match", without).send(&harness).await.refused(412, "PreconditionFailed");
    two("if-none-match", "\"a\", *").send(&harness).await.refused(400, "InvalidArgument");
    // A list where no condition is taken is refused as one tag is.
    let create = Call::new("POST", "/bkt/k?uploads").header("if-none-match", &with);
    create.send(&harness).await.refused(501, "NotImplemented");
    assert_eq!(get(&harness, "/bkt/k").await.text(), "one");
    let copy = |name: &str, value: &str| {
        Call::new("PUT", "/bkt/c").header("x-amz-copy-source", "/bkt/k").header(name, value)
    };
    let source = "x-amz-copy-source-if-none-match";
    copy(source, &with).send(&harness).await.refused(412, "PreconditionFailed");
    copy("x-amz-copy-source-if-match", &with).send(&harness).await.ok();
    two("if-match", &with).send(&harness).await.ok();
    assert_eq!(get(&harness, "/bkt/k").await.text(), "two");
}

/// Goal: a download that goes on gets the rest of the same object, or the whole of the new one. The story:
/// `If-Range` was passed over, so that a client put the end of one object to the beginning of another.
/// Method: validators that hold and that do not, of an object that shrank, too.
#[tokio::test]
async fn ranges_of_a_changed_object() {
    let harness = Harness::with_bucket().await;
    let first = put(&harness, "/bkt/k", b"0123456789").await.ok().header("etag").to_owned();
    let modified = get(&harness, "/bkt/k").await.header("last-modified").to_owned();
    let rest = |range: &str, validator: &str| {
        Call::new("GET", "/bkt/k").header("range", range).header("if-range", validator)
    };
    for holds in [first.as_str(), &modified] {
        let read = rest("bytes=7-", holds).send(&harness).await;
        assert_eq!((read.status, read.text().as_str()), (206, "789"), "{holds}");
        rest("bytes=10-", holds).send(&harness).await.refused(416, "InvalidRange");
    }
    let weak = format!("W/{first}");
    for changed in ["\"another\"", &weak, GIF] {
        let read = rest("bytes=7-", changed).send(&harness).await;
        assert_eq!((read.status, read.text().as_str()), (200, "0123456789"), "{changed}");
        assert_eq!(read.header("content-range"), "");
        let head = Call::new("HEAD", "/bkt/k").header("range", "bytes=7-");
        let head = head.header("if-range", changed).send(&harness).await;
        assert_eq!((head.status, head.header("content-length")), (200, "10"), "{changed}");
    }
    put(&harness, "/bkt/k", b"new").await.ok();
    let read = rest("bytes=7-", &first).send(&harness).await;
    assert_eq!((read.status, read.text().as_str()), (200, "new"));
}

/// Goal: headers that S3 keeps are kept as they are, whatever their text. The story: `Expires` had to be a
/// date, and a file name ASCII. Method: PUT, multipart, copy with REPLACE; back by GET and HEAD.
#[tokio::test]
async fn headers_are_kept_as_they_are() {
    let harness = Harness::with_bucket().await;
    let name = "attachment; filename=\"\u{e9}t\u{e9}.txt\"";
    let kept = |call: Call| {
        let call = call.header("expires", "soon").header("content-disposition", name);
        call.header("cache-control", "max-age=\u{e9}")
    };
    kept(Call::new("PUT", "/bkt/put").body("v")).send(&harness).await.ok();
    let created = kept(Call::new("POST", "/bkt/parts?uploads")).send(&harness).await;
    let upload = created.ok().tag("UploadId");
    let part = Call::new("PUT", &format!("/bkt/parts?partNumber=1&uploadId={upload}")).body("v");
    let tag = part.send(&harness).await.ok().header("etag").to_owned();
    let xml = format!(
        "<CompleteMultipartUpload><Part><ETag>{tag}</ETag><PartNumber>1</PartNumber></Part>\
         </CompleteMultipartUpload>"
    );
    let complete = Call::new("POST", &format!("/bkt/parts?uploadId={upload}")).body(xml);
    complete.send(&harness).await.ok();
    let copy = Call::new("PUT", "/bkt/copy").header("x-amz-copy-source", "/bkt/put");
    kept(copy.header("x-amz-metadata-directive", "REPLACE")).send(&harness).await.ok();
    for path in ["/bkt/put", "/bkt/parts", "/bkt/copy"] {
        for method in ["GET", "HEAD"] {
            let read = Call::new(method, path).send(&harness).await;
            let text = |name| std::str::from_utf8(read.headers[name].as_bytes()).unwrap();
            assert_eq!(read.status, 200, "{method} {path}");
            assert_eq!(text("expires"), "soon", "{method} {path}");
            assert_eq!(text("content-disposition"), name, "{method} {path}");
            assert_eq!(text("cache-control"), "max-age=\u{e9}", "{method} {path}");
        }
    }
}

/// Goal: what goes round s3s is verified like all else, trailers included, and opens nothing. Method: a body
/// whose checksum comes behind it, right and wrong, beside a header that goes round.
#[tokio::test]
async fn bodies_that_go_round_are_verified() {
    let harness = Harness::with_bucket().await;
    let body = b"the quick brown fox";
    let trailing = |sum: &[u8]| {
        let mut digester = Digester::new(Some(Algorithm::Crc32));
        digester.update(sum);
        let value = digester.finish().checksum.unwrap().value;
        let trailer = format!("\r\n0\r\nx-amz-checksum-crc32:{value}\r\n\r\n");
        let framed =
            [format!("{:x}\r\n", body.len()).as_bytes(), body, trailer.as_bytes()].concat();
        Call::new("PUT", "/bkt/k")
            .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
            .header("x-amz-decoded-content-length", &body.len().to_string())
            .header("x-amz-trailer", "x-amz-checksum-crc32")
            .header("expires", "soon")
            .body(framed)
    };
    trailing(b"other").send(&harness).await.refused(400, "BadDigest");
    assert_eq!(get(&harness, "/bkt/k").await.status, 404);
    trailing(body).send(&harness).await.ok();
    assert_eq!(get(&harness, "/bkt/k").await.body, &body[..]);
    let mut forged = Call::new("PUT", "/bkt/k").header("expires", "soon").body("forged");
    forged.secret_key = "guessed-wrong".to_owned();
    forged.send(&harness).await.refused(403, "SignatureDoesNotMatch");
    let odd = Call::new("PUT", "/bkt/k?annotation").header("expires", "soon").body("note");
    odd.send(&harness).await.refused(501, "NotImplemented");
    assert_eq!(get(&harness, "/bkt/k").await.body, &body[..]);
}
