//! One signed request over a connection of its own.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use holdfast_tls::{HTTP_1, TlsError, peer::explain, roots};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::sign;

/// A node that has not answered by then is not going to.
const ANSWER_SECONDS_MAX: u64 = 30;

/// A cluster of 1,000 drives is described in under a megabyte.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why there is no answer to print.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no credentials")]
    NoCredentials,
    #[error("endpoint {endpoint} is not of the form http://HOST:PORT or https://HOST:PORT")]
    BadEndpoint { endpoint: String },
    #[error("reach {endpoint}: {detail}")]
    Unreachable { endpoint: String, detail: String },
    #[error("the node answered {code}: {message}")]
    Refused { code: String, message: String },
    #[error("{0}")]
    Authorities(#[from] TlsError),
    #[error("the answer is not one of Holdfast's: {detail}")]
    Strange { detail: String },
    #[error("{0}")]
    Unknown(String),
    #[error("no node carried it out:\n{0}")]
    Nobody(String),
}

impl ClientError {
    /// What to do next.
    pub(crate) fn cure(&self) -> &'static str {
        match self {
            Self::NoCredentials => {
                "set HOLDFAST_ROOT_USER and HOLDFAST_ROOT_PASSWORD, or give --user and --password"
            }
            Self::BadEndpoint { .. } => "give --endpoint http(s)://HOST:PORT of any node",
            Self::Authorities(_) => "give the authority's certificate (PEM) as --ca FILE",
            Self::Unreachable { .. } => {
                "check that holdfastd runs there, with TLS for https:// (--ca names its authority), or give \
                 --endpoint of another node"
            }
            Self::Refused { code, .. } => match code.as_str() {
                "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AccessDenied" => {
                    "check user and password: they are those that the nodes were started with"
                }
                "RequestTimeTooSkewed" => "set the clock of this machine by NTP",
                "NoSuchBucket" | "NoSuchKey" | "NoSuchVersion" => {
                    "check the names of bucket and key"
                }
                "InvalidArgument" => "check what was given; --help names what is expected",
                "NotImplemented" => "ask a node that has drives, of this version of Holdfast",
                _ => "see what `adminctl cluster info` and the node's log say, and try again",
            },
            Self::Strange { .. } => "check that --endpoint is a node of this version of Holdfast",
            Self::Nobody(_) => {
                "see what `adminctl cluster info` and the nodes' logs say, and try again"
            }
            Self::Unknown(_) => "look it up with `adminctl drive list` or `adminctl set list`",
        }
    }
}

/// Who asks whom.
pub(crate) struct Client {
    endpoint: String,
    host: String,
    address: String,
    user: String,
    password: String,
    tls: Option<TlsConnector>,
    ca: Option<PathBuf>,
}

impl Client {
    pub(crate) fn new(
        endpoint: &str,
        ca: Option<&Path>,
        user: String,
        password: String,
    ) -> Result<Self, ClientError> {
        let bad = || ClientError::BadEndpoint { endpoint: endpoint.to_owned() };
        let uri: Uri = endpoint.trim_end_matches('/').parse().map_err(|_| bad())?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(bad()),
        };
        let bare = matches!(uri.path(), "" | "/");
        let authority = uri.authority().filter(|_| bare).ok_or_else(bad)?;
        let host = authority.as_str().to_owned();
        let address = match authority.port() {
            Some(_) => host.clone(),
            None => format!("{host}:{default_port}"),
        };
        let tls = match default_port {
            443 => Some(TlsConnector::from(roots::client_config(ca, &[HTTP_1])?)),
            _ => None,
        };
        let ca = ca.map(Path::to_owned);
        Ok(Self { endpoint: endpoint.to_owned(), host, address, user, password, tls, ca })
    }

    /// The same with another endpoint.
    pub(crate) fn at(&self, endpoint: &str) -> Result<Self, ClientError> {
        let (user, password) = (self.user.clone(), self.password.clone());
        Self::new(endpoint, self.ca.as_deref(), user, password)
    }

    /// The body of a successful answer.
    pub(crate) async fn get(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Bytes, ClientError> {
        let (status, body) = self.bounded(self.exchange(Method::GET, path, query)).await?;
        if status == StatusCode::OK { Ok(body) } else { Err(refusal(status, &body)) }
    }

    /// Asks the node to change something; what it says of it.
    pub(crate) async fn post(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<String, ClientError> {
        let (status, body) = self.bounded(self.exchange(Method::POST, path, query)).await?;
        match status {
            StatusCode::OK => Ok(String::from_utf8_lossy(&body).into_owned()),
            _ => Err(refusal(status, &body)),
        }
    }

    async fn bounded<T>(
        &self,
        exchange: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
        let late = |_| self.unreachable(format!("no answer within {ANSWER_SECONDS_MAX} s"));
        tokio::time::timeout(limit, exchange).await.map_err(late)?
    }

    fn unreachable(&self, detail: impl ToString) -> ClientError {
        ClientError::Unreachable { endpoint: self.endpoint.clone(), detail: detail.to_string() }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let query = sign::query(query);
        let at = OffsetDateTime::now_utc();
        let signed =
            sign::Request { method: method.as_str(), host: &self.host, path, query: &query, at };
        let (date, authorization) = sign::headers(&signed, &self.user, &self.password);
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, authorization)
            .header("x-amz-date", date)
            .header("x-amz-content-sha256", sign::EMPTY_SHA256)
            .body(Empty::<Bytes>::new())
            .map_err(|error| ClientError::Strange { detail: error.to_string() })?;
        let stream = TcpStream::connect(&self.address).await.map_err(|e| self.unreachable(e))?;
        let Some(tls) = &self.tls else { return self.talk(stream, request).await };
        let name = roots::server_name(&self.host)?;
        let stream = tls.connect(name, stream).await.map_err(|error| {
            self.unreachable(explain(&error, &self.endpoint, "the file that --ca names"))
        })?;
        self.talk(stream, request).await
    }

    async fn talk<S>(
        &self,
        stream: S,
        request: Request<Empty<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.unreachable(error))?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| self.unreachable(error))?;
        Ok((status, body.to_bytes()))
    }
}

/// S3's error XML has code and message; anything else has at least a status.
fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    let text = String::from_utf8_lossy(body);
    let tag = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(unescape(rest.split_once("</")?.0))
    };
    ClientError::Refused {
        code: tag("Code").unwrap_or_else(|| status.as_u16().to_string()),
        message: tag("Message").unwrap_or_else(|| status.to_string()),
    }
}

/// Text of XML without its entities: those that S3's answers are written with.
fn unescape(text: &str) -> String {
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'")];
    let text = entities.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    text.replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let client = |endpoint: &str| Client::new(endpoint, None, "u".to_owned(), "p".to_owned());
        assert_eq!(client("http://node:9000/").unwrap().address, "node:9000");
        assert_eq!(client("http://[::1]").unwrap().address, "[::1]:80");
        for bad in ["node:9000", "ftp://node:9000", "http://node/bucket", "http://", ""] {
            assert!(client(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refusals_say_what_the_server_said() {
        let xml = b"<Error><Code>NoSuchKey</Code><Message>key does not exist</Message></Error>";
        let text = refusal(StatusCode::NOT_FOUND, xml).to_string();
        assert_eq!(text, "the node answered NoSuchKey: key does not exist");
        let xml = b"<Message>zzz is no drive&apos;s id &amp;lt; &lt;</Message>";
        let text = refusal(StatusCode::BAD_REQUEST, xml).to_string();
        assert_eq!(text, "the node answered 400: zzz is no drive's id &lt; <");
        let text = refusal(StatusCode::BAD_GATEWAY, b"<html>").to_string();
        assert_eq!(text, "the node answered 502: 502 Bad Gateway");
    }
}
