//! Headers that s3s reads otherwise than HTTP and S3 do: ranges that are ignored (several, units other than
//! bytes, what is no range), lists of entity tags, dates in the older forms and what is no date, `Expires` of
//! any text, header values in UTF-8.
//!
//! s3s refuses them, or reads them wrongly, while it makes an operation's input. They cannot be changed
//! before, because the signature may cover them; so they are caught between the two, where s3s asks for
//! routes of our own. Operations read such headers by [`Told`], never from their input:
//!
//! ```text
//!   s3s: signature --> [Routes] --such a header--> s3s with a stand-in, signature done --> operations
//!                          | none --> operations
//! ```

use async_trait::async_trait;
use holdfast_engine::StoreError;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use s3s::{
    Body, S3Request, S3Response, S3Result, TrailingHeaders,
    access::{S3Access, S3AccessContext},
    dto::{Range, Timestamp, TimestampFormat},
    route::S3Route,
    service::S3Service,
};

use crate::{accepted, admin, attributes, error};

/// The ways out of s3s before it reads operations.
pub(crate) struct Routes {
    pub(crate) admin: admin::Route,
    /// The same operations for requests whose signature was verified on the way here.
    pub(crate) verified: S3Service,
}

/// Lets through what came by [`Routes`] alone, which s3s hands over with verified credentials only.
/// Policies, when there are users, are to be evaluated for these requests, too.
pub(crate) struct Verified;

/// What came in the place of stand-ins.
#[derive(Clone)]
struct Originals(HeaderMap);

#[async_trait]
impl S3Access for Verified {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        accepted::check(context)
    }
}

#[async_trait]
impl S3Route for Routes {
    fn is_match(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &mut Extensions,
    ) -> bool {
        self.admin.is_match(method, uri, headers, extensions)
            || misread(method, headers).next().is_some()
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        if request.uri.path().starts_with(admin::PREFIX) {
            return self.admin.call(request).await;
        }
        let answer = self.verified.call(retold(request)).await;
        let answer = answer.map_err(|error| {
            let message = format!("answer request: {error:?}");
            error::s3_error(StoreError::Internal { message })
        })?;
        let (parts, body) = answer.into_parts();
        let mut answer = S3Response::with_status(body, parts.status);
        answer.headers = parts.headers;
        answer.extensions = parts.extensions;
        Ok(answer)
    }
}

/// The headers of a request as the client sent them.
pub(crate) struct Told<'r> {
    headers: &'r HeaderMap,
    originals: Option<&'r Originals>,
}

impl<'r> Told<'r> {
    pub(crate) fn new(headers: &'r HeaderMap, extensions: &'r Extensions) -> Self {
        Self { headers, originals: extensions.get() }
    }

    pub(crate) fn of<T>(request: &'r S3Request<T>) -> Self {
        Self::new(&request.headers, &request.extensions)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'r HeaderValue> {
        let original = self.originals.and_then(|originals| originals.0.get(name));
        original.or_else(|| self.headers.get(name))
    }
}

/// The trailers of a request's body, whichever way it came.
pub(crate) fn trailers<T>(request: &S3Request<T>) -> Option<TrailingHeaders> {
    request.trailing_headers.clone().or_else(|| request.extensions.get().cloned())
}

/// What s3s is to see instead of a header.
enum StandIn {
    Nothing,
    Value(&'static str),
}

/// Any date in the form that s3s reads.
const SOME_DATE: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

/// The headers that s3s would not read as they are meant. What comes twice, it refuses by itself.
fn misread<'h>(
    method: &Method,
    headers: &'h HeaderMap,
) -> impl Iterator<Item = (&'h HeaderName, &'h HeaderValue, StandIn)> {
    let reads = *method == Method::GET || *method == Method::HEAD;
    let once = headers.iter().filter(|(name, _)| headers.get_all(*name).iter().count() == 1);
    once.filter_map(move |(name, value)| Some((name, value, stand_in(reads, name, value)?)))
}

fn stand_in(reads: bool, name: &HeaderName, value: &HeaderValue) -> Option<StandIn> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    let is_date = || Timestamp::parse(TimestampFormat::HttpDate, text).is_ok();
    match name.as_str() {
        // RFC 9110, 14.2: a range that cannot be read is ignored. One that lies outside the object is not:
        // 416.
        "range" if reads && Range::parse(text).is_err() => Some(StandIn::Nothing),
        // 13.1.3: what is no date is ignored; 5.6.7: three forms are dates.
        "if-modified-since" | "if-unmodified-since" if reads && !is_date() => {
            Some(StandIn::Value(SOME_DATE))
        }
        // A condition of a write is not ignored: s3s may refuse what is no date.
        "x-amz-copy-source-if-modified-since" | "x-amz-copy-source-if-unmodified-since"
            if !is_date() && httpdate::parse_http_date(text).is_ok() =>
        {
            Some(StandIn::Value(SOME_DATE))
        }
        "if-match"
        | "if-none-match"
        | "x-amz-copy-source-if-match"
        | "x-amz-copy-source-if-none-match"
            if text.contains(',') =>
        {
            Some(StandIn::Value("*"))
        }
        "expires" if !reads && !is_date() => Some(StandIn::Value(SOME_DATE)),
        // S3 keeps file names in UTF-8 as they are; s3s wants ASCII.
        kept if !reads && attributes::KEPT.contains(&kept) && !text.is_ascii() => {
            Some(StandIn::Value("binary/octet-stream"))
        }
        _ => None,
    }
}

/// The request with stand-ins, and without its signature: it was verified, and covers the originals.
fn retold(request: S3Request<Body>) -> Request<Body> {
    let trailers = trailers(&request);
    let (mut headers, mut originals) = (request.headers.clone(), HeaderMap::new());
    for (name, value, stand_in) in misread(&request.method, &request.headers) {
        originals.insert(name.clone(), value.clone());
        match stand_in {
            StandIn::Nothing => drop(headers.remove(name)),
            StandIn::Value(text) => {
                headers.insert(name.clone(), HeaderValue::from_static(text));
            }
        }
    }
    headers.remove(header::AUTHORIZATION);
    let mut plain = Request::new(request.input);
    *plain.method_mut() = request.method;
    *plain.uri_mut() = unsigned(request.uri);
    *plain.headers_mut() = headers;
    *plain.extensions_mut() = request.extensions;
    plain.extensions_mut().insert(Originals(originals));
    if let Some(trailers) = trailers {
        plain.extensions_mut().insert(trailers);
    }
    plain
}

/// Without what presigning put into the query; what it hoisted from headers was moved back before.
fn unsigned(uri: Uri) -> Uri {
    let query = uri.query().unwrap_or_default();
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("X-Amz-")).collect();
    let path = format!("{}?{}", uri.path(), kept.join("&"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = path.trim_end_matches('?').parse().ok();
    Uri::from_parts(parts).unwrap_or(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_misread(method: &Method, name: &str, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        let name: HeaderName = name.parse().expect("a name");
        headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        misread(method, &headers).next().is_some()
    }

    /// Goal: only what s3s would not read as it is meant goes round it. Method: a table.
    #[test]
    fn what_goes_round() {
        let (get, put) = (Method::GET, Method::PUT);
        let rfc_850 = "Sunday, 06-Nov-94 08:49:37 GMT";
        let rows = [
            (&get, "range", "bytes=0-5", false),
            (&get, "range", "bytes=-5", false),
            (&get, "range", "bytes=900-", false),
            (&get, "range", "bytes=0-5,10-12", true),
            (&get, "range", "items=0-5", true),
            (&get, "range", "bytes=abc", true),
            (&get, "range", "bytes=5-2", true),
            (&put, "range", "bytes=5-2", false),
            (&get, "if-modified-since", SOME_DATE, false),
            (&get, "if-modified-since", rfc_850, true),
            (&get, "if-unmodified-since", "rubbish", true),
            (&put, "if-unmodified-since", "rubbish", false),
            (&put, "x-amz-copy-source-if-modified-since", rfc_850, true),
            (&put, "x-amz-copy-source-if-modified-since", "rubbish", false),
            (&get, "if-none-match", "\"a\"", false),
            (&get, "if-none-match", "\"a\", \"b\"", true),
            (&put, "expires", SOME_DATE, false),
            (&put, "expires", "soon", true),
            (&put, "content-disposition", "attachment; filename=\"e.txt\"", false),
            (&put, "content-disposition", "attachment; filename=\"\u{e9}.txt\"", true),
            (&put, "x-amz-meta-name", "\u{e9}", false),
        ];
        for (method, name, value, expected) in rows {
            assert_eq!(is_misread(method, name, value), expected, "{method} {name}: {value}");
        }
        assert_eq!(misread(&Method::GET, &HeaderMap::new()).count(), 0);
    }

    /// Goal: a presigned URL comes out bare. Method: one with a parameter that matters.
    #[test]
    fn signatures_are_taken_off() {
        let uri = "/b/k?X-Amz-Algorithm=a&versionId=v&X-Amz-Signature=s".parse().expect("a URI");
        assert_eq!(unsigned(uri).to_string(), "/b/k?versionId=v");
        let uri = "/b/k?X-Amz-Signature=s".parse().expect("a URI");
        assert_eq!(unsigned(uri).to_string(), "/b/k");
    }
}
