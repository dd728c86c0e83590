//! What each operation takes: query parameters and `x-amz-*` headers. All else that a request asks for is
//! refused, because to carry out the rest of it would be to do something that nobody asked for.
//!
//! s3s routes a request by the names it knows and passes over the others, so that of
//! `PUT /bucket/key?annotation`, which S3 got after s3s, a PutObject remained, and the note replaced the
//! object. So whatever s3s has routed is judged (INV-GATE-3) by the lists of that operation; an operation that has none
//! is not there. The check runs behind the signature and before a byte of the body is read.
//!
//! | request | parameter | answer |
//! |---|---|---|
//! | PUT, POST, DELETE | not of the operation, but of S3 | 400 InvalidArgument |
//! | PUT, POST, DELETE | unknown | 501 NotImplemented |
//! | GET, HEAD | of the kind `name` or `name=`, not of the operation | as above: subresources are written so |
//! | GET, HEAD | of the kind `name=value`, not of the operation | ignored, as S3 does: cache busters |
//!
//! On PUT, POST and DELETE the `x-amz-*` headers are judged alike, and HTTP's conditions: what is not looked
//! at must not be taken for fulfilled. GET and HEAD change nothing, and of their headers [`crate::edge`]
//! refuses those that would change the answer.

use http::{HeaderMap, Method};
use s3s::{S3Result, access::S3AccessContext};

use crate::{
    edge::{Pair, pairs},
    error::{invalid, not_implemented},
};

/// What an operation takes.
struct Takes {
    operation: &'static str,
    query: &'static [&'static str],
    /// Besides [`HARMLESS`]; of operations that write.
    headers: &'static [&'static [&'static str]],
}

/// Headers that say how a request travels, or that ask for what is so anyhow; [`crate::edge`] refuses the
/// values that ask for more (`x-amz-acl: public-read`).
const HARMLESS: [&str; 16] = [
    "x-amz-acl",
    "x-amz-api-version",
    "x-amz-bucket-object-lock-enabled",
    // There are no locks to bypass.
    "x-amz-bypass-governance-retention",
    "x-amz-cf-id",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-expected-bucket-owner",
    "x-amz-object-ownership",
    // There is nobody else to pay.
    "x-amz-request-payer",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-trailer",
    "x-amz-user-agent",
];

/// Of a body. Which kinds are known, [`crate::digests`] says.
const CHECKSUM: &[&str] = &["x-amz-checksum-*"];
/// Of checksums to be computed.
const ALGORITHM: &[&str] = &["x-amz-checksum-algorithm", "x-amz-checksum-type"];
/// Of a new object.
const OBJECT: &[&str] = &["x-amz-meta-*", "x-amz-website-redirect-location"];
/// Of a copy's source.
const SOURCE: &[&str] = &[
    "x-amz-copy-source",
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-unmodified-since",
    "x-amz-source-expected-bucket-owner",
];
/// Of what is replaced.
const CONDITIONS: &[&str] = &["if-match", "if-none-match"];
const COPY: &[&str] = &["x-amz-metadata-directive", "x-amz-tagging-directive"];
const RANGE: &[&str] = &["x-amz-copy-source-range"];
const WHOLE: &[&str] = &["x-amz-mp-object-size"];
/// Understood, and refused by the operations themselves.
const DELETED: &[&str] = &["if-match", "x-amz-if-match-last-modified-time", "x-amz-if-match-size"];
const INITIATED: &[&str] = &["x-amz-if-match-initiated-time"];
/// Of operations that change nothing: not looked at.
const READS: &[&[&str]] = &[];

const READ: &[&str] = &[
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "versionId",
];
const PART: &[&str] = &["partNumber", "uploadId"];
/// `allow-unordered` is Ceph's, and obeyed by listing in order.
const LIST_1: &[&str] =
    &["allow-unordered", "delimiter", "encoding-type", "marker", "max-keys", "prefix"];
const LIST_2: &[&str] = &[
    "continuation-token",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "list-type",
    "max-keys",
    "prefix",
    "start-after",
];
const LIST_VERSIONS: &[&str] = &[
    "delimiter",
    "encoding-type",
    "key-marker",
    "max-keys",
    "prefix",
    "version-id-marker",
    "versions",
];
const LIST_UPLOADS: &[&str] = &[
    "delimiter",
    "encoding-type",
    "key-marker",
    "max-uploads",
    "prefix",
    "upload-id-marker",
    "uploads",
];
const LIST_BUCKETS: &[&str] = &["bucket-region", "continuation-token", "max-buckets", "prefix"];
const LIST_PARTS: &[&str] = &["encoding-type", "max-parts", "part-number-marker", "uploadId"];

/// The operations of [`crate::s3`], by s3s's names, which are S3's.
#[rustfmt::skip]
const OPERATIONS: &[Takes] = &[
    Takes { operation: "CreateBucket", query: &[], headers: &[CHECKSUM] },
    Takes { operation: "HeadBucket", query: &[], headers: READS },
    Takes { operation: "ListBuckets", query: LIST_BUCKETS, headers: READS },
    Takes { operation: "DeleteBucket", query: &[], headers: &[] },
    Takes { operation: "GetBucketLocation", query: &["location"], headers: READS },

    Takes { operation: "PutObject", query: &[], headers: &[CHECKSUM, OBJECT, CONDITIONS] },
    Takes { operation: "GetObject", query: READ, headers: READS },
    Takes { operation: "HeadObject", query: READ, headers: READS },
    Takes { operation: "GetObjectAttributes", query: &["attributes", "versionId"], headers: READS },
    Takes { operation: "CopyObject", query: &[], headers: &[ALGORITHM, OBJECT, CONDITIONS, SOURCE, COPY] },
    Takes { operation: "DeleteObject", query: &["versionId"], headers: &[DELETED] },
    Takes { operation: "DeleteObjects", query: &["delete"], headers: &[CHECKSUM] },

    Takes { operation: "ListObjects", query: LIST_1, headers: READS },
    Takes { operation: "ListObjectsV2", query: LIST_2, headers: READS },
    Takes { operation: "ListObjectVersions", query: LIST_VERSIONS, headers: READS },

    Takes { operation: "CreateMultipartUpload", query: &["uploads"], headers: &[ALGORITHM, OBJECT] },
    Takes { operation: "CompleteMultipartUpload", query: &["uploadId"], headers: &[CHECKSUM, WHOLE, CONDITIONS] },
    Takes { operation: "AbortMultipartUpload", query: &["uploadId"], headers: &[INITIATED] },
    Takes { operation: "ListMultipartUploads", query: LIST_UPLOADS, headers: READS },
    Takes { operation: "UploadPart", query: PART, headers: &[CHECKSUM] },
    Takes { operation: "UploadPartCopy", query: PART, headers: &[SOURCE, RANGE] },
    Takes { operation: "ListParts", query: LIST_PARTS, headers: READS },

    Takes { operation: "GetBucketVersioning", query: &["versioning"], headers: READS },
    Takes { operation: "GetBucketAcl", query: &["acl"], headers: READS },
    Takes { operation: "GetObjectAcl", query: &["acl", "versionId"], headers: READS },
    Takes { operation: "GetObjectTagging", query: &["tagging", "versionId"], headers: READS },
    Takes { operation: "GetBucketLogging", query: &["logging"], headers: READS },
    Takes { operation: "GetBucketNotificationConfiguration", query: &["notification"], headers: READS },
    Takes { operation: "GetBucketRequestPayment", query: &["requestPayment"], headers: READS },
    Takes { operation: "GetBucketAccelerateConfiguration", query: &["accelerate"], headers: READS },
    Takes { operation: "GetBucketOwnershipControls", query: &["ownershipControls"], headers: READS },
    Takes { operation: "GetBucketPolicy", query: &["policy"], headers: READS },
    Takes { operation: "GetBucketPolicyStatus", query: &["policyStatus"], headers: READS },
    Takes { operation: "GetBucketTagging", query: &["tagging"], headers: READS },
    Takes { operation: "GetBucketCors", query: &["cors"], headers: READS },
    Takes { operation: "GetBucketEncryption", query: &["encryption"], headers: READS },
    Takes { operation: "GetBucketLifecycleConfiguration", query: &["lifecycle"], headers: READS },
    Takes { operation: "GetBucketWebsite", query: &["website"], headers: READS },
    Takes { operation: "GetBucketReplication", query: &["replication"], headers: READS },
    Takes { operation: "GetObjectLockConfiguration", query: &["object-lock"], headers: READS },
    Takes { operation: "GetPublicAccessBlock", query: &["publicAccessBlock"], headers: READS },
];

/// HTTP's headers that a write must obey or refuse. `content-range` would be a part of an object (RFC 9110,
/// 14.5).
const HTTP: [&str; 6] = [
    "content-range",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
];

/// S3's names that none of [`OPERATIONS`] takes, and in which S3 would see a mistake of the client.
const OTHERS_OF_S3: [&str; 10] = [
    "analytics",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "metrics",
    "restore",
    "retention",
    "select",
    "select-type",
    "torrent",
];

/// Judges a request that s3s has verified and routed.
pub(crate) fn check(context: &S3AccessContext<'_>) -> S3Result<()> {
    let query = pairs(context.uri().query().unwrap_or_default());
    judge(context.s3_op().name(), context.method(), &query, context.headers())
}

fn judge(
    operation: &str,
    method: &Method,
    query: &[Pair<'_>],
    headers: &HeaderMap,
) -> S3Result<()> {
    let takes = OPERATIONS.iter().find(|takes| takes.operation == operation);
    let takes = takes.ok_or_else(|| not_implemented(operation))?;
    let reads = *method == Method::GET || *method == Method::HEAD;
    let names = query.iter().filter(|(name, value)| !may_stay(reads, name, value));
    for (name, _) in names {
        if !takes.query.contains(&name.as_ref()) {
            return Err(unwanted(operation, name, is_of_s3(name), "query parameter"));
        }
    }
    if reads {
        return refuse_list_type(operation, query);
    }
    refuse_another_meaning(operation, query)?;
    refuse_headers(takes, headers)
}

/// Parameters that are no operation's: of signatures, headers that were hoisted, and on reads whatever has
/// a value. `x-id` is the SDKs' own note.
fn may_stay(reads: bool, name: &str, value: &str) -> bool {
    let is_header = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"));
    is_header || name == "x-id" || (reads && !value.is_empty())
}

/// SDKs write the operation that they mean into `x-id`. Where a newer one means an operation that is told
/// from an older one by something that nobody here reads, this tells them apart.
fn refuse_another_meaning(operation: &str, query: &[Pair<'_>]) -> S3Result<()> {
    match query.iter().find(|(name, value)| name == "x-id" && value != operation) {
        Some((_, meant)) => Err(not_implemented(&format!("{meant}, asked for as {operation},"))),
        None => Ok(()),
    }
}

/// `list-type=3` would be answered as version 1.
fn refuse_list_type(operation: &str, query: &[Pair<'_>]) -> S3Result<()> {
    if operation == "ListObjects" && query.iter().any(|(name, _)| name == "list-type") {
        return Err(invalid("InvalidArgument", "list-type can only be 2, and once"));
    }
    Ok(())
}

fn refuse_headers(takes: &Takes, headers: &HeaderMap) -> S3Result<()> {
    let names = headers.keys().map(http::HeaderName::as_str);
    let judged = names.filter(|name| name.starts_with("x-amz-") || HTTP.contains(name));
    let taken = |name: &str| takes.headers.iter().any(|group| holds(group, name));
    let Some(name) = judged.filter(|name| !HARMLESS.contains(name)).find(|name| !taken(name))
    else {
        return Ok(());
    };
    let of_s3 = !HTTP.contains(&name)
        && OPERATIONS.iter().flat_map(|takes| takes.headers).any(|group| holds(group, name));
    Err(unwanted(takes.operation, name, of_s3, "header"))
}

/// Whether `name` is in the group, where `x-amz-meta-*` stands for all that begin so.
fn holds(group: &[&str], name: &str) -> bool {
    group.iter().any(|held| match held.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => *held == name,
    })
}

fn is_of_s3(name: &str) -> bool {
    // Of an object it is an operation of its own, and newer than we are: UpdateObjectEncryption.
    name != "encryption"
        && (OPERATIONS.iter().any(|takes| takes.query.contains(&name))
            || OTHERS_OF_S3.contains(&name))
}

fn unwanted(operation: &str, name: &str, of_s3: bool, kind: &str) -> s3s::S3Error {
    if !of_s3 {
        return not_implemented(&format!("{kind} {name:?} of {operation}"));
    }
    let hint = match name {
        "partNumber" | "uploadId" => ": an upload's part is named by partNumber and uploadId both",
        _ => "",
    };
    invalid("InvalidArgument", format!("{operation} does not take the {kind} {name}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(operation: &str, method: &Method, query: &str, headers: &[&'static str]) -> String {
        let value = || http::HeaderValue::from_static("x");
        let headers = headers.iter().map(|name| (name.parse().expect("a name"), value()));
        let headers: HeaderMap = headers.collect();
        match judge(operation, method, &pairs(query), &headers) {
            Ok(()) => String::new(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    /// Goal: no operation is served that has no list, and no list waits for an operation that is not
    /// served. Method: the table of operations, as text.
    #[test]
    fn every_operation_has_its_list() {
        let code = include_str!("s3.rs").lines().filter(|line| !line.starts_with("//"));
        let served = code.filter_map(|line| {
            let (_, input) = line.split_once(": ")?;
            Some(input.split_once("Input => ")?.0)
        });
        let served: Vec<&str> = served.collect();
        let listed: Vec<&str> = OPERATIONS.iter().map(|takes| takes.operation).collect();
        assert_eq!(served, listed);
    }

    /// Goal: what would be done is what was asked for. Method: a table of names.
    #[test]
    fn parameters_of_other_operations_are_refused() {
        let (put, delete, get) = (Method::PUT, Method::DELETE, Method::GET);
        let rows = [
            ("PutObject", &put, "", ""),
            ("PutObject", &put, "x-id=PutObject&X-Amz-Date=d&x-amz-meta-a=b", ""),
            ("PutObject", &put, "x-id=PutObjectNote", "NotImplemented"),
            ("PutObject", &put, "annotation&annotationName=n", "NotImplemented"),
            ("PutObject", &put, "v=2", "NotImplemented"),
            ("PutObject", &put, "uploadId=u", "InvalidArgument"),
            ("PutObject", &put, "versionId=v", "InvalidArgument"),
            ("UploadPart", &put, "uploadId=u&partNumber=1", ""),
            ("DeleteObject", &delete, "versionId=v", ""),
            ("DeleteObject", &delete, "acl", "InvalidArgument"),
            ("DeleteObject", &delete, "legal-hold=", "InvalidArgument"),
            ("DeleteBucket", &delete, "versioning", "InvalidArgument"),
            ("DeleteObjectTagging", &delete, "tagging", "NotImplemented"),
            ("GetObject", &get, "v=2&utm_source=x&prefix=p", ""),
            ("GetObject", &get, "x-id=Another&versionId", ""),
            ("GetObject", &get, "annotation&annotationName=n", "NotImplemented"),
            ("GetObject", &get, "uploads=", "InvalidArgument"),
            ("ListObjects", &get, "list-type=3", "InvalidArgument"),
            ("ListObjects", &get, "prefix&marker=", ""),
        ];
        for (operation, method, query, code) in rows {
            assert_eq!(judged(operation, method, query, &[]), code, "{operation} {query}");
        }
    }

    /// Goal: no header is passed over that asks for something. Method: a table of names.
    #[test]
    fn headers_of_other_operations_are_refused() {
        let (put, get) = (Method::PUT, Method::GET);
        let rows = [
            ("PutObject", &put, "x-amz-meta-colour", ""),
            ("PutObject", &put, "x-amz-checksum-crc32", ""),
            ("PutObject", &put, "if-none-match", ""),
            ("PutObject", &put, "if-unmodified-since", "NotImplemented"),
            ("PutObject", &put, "content-range", "NotImplemented"),
            ("PutObject", &put, "x-amz-invented-tomorrow", "NotImplemented"),
            ("PutObject", &put, "x-amz-copy-source-range", "InvalidArgument"),
            ("UploadPart", &put, "x-amz-meta-colour", "InvalidArgument"),
            ("UploadPart", &put, "if-match", "NotImplemented"),
            ("CreateBucket", &put, "x-amz-bucket-namespace", "NotImplemented"),
            ("GetObject", &get, "x-amz-invented-tomorrow", ""),
            ("GetObject", &get, "if-modified-since", ""),
        ];
        for (operation, method, name, code) in rows {
            assert_eq!(judged(operation, method, "", &[name]), code, "{operation} {name}");
        }
    }
}
