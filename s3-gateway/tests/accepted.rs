//! What a request asks for beyond its operation is never passed over. Method: the whole service over HTTP;
//! after each request the object and the bucket must be what they were.

mod support;

use support::{Call, Harness, get, put};

/// Goal: no subresource is carried out on the object or the bucket itself. The story: S3 got annotations
/// after our s3s was written, so that `put_object_annotation` of a stock boto3 was routed as PutObject and
/// put the note in the place of the object. Method: names that nobody knows, S3's names with the wrong
/// method, and parts of which the client forgot half.
#[tokio::test]
async fn subresources_are_not_the_object() {
    let harness = Harness::with_bucket().await;
    let (unknown, misplaced) = ((501, "NotImplemented"), (400, "InvalidArgument"));
    let calls = [
        ("PUT", "/bkt/k?annotation&annotationName=n", unknown),
        ("PUT", "/bkt/k?encryption", unknown),
        ("PUT", "/bkt/k?restore", misplaced),
        ("PUT", "/bkt/k?renameObject", unknown),
        ("PUT", "/bkt/k?append&position=0", unknown),
        ("PUT", "/bkt/k?foo=bar", unknown),
        ("PUT", "/bkt/k?%66oo", unknown),
        ("PUT", "/bkt/k?acl", unknown),
        ("PUT", "/bkt/k?partNumber=1", misplaced),
        ("PUT", "/bkt/k?uploadId=x", misplaced),
        ("PUT", "/bkt/k?uploads", misplaced),
        ("PUT", "/bkt/k?versionId=null", misplaced),
        ("PUT", "/bkt/k?x-id=PutObjectAnnotation", unknown),
        ("POST", "/bkt/k?uploads&annotation", unknown),
        ("DELETE", "/bkt/k?annotation&annotationName=n", unknown),
        ("DELETE", "/bkt/k?acl", misplaced),
        ("DELETE", "/bkt/k?legal-hold", misplaced),
        ("DELETE", "/bkt/k?partNumber=1", misplaced),
        ("DELETE", "/bkt/k?UploadId=1", unknown),
        ("DELETE", "/bkt/k?tagging", unknown),
        ("GET", "/bkt/k?annotation&annotationName=n", unknown),
        ("GET", "/bkt/k?annotation=", unknown),
        ("GET", "/bkt/k?uploads", misplaced),
        ("HEAD", "/bkt/k?annotation", (501, "")),
        ("GET", "/bkt?metadataAnnotationTable", unknown),
        ("GET", "/bkt?list-type=3", misplaced),
        ("PUT", "/new?metadataAnnotationTable", unknown),
        ("PUT", "/new?abac", unknown),
    ];
    for (method, path, (status, code)) in calls {
        put(&harness, "/bkt/k", b"precious").await.ok();
        let answer = Call::new(method, path).body("<X/>").send(&harness).await;
        assert_eq!(
            (answer.status, answer.tag("Code").as_str()),
            (status, code),
            "{method} {path} {}",
            answer.text()
        );
        assert_eq!(get(&harness, "/bkt/k").await.text(), "precious", "{method} {path}");
    }
    assert_eq!(get(&harness, "/new").await.status, 404);
    let listed = get(&harness, "/bkt?uploads").await;
    assert_eq!(listed.ok().tags("UploadId").len(), 0);
}

/// Goal: an empty bucket outlives requests to delete something of it. Method: as above.
#[tokio::test]
async fn subresources_are_not_the_bucket() {
    let harness = Harness::with_bucket().await;
    let (unknown, misplaced) = ((501, "NotImplemented"), (400, "InvalidArgument"));
    for (name, (status, code)) in [
        ("metadataAnnotationTable", unknown),
        ("foo", unknown),
        ("policy", unknown),
        ("acl", misplaced),
        ("versioning", misplaced),
        ("logging", misplaced),
        ("notification", misplaced),
        ("x-id=DeleteBucketAnnotations", unknown),
    ] {
        let path = format!("/bkt?{name}");
        Call::new("DELETE", &path).send(&harness).await.refused(status, code);
        assert_eq!(get(&harness, "/bkt").await.status, 200, "{name}");
    }
    Call::new("DELETE", "/bkt?x-id=DeleteBucket").send(&harness).await.ok();
}

/// Goal: parameters that change nothing are let through. Method: cache busters, SDKs' notes, by every way
/// in; among them the way round s3s that ignored ranges take, which must judge, too.
#[tokio::test]
async fn parameters_that_change_nothing_pass() {
    let harness = Harness::with_bucket().await;
    Call::new("PUT", "/bkt/k?x-id=PutObject").body("v").send(&harness).await.ok();
    for path in ["/bkt/k?v=2", "/bkt/k?utm_source=a&utm_medium=b", "/bkt/k?x-id=GetObject"] {
        assert_eq!(get(&harness, path).await.ok().text(), "v", "{path}");
        let presigned = Call::new("GET", path).send_presigned(&harness, 60).await;
        assert_eq!(presigned.ok().text(), "v", "{path}");
    }
    let odd = |path| Call::new("GET", path).header("range", "rubbish");
    assert_eq!(odd("/bkt/k?v=2").send(&harness).await.ok().text(), "v");
    odd("/bkt/k?annotation").send(&harness).await.refused(501, "NotImplemented");
}

/// Goal: a header that asks for what is not done is refused, and a condition that is not looked at is not
/// taken for fulfilled. Method: headers of today that nobody here reads, and of no S3 yet.
#[tokio::test]
async fn headers_are_not_passed_over() {
    let harness = Harness::with_bucket().await;
    put(&harness, "/bkt/k", b"precious").await.ok();
    let past = "Sat, 29 Oct 1994 19:43:31 GMT";
    for (method, path, name, value, (status, code)) in [
        ("PUT", "/bkt/k", "x-amz-invented-tomorrow", "yes", (501, "NotImplemented")),
        ("PUT", "/bkt/k", "x-amz-mp-object-size", "4", (400, "InvalidArgument")),
        ("PUT", "/bkt/k", "if-unmodified-since", past, (501, "NotImplemented")),
        ("PUT", "/bkt/k", "content-range", "bytes 0-3/8", (501, "NotImplemented")),
        ("DELETE", "/bkt/k", "if-none-match", "*", (501, "NotImplemented")),
        ("DELETE", "/bkt/k", "x-amz-copy-source", "/bkt/o", (400, "InvalidArgument")),
        ("POST", "/bkt/k?uploads", "if-none-match", "*", (501, "NotImplemented")),
        ("PUT", "/new", "x-amz-bucket-namespace", "account-regional", (501, "NotImplemented")),
    ] {
        let call = Call::new(method, path).header(name, value).body("note");
        call.send(&harness).await.refused(status, code);
        assert_eq!(get(&harness, "/bkt/k").await.text(), "precious", "{method} {path} {name}");
    }
    assert_eq!(get(&harness, "/new").await.status, 404);
    let usual = Call::new("PUT", "/bkt/k").header("x-amz-acl", "private").body("v");
    let usual = usual.header("x-amz-storage-class", "STANDARD").header("x-amz-meta-a", "b");
    usual.header("x-amz-request-payer", "requester").send(&harness).await.ok();
}

/// Goal: an element that asks for something is not passed over either. Method: one unknown to s3s in each
/// operation's XML; nothing is deleted, completed or created.
#[tokio::test]
async fn elements_are_not_passed_over() {
    let harness = Harness::with_bucket().await;
    put(&harness, "/bkt/k", b"precious").await.ok();
    let calls = [
        (
            "PUT",
            "/new",
            "<CreateBucketConfiguration><Tags><Tag/></Tags></CreateBucketConfiguration>",
        ),
        ("POST", "/bkt?delete", "<Delete><Object><Key>k</Key><OnlyIfCold/></Object></Delete>"),
    ];
    for (method, path, xml) in calls {
        let answer = Call::new(method, path).body(xml).send(&harness).await;
        answer.refused(501, "NotImplemented");
    }
    let created = Call::new("POST", "/bkt/u?uploads").send(&harness).await;
    let path = format!("/bkt/u?uploadId={}", created.ok().tag("UploadId"));
    let part = Call::new("PUT", &format!("{path}&partNumber=1")).body("v").send(&harness).await;
    let part = format!("<PartNumber>1</PartNumber><ETag>{}</ETag>", part.ok().header("etag"));
    let complete = |sum: &str| {
        let xml =
            format!("<CompleteMultipartUpload><Part>{part}{sum}</Part></CompleteMultipartUpload>");
        Call::new("POST", &path).body(xml)
    };
    let unknown = complete("<ChecksumSHA512>AAAA</ChecksumSHA512>").send(&harness).await;
    unknown.refused(501, "NotImplemented");
    complete("").send(&harness).await.ok();
    assert_eq!(get(&harness, "/bkt/k").await.text(), "precious");
    assert_eq!(get(&harness, "/new").await.status, 404);
}
