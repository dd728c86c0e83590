//! One request and its whole answer, for callers that look at the answer themselves.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::client::{Client, Payload, texts};

/// An answer, whatever it says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The S3 code of an error.
    pub code: String,
    /// What it says for people.
    pub message: String,
    /// The ETag header.
    pub etag: Option<String>,
    /// The Content-Length header.
    pub length: Option<u64>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The texts of all elements `name` of the body.
    pub fn texts(&self, name: &str) -> Vec<String> {
        texts(&String::from_utf8_lossy(&self.body), name)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The request never left: it was not carried out.
    NotSent(String),
    /// It may have been carried out.
    Lost(String),
}

impl Client {
    /// Sends a request and reads the whole answer.
    pub async fn ask(
        &mut self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, String)],
        payload: Payload,
        patience: Duration,
    ) -> Result<Answer, NoAnswer> {
        let connected = timeout(patience, self.connect()).await;
        match connected {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(NoAnswer::NotSent(error.to_string())),
            Err(_) => return Err(NoAnswer::NotSent("no connection in time".to_owned())),
        }
        let asked = timeout(patience, self.exchange(method, key, query, headers, payload)).await;
        let done = asked.unwrap_or_else(|_| Err("timed out".to_owned()));
        done.map_err(|why| {
            self.disconnect();
            NoAnswer::Lost(why)
        })
    }

    async fn exchange(
        &mut self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, String)],
        payload: Payload,
    ) -> Result<Answer, String> {
        let request = self.request(method, key, query, headers, payload);
        let request = request.map_err(|error| error.to_string())?;
        let connection = self.connect().await.map_err(|error| error.to_string())?;
        let sent = connection.send_request(request).await;
        let response = sent.map_err(|error| error.to_string())?;
        let status = response.status();
        let header = |name| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let etag = header(http::header::ETAG);
        let length = header(http::header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        let body = body.to_bytes();
        let (mut code, mut message) = (String::new(), String::new());
        if !status.is_success() {
            let xml = String::from_utf8_lossy(&body);
            code = texts(&xml, "Code").into_iter().next().unwrap_or_default();
            message = texts(&xml, "Message").into_iter().next().unwrap_or_default();
        }
        Ok(Answer { status, code, message, etag, length, body })
    }
}
