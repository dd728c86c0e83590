//! How answers look: request ids, errors, HEAD, ranges, conditions, keys, lists, and the honesty about
//! what is not there. Method: the whole service over HTTP and its XML as text.

mod support;

use support::{Call, Harness, get, put};

#[tokio::test]
async fn every_answer_has_a_request_id_and_errors_name_it() {
    let harness = Harness::with_bucket().await;
    let good = get(&harness, "/bkt").await;
    assert_eq!(good.header("x-amz-request-id").len(), 16);
    let bad = get(&harness, "/bkt/no%20such&key").await;
    bad.refused(404, "NoSuchKey");
    assert_eq!(bad.tag("RequestId"), bad.header("x-amz-request-id"));
    assert_ne!(bad.tag("RequestId"), good.header("x-amz-request-id"));
    assert_eq!(bad.tag("Resource"), "/bkt/no%20such&amp;key");
    assert_eq!(bad.header("content-type"), "application/xml");
    // Errors that s3s makes by itself have one too.
    let bad = get(&harness, "/UPPER/k").await;
    bad.refused(400, "InvalidBucketName");
    assert_eq!(bad.tag("RequestId"), bad.header("x-amz-request-id"));
}

#[tokio::test]
async fn head_errors_have_no_body() {
    let harness = Harness::with_bucket().await;
    for path in ["/bkt/none", "/nobucket", "/nobucket/k"] {
        let answer = Call::new("HEAD", path).send(&harness).await;
        assert_eq!((answer.status, answer.body.len()), (404, 0), "{path}");
        assert_eq!(answer.header("content-length"), "", "{path}");
        assert!(!answer.header("x-amz-request-id").is_empty());
    }
}

#[tokio::test]
async fn ranges() {
    let harness = Harness::with_bucket().await;
    put(&harness, "/bkt/k", b"0123456789").await.ok();
    let cases = [
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=7-1000", 206, "789", "bytes 7-9/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=-100", 206, "0123456789", "bytes 0-9/10"),
    ];
    for (range, status, body, content_range) in cases {
        let call = |method| Call::new(method, "/bkt/k").header("range", range);
        let read = call("GET").send(&harness).await;
        assert_eq!((read.status, read.text().as_str()), (status, body), "{range}");
        assert_eq!(read.header("content-range"), content_range);
        let head = call("HEAD").send(&harness).await;
        assert_eq!((head.status, head.header("content-range")), (status, content_range));
        assert_eq!(head.header("content-length"), body.len().to_string());
    }
    let outside = Call::new("GET", "/bkt/k").header("range", "bytes=10-12").send(&harness).await;
    outside.refused(416, "InvalidRange");
    assert_eq!(outside.header("content-range"), "bytes */10");
}

/// Goal: ranges that HTTP ignores answer the whole object, signed or presigned, and open nothing to the
/// unsigned. Method: each kind of them, by each way in.
#[tokio::test]
async fn ranges_that_are_ignored() {
    let harness = Harness::with_bucket().await;
    put(&harness, "/bkt/k", b"0123456789").await.ok();
    for range in ["bytes=0-1,4-5", "items=0-1", "bytes=5-2", "rubbish"] {
        let read = Call::new("GET", "/bkt/k").header("range", range).send(&harness).await;
        assert_eq!((read.status, read.text().as_str()), (200, "0123456789"), "{range}");
        assert_eq!(read.header("content-range"), "");
        assert!(!read.header("x-amz-request-id").is_empty());
        let head = Call::new("HEAD", "/bkt/k").header("range", range).send(&harness).await;
        assert_eq!((head.status, head.header("content-length")), (200, "10"), "{range}");
        let missing = Call::new("GET", "/bkt/none").header("range", range).send(&harness).await;
        missing.refused(404, "NoSuchKey");
        let unsigned = http::Request::get("/bkt/k").header("host", "gateway.test");
        let unsigned = unsigned.header("range", range).body(Default::default()).unwrap();
        harness.exchange(unsigned).await.refused(403, "AccessDenied");
        let browser = Call::new("GET", "/bkt/k").smuggle("range", range);
        let read = browser.send_presigned(&harness, 60).await;
        assert_eq!((read.status, read.text().as_str()), (200, "0123456789"), "{range}");
        let mut forged = Call::new("GET", "/bkt/k").header("range", range);
        forged.secret_key = "guessed-wrong".to_owned();
        forged.send(&harness).await.refused(403, "SignatureDoesNotMatch");
    }
}

#[tokio::test]
async fn conditions() {
    let harness = Harness::with_bucket().await;
    let tag = put(&harness, "/bkt/k", b"one").await.ok().header("etag").to_owned();
    let get = |name, value: &str| Call::new("GET", "/bkt/k").header(name, value);
    get("if-match", &tag).send(&harness).await.ok();
    get("if-match", "\"other\"").send(&harness).await.refused(412, "PreconditionFailed");
    let same = get("if-none-match", &tag).send(&harness).await;
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, tag.as_str()));
    let modified = same.header("last-modified").to_owned();
    let since = get("if-modified-since", &modified).send(&harness).await;
    assert_eq!(since.status, 304);
    get("if-unmodified-since", &modified).send(&harness).await.ok();

    let put = |name, value: &str| Call::new("PUT", "/bkt/k").body("two").header(name, value);
    put("if-none-match", "*").send(&harness).await.refused(412, "PreconditionFailed");
    put("if-match", "\"other\"").send(&harness).await.refused(412, "PreconditionFailed");
    put("if-match", &tag).send(&harness).await.ok();
    let delete = Call::new("DELETE", "/bkt/k").header("if-match", &tag).send(&harness).await;
    delete.refused(412, "PreconditionFailed");
}

/// Goal: nothing on the way takes a key for a path.
#[tokio::test]
async fn keys_are_opaque() {
    let harness = Harness::with_bucket().await;
    let long = format!("/bkt/{}", "k".repeat(1024));
    let keys = [
        "/bkt/a",
        "/bkt/a/b",
        "/bkt/a//b",
        "/bkt//a",
        "/bkt/a/",
        "/bkt//",
        "/bkt/a/../b",
        "/bkt/..",
        "/bkt/%2E%2E/x",
        "/bkt/a+b",
        "/bkt/a%20b",
        "/bkt/%C3%A9%F0%9F%A6%80",
        "/bkt/%25",
        "/bkt/a%2Fc",
        &long,
    ];
    for (at, key) in keys.iter().enumerate() {
        let body = format!("body {at}");
        Call::new("PUT", key).body(body).send(&harness).await.ok();
    }
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(get(&harness, key).await.ok().text(), format!("body {at}"), "{key}");
    }
    let listed = get(&harness, "/bkt").await.tags("Key");
    assert_eq!(listed.len(), keys.len(), "{listed:?}");
    let longer = Call::new("PUT", &format!("{long}k")).body("x").send(&harness).await;
    longer.refused(400, "KeyTooLongError");
}

#[tokio::test]
async fn lists_encode_keys_when_asked() {
    let harness = Harness::with_bucket().await;
    for key in ["/bkt/a%20b%2B%01", "/bkt/d/1%25", "/bkt/d/2", "/bkt/%C3%A9"] {
        put(&harness, key, b"v").await.ok();
    }
    let url = get(&harness, "/bkt?list-type=2&encoding-type=url&delimiter=/").await;
    assert_eq!(url.tags("Key"), ["a%20b%2B%01", "%C3%A9"]);
    assert!(url.text().contains("<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>"));
    assert_eq!(url.tag("EncodingType"), "url");
    let url = get(&harness, "/bkt?encoding-type=url&max-keys=1").await;
    assert_eq!(
        (url.tag("NextMarker"), url.tag("IsTruncated")),
        ("a%20b%2B%01".into(), "true".into())
    );
    let bad = get(&harness, "/bkt?encoding-type=rot13").await;
    bad.refused(400, "InvalidArgument");
}

/// Goal: no key makes a list unreadable, and none is read as another. The story: control characters went out
/// as they are, so that no reader took the page, and of a carriage return it made a line feed. Method: such
/// keys, as text; with an encoding they are as ever.
#[tokio::test]
async fn control_characters_in_lists() {
    let harness = Harness::with_bucket().await;
    for key in ["/bkt/a%01", "/bkt/b%0D", "/bkt/c%0A%09"] {
        put(&harness, key, b"v").await.ok();
    }
    for list in ["/bkt", "/bkt?list-type=2", "/bkt?versions"] {
        let keys = get(&harness, list).await.ok().tags("Key");
        assert_eq!(keys, ["a&#x1;", "b&#xD;", "c\n\t"], "{list}");
    }
    let url = get(&harness, "/bkt?encoding-type=url").await;
    assert_eq!(url.tags("Key"), ["a%01", "b%0D", "c%0A%09"]);
    let xml = "<Delete><Object><Key>a\u{1}</Key></Object></Delete>";
    let deleted = Call::new("POST", "/bkt?delete").body(xml).send(&harness).await;
    assert_eq!(deleted.ok().tags("Key"), ["a&#x1;"]);
}

/// Goal: values that S3 does not have are refused. Method: one each.
#[tokio::test]
async fn values_that_are_none_are_refused() {
    let harness = Harness::with_bucket().await;
    put(&harness, "/bkt/k", b"v").await.ok();
    let markers = "/bkt?versions&key-marker=a&version-id-marker=";
    get(&harness, &format!("{markers}zzz")).await.refused(400, "InvalidArgument");
    get(&harness, &format!("{markers}null")).await.ok();
    let copy = |directive| {
        let copy = Call::new("PUT", "/bkt/c").header("x-amz-copy-source", "/bkt/k");
        copy.header("x-amz-tagging-directive", directive)
    };
    copy("FOO").send(&harness).await.refused(400, "InvalidArgument");
    copy("REPLACE").send(&harness).await.ok();
    let part = get(&harness, "/bkt/k?partNumber=2").await;
    part.refused(400, "InvalidPart");
    assert_eq!(part.tag("Message"), "the object has no part 2");
    for name in ["a.b-s3alias", "data--ol-s3", "sthree-data", "data--x-s3"] {
        let answer = Call::new("PUT", &format!("/{name}")).send(&harness).await;
        answer.refused(400, "InvalidBucketName");
    }
    let directory = "<CreateBucketConfiguration><Bucket><Type>Directory</Type></Bucket>\
                     </CreateBucketConfiguration>";
    let answer = Call::new("PUT", "/new").body(directory).send(&harness).await;
    answer.refused(501, "NotImplemented");
    assert_eq!(get(&harness, "/?bucket-region=us-east-1").await.ok().tags("Name"), ["bkt"]);
    assert_eq!(get(&harness, "/?bucket-region=eu-west-1").await.ok().tags("Name").len(), 0);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let harness = Harness::with_bucket().await;
    for key in ["/bkt/a", "/bkt/b/1", "/bkt/b/2", "/bkt/c", "/bkt/d"] {
        put(&harness, key, b"v").await.ok();
    }
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let mut call = Call::new("GET", "/bkt?list-type=2&delimiter=/&max-keys=1");
        if !token.is_empty() {
            call.query.push(("continuation-token".to_owned(), token));
        }
        let page = call.send(&harness).await;
        assert_eq!(page.ok().tag("KeyCount"), "1", "a truncated page is never empty");
        seen.extend(page.tags("Key"));
        seen.extend(page.tags("CommonPrefixes"));
        token = page.tag("NextContinuationToken");
        if page.tag("IsTruncated") == "false" {
            break;
        }
    }
    assert_eq!(seen, ["a", "<Prefix>b/</Prefix>", "c", "d"]);
    let owners = get(&harness, "/bkt?list-type=2&fetch-owner=true").await.tags("Owner").len();
    assert_eq!((owners, get(&harness, "/bkt?list-type=2").await.tags("Owner").len()), (5, 0));
    let versions = get(&harness, "/bkt?versions").await;
    assert_eq!(versions.tags("VersionId"), ["null"; 5]);
    assert_eq!(versions.tags("IsLatest"), ["true"; 5]);
    get(&harness, "/bkt?list-type=2&continuation-token=%21").await.refused(400, "InvalidArgument");
}

/// Goal: what is not there is never taken for something else, and never pretended.
#[tokio::test]
async fn what_is_not_there_says_so() {
    let harness = Harness::with_bucket().await;
    put(&harness, "/bkt/k", b"v").await.ok();
    let calls = [
        ("PUT", "/bkt?versioning"),
        ("PUT", "/bkt?acl"),
        ("PUT", "/bkt?policy"),
        ("PUT", "/bkt?tagging"),
        ("PUT", "/bkt?lifecycle"),
        ("PUT", "/bkt?cors"),
        ("PUT", "/bkt?abac"),
        ("PUT", "/bkt/k?tagging"),
        ("PUT", "/bkt/k?acl"),
        ("PUT", "/bkt/k?retention"),
        ("POST", "/bkt/k?restore"),
        ("POST", "/bkt/k?select&select-type=2"),
        ("PUT", "/bkt/k?renameObject"),
        ("OPTIONS", "/bkt/k"),
        ("DELETE", "/bkt/k?tagging"),
        ("GET", "/_admin/v1/cluster"),
    ];
    for (method, path) in calls {
        let body = "<X/>";
        let answer = Call::new(method, path).body(body).send(&harness).await;
        assert_eq!(answer.status, 501, "{method} {path}: {}", answer.text());
    }
    for (name, value) in [
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-write-offset-bytes", "1"),
    ] {
        let call = Call::new("PUT", "/bkt/k").header(name, value);
        call.send(&harness).await.refused(501, "NotImplemented");
    }
    let call = Call::new("PUT", "/bkt/k").header("x-amz-acl", "public-read");
    call.send(&harness).await.refused(400, "AccessControlListNotSupported");
    assert_eq!(get(&harness, "/bkt/k").await.text(), "v");
}

#[tokio::test]
async fn expected_owners_are_compared() {
    let harness = Harness::with_bucket().await;
    let expect = |owner| Call::new("GET", "/bkt").header("x-amz-expected-bucket-owner", owner);
    expect("root").send(&harness).await.ok();
    expect("123456789012").send(&harness).await.refused(403, "AccessDenied");
}

#[tokio::test]
async fn the_state_of_an_unconfigured_bucket_is_told() {
    let harness = Harness::with_bucket().await;
    let versioning = get(&harness, "/bkt?versioning").await;
    assert!(!versioning.ok().text().contains("<Status>"));
    get(&harness, "/bkt?policy").await.refused(404, "NoSuchBucketPolicy");
    get(&harness, "/bkt?lifecycle").await.refused(404, "NoSuchLifecycleConfiguration");
    get(&harness, "/bkt?tagging").await.refused(404, "NoSuchTagSet");
    get(&harness, "/none?policy").await.refused(404, "NoSuchBucket");
    assert_eq!(get(&harness, "/bkt?acl").await.tags("Permission"), ["FULL_CONTROL"]);
}

#[tokio::test]
async fn too_many_requests_slow_down() {
    let harness = Harness::with(|config| config.requests_max = 0);
    let answer = get(&harness, "/").await;
    answer.refused(503, "SlowDown");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.tag("RequestId"), answer.header("x-amz-request-id"));
}

#[tokio::test]
async fn an_upload_in_parts() {
    let harness = Harness::with_bucket().await;
    let create = Call::new("POST", "/bkt/k?uploads").header("x-amz-checksum-algorithm", "CRC32C");
    let created = create.send(&harness).await;
    assert_eq!(created.ok().header("x-amz-checksum-type"), "COMPOSITE");
    let upload = created.tag("UploadId");
    let mut named = String::new();
    for (number, size) in [(1, 5 << 20), (2, 7)] {
        let path = format!("/bkt/k?partNumber={number}&uploadId={upload}");
        let part =
            Call::new("PUT", &path).payload("UNSIGNED-PAYLOAD").body(vec![number as u8; size]);
        let part = part.send(&harness).await;
        assert!(!part.ok().header("x-amz-checksum-crc32c").is_empty(), "computed for the client");
        let tag = part.header("etag");
        named += &format!("<Part><ETag>{tag}</ETag><PartNumber>{number}</PartNumber></Part>");
    }
    let listed = get(&harness, &format!("/bkt/k?uploadId={upload}")).await;
    assert_eq!(listed.tags("PartNumber"), ["1", "2"]);
    assert_eq!(get(&harness, "/bkt?uploads").await.tags("UploadId"), std::slice::from_ref(&upload));
    let complete = |named: &str| {
        let path = format!("/bkt/k?uploadId={upload}");
        let xml = format!("<CompleteMultipartUpload>{named}</CompleteMultipartUpload>");
        Call::new("POST", &path).body(xml)
    };
    complete("").send(&harness).await.refused(400, "MalformedXML");
    let pieces: Vec<&str> = named.split_inclusive("</Part>").collect();
    let reversed: String = pieces.into_iter().rev().collect();
    complete(&reversed).send(&harness).await.refused(400, "InvalidPartOrder");
    let done = complete(&named).send(&harness).await;
    assert!(done.ok().tag("ETag").ends_with("-2&quot;") || done.tag("ETag").ends_with("-2\""));
    let part = get(&harness, "/bkt/k?partNumber=2").await;
    assert_eq!((part.status, part.header("x-amz-mp-parts-count"), part.body.len()), (206, "2", 7));
    let described = Call::new("GET", "/bkt/k?attributes")
        .header("x-amz-object-attributes", "ETag,ObjectSize,ObjectParts,Checksum");
    let described = described.send(&harness).await;
    assert_eq!(described.ok().tag("ObjectSize"), ((5 << 20) + 7).to_string());
    assert!(described.tag("ETag").ends_with("-2"), "without quotes: {}", described.text());
    assert_eq!(described.tag("PartsCount"), "2");
    get(&harness, &format!("/bkt/k?uploadId={upload}")).await.refused(404, "NoSuchUpload");
}
