//! A body on its way in: counted, hashed and compared with what the client announced.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::Stream;
use holdfast_engine::{
    StoreError,
    api::{Body, BodyDigest},
    meta::Checksum,
};
use s3s::{StdError, TrailingHeaders, dto::StreamingBlob};

use crate::{
    digests::{Announced, ChecksumSource, header_name},
    hash::HashLane,
    patience::SILENT,
};

/// The engine's view of a request body. INV-GATE-1: the stream ends without an error only when
/// length, Content-MD5 and checksum are the announced ones.
pub(crate) struct UploadBody {
    source: StreamingBlob,
    trailers: Option<TrailingHeaders>,
    announced: Announced,
    lane: HashLane,
    seen: u64,
    ended: bool,
    digest: BodyDigest,
}

impl UploadBody {
    pub(crate) fn new(
        source: Option<StreamingBlob>,
        trailers: Option<TrailingHeaders>,
        announced: Announced,
    ) -> Self {
        let algorithm = announced.checksum.as_ref().map(|(algorithm, _)| *algorithm);
        Self {
            source: source.unwrap_or_else(|| s3s::Body::empty().into()),
            trailers,
            announced,
            lane: HashLane::new(algorithm),
            seen: 0,
            ended: false,
            digest: BodyDigest::default(),
        }
    }

    fn take_in(&mut self, bytes: &Bytes) -> Result<(), StoreError> {
        self.seen += bytes.len() as u64;
        if self.announced.length.is_some_and(|length| self.seen > length) {
            return Err(rejected("IncompleteBody", "the body is longer than announced"));
        }
        self.lane.push(bytes);
        Ok(())
    }

    fn verify(&mut self, digest: BodyDigest) -> Result<(), StoreError> {
        if self.announced.length.is_some_and(|length| self.seen < length) {
            return Err(rejected(
                "IncompleteBody",
                "you did not provide the number of bytes that the content length announced",
            ));
        }
        if self.announced.md5.as_ref().is_some_and(|announced| *announced != digest.etag) {
            return Err(rejected("BadDigest", "the Content-MD5 you specified did not match"));
        }
        if let (Some(checksum), Some((_, source))) = (&digest.checksum, &self.announced.checksum) {
            self.verify_checksum(checksum, source)?;
        }
        self.digest = digest;
        Ok(())
    }

    fn verify_checksum(
        &self,
        computed: &Checksum,
        source: &ChecksumSource,
    ) -> Result<(), StoreError> {
        let announced = match source {
            ChecksumSource::Computed => return Ok(()),
            ChecksumSource::Header(value) => value.clone(),
            ChecksumSource::Trailer => self.trailer()?,
        };
        if announced == computed.value {
            return Ok(());
        }
        let algorithm = &computed.algorithm;
        let message =
            format!("the {algorithm} you specified did not match the calculated checksum");
        Err(StoreError::BodyRejected { code: "BadDigest", message })
    }

    fn trailer(&self) -> Result<String, StoreError> {
        let name = self.announced.checksum.as_ref().map(|(algorithm, _)| header_name(*algorithm));
        let value = self.trailers.as_ref().zip(name).and_then(|(trailers, name)| {
            trailers.read(|headers| {
                headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
            })
        });
        value.flatten().ok_or_else(|| {
            rejected("MalformedTrailerError", "the announced checksum trailer did not come")
        })
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StoreError>>> {
        ready!(self.lane.poll_room(context))?;
        loop {
            match ready!(Pin::new(&mut self.source).poll_next(context)) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => return Poll::Ready(Some(self.take_in(&bytes).map(|()| bytes))),
                Some(Err(error)) => return Poll::Ready(Some(Err(source_error(&error)))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for UploadBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if !this.ended {
            match ready!(this.poll_piece(context)) {
                None => this.ended = true,
                piece => return Poll::Ready(piece),
            }
        }
        if !this.digest.etag.is_empty() {
            return Poll::Ready(None);
        }
        let digest = ready!(this.lane.poll_finish(context))?;
        Poll::Ready(this.verify(digest).err().map(Err))
    }
}

impl Body for UploadBody {
    fn digest(&mut self) -> BodyDigest {
        std::mem::take(&mut self.digest)
    }
}

fn rejected(code: &'static str, message: &str) -> StoreError {
    StoreError::BodyRejected { code, message: message.to_owned() }
}

/// What went wrong below. s3s keeps its body errors to itself; their texts are all there is, and the
/// gateway's tests hold us to them.
pub(crate) fn source_error(error: &StdError) -> StoreError {
    let text = error.to_string();
    let table = [
        (
            "Sha256Mismatch",
            "XAmzContentSHA256Mismatch",
            "the body does not match x-amz-content-sha256",
        ),
        ("SignatureMismatch", "SignatureDoesNotMatch", "the signature of a chunk does not match"),
        (
            "signed chunk is larger",
            "InvalidChunkSizeError",
            "chunk too large: sign chunks of 16 MiB at most",
        ),
        ("framing is malformed", "InvalidRequest", "the aws-chunked framing is malformed"),
        ("FormatError", "InvalidRequest", "the aws-chunked framing is malformed"),
        (
            SILENT,
            "RequestTimeout",
            "the body fell silent before its announced length; send it again",
        ),
        ("last chunk", "IncompleteBody", "the aws-chunked body ended before its last, empty chunk"),
        ("TooLarge", "InvalidRequest", "the aws-chunked framing is too large"),
        ("TooMany", "InvalidRequest", "the aws-chunked body has too many trailers"),
    ];
    match table.into_iter().find(|(part, ..)| text.contains(part)) {
        Some((_, code, message)) => rejected(code, message),
        None => rejected("IncompleteBody", "the body ended before its announced length"),
    }
}
