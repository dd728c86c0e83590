//! `Range` headers that HTTP and S3 ignore: several ranges, units other than bytes, what is no range.
//!
//! s3s refuses them while it reads an operation's input. They cannot be taken out before, because the
//! signature may cover them; so they are caught between the two, where s3s asks for routes of our own:
//!
//! ```text
//!   s3s: signature --> [Routes] --such a range--> s3s without it, signature done --> whole object, 200
//!                          | none --> operations
//! ```

use async_trait::async_trait;
use holdfast_engine::StoreError;
use http::{Extensions, HeaderMap, Method, Request, Uri, header};
use s3s::{
    Body, S3Request, S3Response, S3Result,
    access::{S3Access, S3AccessContext},
    dto::Range,
    route::S3Route,
    service::S3Service,
};

use crate::{accepted, admin, error};

/// The ways out of s3s before it reads operations.
pub(crate) struct Routes {
    pub(crate) admin: admin::Route,
    /// The same operations for requests whose signature was verified on the way here.
    pub(crate) verified: S3Service,
}

/// Lets through what came by [`Routes`] alone, which s3s hands over with verified credentials only.
/// Policies, when there are users, are to be evaluated for these requests, too.
pub(crate) struct Verified;

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
        self.admin.is_match(method, uri, headers, extensions) || is_ignored(method, headers)
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        if request.uri.path().starts_with(admin::PREFIX) {
            return self.admin.call(request).await;
        }
        let answer = self.verified.call(without_range(request)).await;
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

/// RFC 9110, 14.2: a range that cannot be read is ignored. One that lies outside the object is not: 416.
fn is_ignored(method: &Method, headers: &HeaderMap) -> bool {
    let reads = *method == Method::GET || *method == Method::HEAD;
    let readable =
        |value: &http::HeaderValue| value.to_str().is_ok_and(|t| Range::parse(t).is_ok());
    reads && headers.get_all(header::RANGE).iter().any(|value| !readable(value))
}

/// The request without its range, and without the signature that covered it.
fn without_range(request: S3Request<Body>) -> Request<Body> {
    let mut plain = Request::new(request.input);
    *plain.method_mut() = request.method;
    *plain.uri_mut() = unsigned(request.uri);
    *plain.headers_mut() = request.headers;
    *plain.extensions_mut() = request.extensions;
    plain.headers_mut().remove(header::RANGE);
    plain.headers_mut().remove(header::AUTHORIZATION);
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
    use http::HeaderValue;

    use super::*;

    /// Goal: only what no reader of ranges understands is ignored. Method: a table.
    #[test]
    fn ranges_that_are_ignored() {
        let cases = [
            ("bytes=0-5", false),
            ("bytes=-5", false),
            ("bytes=900-", false),
            ("bytes=0-5,10-12", true),
            ("items=0-5", true),
            ("bytes=abc", true),
            ("bytes=5-2", true),
        ];
        for (range, ignored) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_static(range));
            assert_eq!(is_ignored(&Method::GET, &headers), ignored, "{range}");
            assert!(!is_ignored(&Method::PUT, &headers), "{range}");
        }
        assert!(!is_ignored(&Method::GET, &HeaderMap::new()));
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
