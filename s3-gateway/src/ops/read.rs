//! GetObject and HeadObject.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use holdfast_engine::{
    StoreError,
    api::{self, ByteStream, ObjectRead, Wanted},
    meta::{Checksum, ObjectMeta},
};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use s3s::{Body, S3Request, S3Response, S3Result, dto::*};

use crate::{
    attributes,
    conditions::{self, Validator},
    convert::{self, checksum_type, etag, set_checksum, timestamp, version, version_header},
    error::{invalid, s3_error},
    s3::Gateway,
    told::Told,
};

/// What GET and HEAD ask, their inputs' fields being of one name.
macro_rules! asked {
    ($input:ident, $conditions:ident) => {
        api::GetObject {
            bucket: $input.bucket,
            key: Bytes::from($input.key),
            version: version($input.version_id.as_deref())?,
            conditions: $conditions,
            wanted: wanted($input.range, $input.part_number)?,
        }
    };
}

/// What GET and HEAD say of an object alike, and the headers that s3s has no place for.
macro_rules! described {
    ($output:ident, $read:ident, $wanted:ident, $version:ident, $checksum:expr) => {{
        let meta = &$read.info.meta;
        $output.accept_ranges = Some("bytes".to_owned());
        $output.content_length = i64::try_from($read.range.end - $read.range.start).ok();
        $output.content_range = content_range($wanted, &$read);
        $output.e_tag = Some(etag(&meta.etag));
        $output.last_modified = Some(timestamp(meta.modified_micros));
        $output.metadata = attributes::user(meta);
        $output.parts_count = parts_count($wanted, meta);
        $output.version_id = version_header($read.info.version, $version.is_some());
        $output.website_redirect_location =
            attributes::header(meta, "x-amz-website-redirect-location");
        if $checksum {
            let (checksum, kind) = shown_checksum($wanted, meta);
            set_checksum!($output, checksum);
            $output.checksum_type = kind;
        }
    }};
}

pub(crate) async fn get(
    gateway: &Gateway,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let told = Told::of(&request);
    let (conditions, validator) = (conditions::of_read(&told)?, conditions::if_range(&told));
    let input = request.input;
    let get = asked!(input, conditions);
    let asked = get.version;
    let read = |get| gateway.store.get_object(get);
    let (read, wanted) = read_validated(gateway, get, validator, read).await.map_err(read_error)?;
    let length = read.range.end - read.range.start;
    let meta = &read.info.meta;
    let headers = expires(input.response_expires.as_ref(), meta);
    let mut output = GetObjectOutput {
        cache_control: attributes::header(meta, "cache-control"),
        content_disposition: attributes::header(meta, "content-disposition"),
        content_encoding: attributes::header(meta, "content-encoding"),
        content_language: attributes::header(meta, "content-language"),
        content_type: Some(attributes::content_type(meta)),
        ..Default::default()
    };
    described!(output, read, wanted, asked, input.checksum_mode.is_some());
    output.body = Some(Body::http_body_unsync(Outgoing { source: read.body, left: length }).into());
    Ok(S3Response::with_headers(output, headers))
}

pub(crate) async fn head(
    gateway: &Gateway,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let told = Told::of(&request);
    let (conditions, validator) = (conditions::of_read(&told)?, conditions::if_range(&told));
    let input = request.input;
    let get = asked!(input, conditions);
    let asked = get.version;
    let read = |get| gateway.store.head_object(get);
    let (read, wanted) = read_validated(gateway, get, validator, read).await.map_err(read_error)?;
    let meta = &read.info.meta;
    let shown =
        |given: Option<String>, name: &str| given.or_else(|| attributes::header(meta, name));
    let kind = input.response_content_type.unwrap_or_else(|| attributes::content_type(meta));
    let headers = expires(input.response_expires.as_ref(), meta);
    let mut output = HeadObjectOutput {
        cache_control: shown(input.response_cache_control, "cache-control"),
        content_disposition: shown(input.response_content_disposition, "content-disposition"),
        content_encoding: shown(input.response_content_encoding, "content-encoding"),
        content_language: shown(input.response_content_language, "content-language"),
        content_type: Some(kind),
        expires: input.response_expires,
        ..Default::default()
    };
    described!(output, read, wanted, asked, input.checksum_mode.is_some());
    Ok(S3Response::with_headers(output, headers))
}

/// Reads what is wanted, or the whole where `If-Range` names another object than there is: the client would
/// put the range to bytes of that other one (RFC 9110, 13.1.5). Each answer is judged by what it itself read.
async fn read_validated<R>(
    gateway: &Gateway,
    get: api::GetObject,
    validator: Option<Validator>,
    read: impl Fn(api::GetObject) -> R,
) -> Result<(ObjectRead, Wanted), StoreError>
where
    R: Future<Output = Result<ObjectRead, StoreError>>,
{
    let wanted = get.wanted;
    let is_range = matches!(wanted, Wanted::Range { .. } | Wanted::Suffix(_));
    let Some(validator) = validator.filter(|_| is_range) else {
        return Ok((read(get).await?, wanted));
    };
    let whole = api::GetObject { wanted: Wanted::Whole, ..get.clone() };
    let outcome = read(get).await;
    let holds = match &outcome {
        Ok(read) => validator.holds(&read.info.meta),
        // The object there is may be a shorter one.
        Err(StoreError::InvalidRange { .. }) => {
            validator.holds(&gateway.store.head_object(whole.clone()).await?.info.meta)
        }
        Err(_) => true,
    };
    if holds {
        return Ok((outcome?, wanted));
    }
    Ok((read(whole).await?, Wanted::Whole))
}

/// S3 answers 416 InvalidPartNumber; ceph/s3-tests (`test_non_multipart_get_part`), by which clients are
/// written, too, wants 400 InvalidPart. The message is ours.
fn read_error(error: StoreError) -> s3s::S3Error {
    match error {
        StoreError::InvalidPart { number } => {
            let message = format!("the object has no part {number}");
            invalid("InvalidPart", message)
        }
        error => s3_error(error),
    }
}

/// `Expires` as stored, unless the request names another.
fn expires<T>(asked: Option<&T>, meta: &ObjectMeta) -> HeaderMap {
    if asked.is_some() { HeaderMap::new() } else { attributes::expires(meta) }
}

fn wanted(range: Option<Range>, part: Option<i32>) -> S3Result<Wanted> {
    match (range, part) {
        (None, None) => Ok(Wanted::Whole),
        (Some(Range::Int { first, last }), None) => Ok(Wanted::Range { first, last }),
        (Some(Range::Suffix { length }), None) => Ok(Wanted::Suffix(length)),
        (None, Some(number)) => convert::part_number(number).map(Wanted::Part),
        (Some(_), Some(_)) => Err(invalid(
            "InvalidRequest",
            "cannot specify both Range header and partNumber query parameter",
        )),
    }
}

/// An empty part has no first byte to name.
fn content_range(wanted: Wanted, read: &ObjectRead) -> Option<String> {
    let some = wanted != Wanted::Whole && !read.range.is_empty();
    let last = || read.range.end - 1;
    some.then(|| format!("bytes {}-{}/{}", read.range.start, last(), read.info.meta.size))
}

fn parts_count(wanted: Wanted, meta: &ObjectMeta) -> Option<i32> {
    let asked = matches!(wanted, Wanted::Part(_)) && !meta.parts.is_empty();
    asked.then(|| i32::try_from(meta.parts.len()).ok()).flatten()
}

/// The checksum of what is sent: of the object, of a part, of nothing in between.
fn shown_checksum(wanted: Wanted, meta: &ObjectMeta) -> (Option<&Checksum>, Option<ChecksumType>) {
    let whole = meta.checksum.as_ref();
    let kind = whole.map(|checksum| checksum_type(checksum.composite));
    match wanted {
        Wanted::Whole => (whole, kind),
        Wanted::Part(_) if meta.parts.is_empty() => (whole, kind),
        Wanted::Part(number) => {
            let number = u32::from(number);
            let part = meta.parts.iter().find(|part| part.number == number);
            (part.and_then(|part| part.checksum.as_ref()), kind)
        }
        Wanted::Range { .. } | Wanted::Suffix(_) => (None, None),
    }
}

/// The store's bytes as hyper takes them, with their exact length.
struct Outgoing {
    source: ByteStream,
    left: u64,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        let item = ready!(self.source.as_mut().poll_next(context));
        if let Some(Ok(bytes)) = &item {
            self.left = self.left.saturating_sub(bytes.len() as u64);
        }
        if let Some(Err(error)) = &item {
            // The status line is gone; hyper cuts the connection, which is all a client can be told.
            tracing::warn!(%error, "reading an object failed half-way");
        }
        Poll::Ready(item.map(|item| item.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
