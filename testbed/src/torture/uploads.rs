//! Multipart uploads, and those whose client lost its node: their parts were acknowledged, so they must be there to be
//! completed later, whatever happened meanwhile.

use std::{
    collections::VecDeque,
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use rand::Rng as _;

use super::{
    book::key_name,
    checker::{
        Event,
        key::{KeyOp, Value},
    },
    client::{Outcome, Worker},
};
use crate::bench::client::Payload;

/// Bytes of a part that is not the last: S3's least.
const PART_BYTES: u64 = 5 << 20;

/// Between two tries to complete what was left.
const PAUSE: Duration = Duration::from_millis(50);

/// Requests of an upload that are told in a violation, the last ones.
const STORY_MAX: usize = 60;

/// Characters of an answer that are told.
const WHY_CHARS: usize = 400;

/// Uploads that are left to be completed.
#[derive(Default)]
pub struct Uploads {
    left: Mutex<VecDeque<Begun>>,
    /// Small uploads among 100 operations.
    percent: u32,
}

/// An upload all of whose parts are acknowledged, and that nobody aborts.
pub struct Begun {
    group: usize,
    key: usize,
    value: Value,
    id: String,
    /// What completes it: the same words each time.
    body: Bytes,
    /// Whether a completion may have taken effect, at any time since.
    is_open: bool,
    /// What was asked, of which node, and what was told.
    story: Vec<String>,
}

impl Uploads {
    /// With small uploads besides the usual ones.
    pub fn more(percent: u32) -> Self {
        Self { percent, ..Self::default() }
    }

    fn leave(&self, begun: Begun) {
        self.left.lock().expect("nobody panics with it").push_back(begun);
    }

    fn take(&self) -> Option<Begun> {
        self.left.lock().expect("nobody panics with it").pop_front()
    }

    /// How each upload went that is still left.
    pub fn stories(&self) -> Vec<String> {
        let left = self.left.lock().expect("nobody panics with it");
        left.iter().map(Begun::tell).collect()
    }
}

impl Begun {
    fn tell(&self) -> String {
        let (name, id) = (key_name(self.group, self.key), &self.id);
        format!("{name}: upload {id} of value {}: {}", self.value, self.story.join("; "))
    }

    fn note(&mut self, node: usize, what: &str, outcome: &Outcome) {
        if self.story.len() == STORY_MAX {
            self.story.remove(0);
        }
        let told = match outcome {
            Outcome::NotSent => "not sent".to_owned(),
            Outcome::Unknown { called, why } => format!("{called} us: unknown: {why}"),
            Outcome::Answered { called, returned, answer } => {
                let (status, code, message) = (answer.status, &answer.code, &answer.message);
                format!("{called} to {returned} us: {status} {code} {message}")
            }
        };
        let told: String = told.chars().take(WHY_CHARS).collect();
        self.story.push(format!("{what} at node {}: {told}", node + 1));
    }
}

impl Worker {
    /// Whether the next operation is a small upload.
    pub(super) fn wants_small_upload(&mut self) -> bool {
        let percent = self.shared.uploads.percent;
        percent > 0 && self.random.random_range(0..100) < percent
    }

    /// A multipart upload of two parts, now and then aborted instead of completed.
    pub(super) async fn multipart(&mut self, group: usize, key: usize) {
        let size = PART_BYTES + self.random.random_range(1..100_000);
        self.upload(group, key, size, PART_BYTES as usize).await;
    }

    /// The same of one part.
    pub(super) async fn small_upload(&mut self, group: usize, key: usize) {
        let size = self.size();
        self.upload(group, key, size, usize::MAX).await;
    }

    async fn upload(&mut self, group: usize, key: usize, size: u64, part_bytes: usize) {
        let (value, size) = self.shared.book.new_value(group, key, size);
        let name = key_name(group, key);
        let mut bytes = self.shared.bytes(&name, value, size);
        let begun =
            self.ask(None, Method::POST, &name, &[("uploads", "")], &[], Payload::EMPTY).await;
        let Outcome::Answered { answer, .. } = &begun else { return };
        let Some(id) = answer.texts("UploadId").into_iter().next() else {
            return self.unexpected(group, key, answer);
        };
        let (body, is_open) = (Bytes::new(), false);
        let mut upload = Begun { group, key, value, id, body, is_open, story: Vec::new() };
        upload.note(self.node, "begin", &begun);
        let mut parts = String::new();
        for number in 1.. {
            let part = bytes.split_to(part_bytes.min(bytes.len()));
            let Some(etag) = self.part(&mut upload, number, part).await else { return };
            parts += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
            if bytes.is_empty() {
                break;
            }
        }
        if self.random.random_range(0..5) == 0 {
            let query = [("uploadId", &*upload.id)];
            self.ask(None, Method::DELETE, &name, &query, &[], Payload::EMPTY).await;
            return;
        }
        upload.body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>").into();
        self.complete(upload).await;
    }

    /// Sends a part; its ETag once it is acknowledged.
    async fn part(&mut self, upload: &mut Begun, number: usize, part: Bytes) -> Option<String> {
        let name = key_name(upload.group, upload.key);
        let query = [("partNumber", &*number.to_string()), ("uploadId", &*upload.id)];
        let payload = Payload::Whole(Some(part));
        let outcome = self.ask(None, Method::PUT, &name, &query, &[], payload).await;
        upload.note(self.node, &format!("part {number}"), &outcome);
        let Outcome::Answered { answer, .. } = outcome else { return None };
        if !answer.status.is_success() {
            self.wrong(upload);
        }
        answer.etag.filter(|_| answer.status.is_success())
    }

    /// Completes an upload. What has no definite answer is left for [`Self::finish`]: it can only be completed, now
    /// or later.
    async fn complete(&mut self, mut upload: Begun) {
        let name = key_name(upload.group, upload.key);
        let query = [("uploadId", &*upload.id)];
        let payload = Payload::Whole(Some(upload.body.clone()));
        let outcome = self.ask(None, Method::POST, &name, &query, &[], payload).await;
        let outcome = as_error(outcome);
        upload.note(self.node, "complete", &outcome);
        let op = KeyOp::Put(upload.value);
        let (called, returned) = match &outcome {
            Outcome::NotSent => return self.shared.uploads.leave(upload),
            Outcome::Unknown { called, .. } => (*called, None),
            Outcome::Answered { answer, .. } if answer.code == "ConditionalRequestConflict" => {
                return self.shared.uploads.leave(upload);
            }
            Outcome::Answered { answer, .. } if !answer.status.is_success() => {
                return self.wrong(&upload);
            }
            // After one of unknown outcome it may be the answer of that one.
            Outcome::Answered { called, .. } if upload.is_open => (*called, None),
            Outcome::Answered { called, returned, .. } => (*called, Some(*returned)),
        };
        self.shared.book.record(upload.group, upload.key, Event { called, returned, op });
        if matches!(outcome, Outcome::Unknown { .. }) {
            self.shared.uploads.leave(Begun { is_open: true, ..upload });
        }
    }

    /// An upload that nobody aborted was answered as if it could not be completed, ever.
    fn wrong(&self, upload: &Begun) {
        self.shared.book.violation(upload.tell());
    }

    /// Completes what others left behind, until `end`, or until nothing is left when `is_last`.
    pub async fn finish(mut self, end: Instant, is_last: bool) {
        while Instant::now() < end {
            match self.shared.uploads.take() {
                Some(upload) => self.complete(upload).await,
                None if is_last => return,
                None => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// S3: CompleteMultipartUpload may answer 200 and then an error in its body.
fn as_error(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Answered { called, answer, .. }
            if answer.status == StatusCode::OK && answer.texts("ETag").is_empty() =>
        {
            Outcome::Unknown { called, why: String::from_utf8_lossy(&answer.body).into_owned() }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ask::Answer;

    /// Goal: what is told of an upload names key, upload, nodes and answers, and stays bounded. Method: many answers.
    #[test]
    fn a_story_is_told_and_bounded() {
        let (id, body) = ("abc".to_owned(), Bytes::new());
        let mut begun =
            Begun { group: 7, key: 7, value: 3, id, body, is_open: false, story: Vec::new() };
        begun.note(0, "complete", &Outcome::Unknown { called: 5, why: "x".repeat(10_000) });
        for _ in 0..STORY_MAX {
            begun.note(1, "complete", &Outcome::NotSent);
        }
        let answer = Answer {
            status: StatusCode::NOT_FOUND,
            code: "NoSuchUpload".to_owned(),
            message: "upload does not exist".to_owned(),
            etag: None,
            length: None,
            body: Bytes::new(),
        };
        begun.note(3, "complete", &Outcome::Answered { called: 1, returned: 2, answer });
        let told = begun.tell();
        assert!(told.starts_with("g00007/k7: upload abc of value 3: complete at node 2: not sent"));
        assert!(
            told.ends_with(
                "at node 4: 1 to 2 us: 404 Not Found NoSuchUpload upload does not exist"
            )
        );
        assert_eq!(begun.story.len(), STORY_MAX);
    }

    /// Goal: a 200 whose body is an error is no success. Method: both.
    #[test]
    fn an_error_in_a_body_is_no_success() {
        let of = |body: &'static str| {
            let (etag, length) = (None, None);
            let (code, message, body) = (String::new(), String::new(), Bytes::from(body));
            let answer = Answer { status: StatusCode::OK, code, message, etag, length, body };
            as_error(Outcome::Answered { called: 1, returned: 2, answer })
        };
        assert!(matches!(of("<R><ETag>a</ETag></R>"), Outcome::Answered { .. }));
        assert!(matches!(of("<Error><Code>InternalError</Code></Error>"), Outcome::Unknown { .. }));
    }
}
