//! One client: draws operations, sends each to some node, writes what it did and saw into the book.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    book::{Book, GROUP_KEYS, group_prefix, key_name},
    checker::{
        Event,
        key::{KeyOp, Told, Value},
    },
    uploads::Uploads,
};
use crate::bench::{
    ask::{Answer, NoAnswer},
    client::{Client, Payload, Target},
    content::Content,
};

/// A request that takes longer has an unknown outcome. Above the product's own deadline for one call to
/// a node, so that what a node can still decide is decided.
const PATIENCE: Duration = Duration::from_secs(25);

/// A node that did not answer is left alone this long, as a load balancer would.
const SHUN: Duration = Duration::from_millis(1_500);

/// What all clients share.
pub struct Shared {
    /// The book.
    pub book: Book,
    /// The bytes of all values.
    pub content: Arc<Content>,
    /// The nodes.
    pub targets: Vec<Target>,
    /// Multipart uploads that are left to be completed.
    pub uploads: Uploads,
}

/// Groups of keys in use at a time: 32 keys.
const GROUPS: usize = 4;

impl Shared {
    /// An empty book, for clients of `targets`.
    pub fn new(seed: u64, targets: Vec<Target>) -> Self {
        let (book, uploads) = (Book::new(GROUPS), Uploads::default());
        Self { book, content: Content::new(seed), targets, uploads }
    }

    /// With so many small multipart uploads among 100 operations, besides those of the usual mix.
    pub fn with_uploads(self, percent: u32) -> Self {
        Self { uploads: Uploads::more(percent), ..self }
    }

    /// The bytes of a value.
    pub(super) fn bytes(&self, name: &str, value: Value, size: u64) -> Bytes {
        let mut window = self.content.of(&format!("{name}#{value}"), size);
        let mut bytes = Vec::with_capacity(size as usize);
        while let Some(piece) = window.next_piece() {
            bytes.extend_from_slice(&piece);
        }
        bytes.into()
    }
}

/// What a request came to.
pub enum Outcome {
    /// It never left.
    NotSent,
    /// No answer, or one that says nothing: called when.
    Unknown {
        /// When it was called.
        called: u64,
        /// What was said, or went wrong.
        why: String,
    },
    /// An answer: called and returned when.
    Answered {
        /// When it was called.
        called: u64,
        /// When the answer was there.
        returned: u64,
        /// The answer.
        answer: Answer,
    },
}

/// A client.
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    clients: Vec<(Client, Instant)>,
    pub(super) random: ChaCha8Rng,
    /// The node that was asked last.
    pub(super) node: usize,
}

impl Worker {
    /// Client `number` of a run.
    pub fn new(shared: Arc<Shared>, seed: u64, number: u64) -> Self {
        let targets = shared.targets.clone();
        Self::to(shared, targets, seed, number)
    }

    /// A client of other buckets than the objects'.
    pub fn to(shared: Arc<Shared>, targets: Vec<Target>, seed: u64, number: u64) -> Self {
        let now = Instant::now();
        let clients = targets.into_iter().map(|to| (Client::new(to), now)).collect();
        let random = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number));
        Self { shared, clients, random, node: 0 }
    }

    /// A client of the administrative paths.
    pub fn admin(shared: Arc<Shared>) -> Self {
        let mut targets = shared.targets.clone();
        targets.iter_mut().for_each(|target| target.bucket = "_admin".to_owned());
        Self::to(shared, targets, 0, 0)
    }

    /// Works until `end`.
    pub async fn work(mut self, end: Instant) {
        while Instant::now() < end {
            let group = self.shared.book.group(self.random.random_range(0..64));
            let key = self.random.random_range(0..GROUP_KEYS);
            if self.wants_small_upload() {
                self.small_upload(group, key).await;
                continue;
            }
            match self.random.random_range(0..100) {
                0..28 => self.get(group, key, None).await,
                28..36 => self.head(group, key, None).await,
                36..46 => self.list(group).await,
                46..70 => self.put(group, key).await,
                70..78 => self.create(group, key).await,
                78..86 => self.replace(group, key).await,
                86..97 => self.delete(group, key).await,
                _ => self.multipart(group, key).await,
            }
        }
    }

    /// Sends a request to `node`, or to any that is not shunned.
    pub async fn ask(
        &mut self,
        node: Option<usize>,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, String)],
        payload: Payload,
    ) -> Outcome {
        let now = Instant::now();
        let usable: Vec<usize> =
            (0..self.clients.len()).filter(|node| self.clients[*node].1 <= now).collect();
        self.node = match node {
            Some(node) => node,
            None if usable.is_empty() => self.random.random_range(0..self.clients.len()),
            None => usable[self.random.random_range(0..usable.len())],
        };
        let book = &self.shared.book;
        let (client, shunned_until) = &mut self.clients[self.node];
        let called = book.now();
        match client.ask(method, key, query, headers, payload, PATIENCE).await {
            Ok(answer) => {
                let returned = book.now();
                if answer.status == StatusCode::SERVICE_UNAVAILABLE
                    || answer.status == StatusCode::INTERNAL_SERVER_ERROR
                {
                    let why = answer.message.contains("may have taken effect");
                    book.count(
                        |counts| if why { counts.unknown += 1 } else { counts.refused += 1 },
                    );
                    if answer.status == StatusCode::INTERNAL_SERVER_ERROR {
                        book.violation(format!("{key}: internal error: {}", answer.message));
                    }
                    book.cause(&answer.message);
                    // Whoever says no may be cut off.
                    *shunned_until = Instant::now() + SHUN / 3;
                    return Outcome::Unknown { called, why: answer.message };
                }
                book.count(|counts| counts.checked += 1);
                Outcome::Answered { called, returned, answer }
            }
            Err(NoAnswer::NotSent(why)) => {
                book.cause(&format!("not sent: {why}"));
                *shunned_until = Instant::now() + SHUN;
                if usable.len() <= 1 {
                    tokio::time::sleep(SHUN / 10).await;
                }
                Outcome::NotSent
            }
            Err(NoAnswer::Lost(why)) => {
                book.cause(&format!("lost: {why}"));
                book.count(|counts| counts.unknown += 1);
                *shunned_until = Instant::now() + SHUN;
                Outcome::Unknown { called, why }
            }
        }
    }

    /// A GET of something that is no object, of the first node.
    pub async fn look(&mut self, key: &str, query: &[(&str, &str)]) -> Outcome {
        self.ask(Some(0), Method::GET, key, query, &[], Payload::EMPTY).await
    }

    /// Records what a write came to: `op` by what it was told.
    fn wrote(
        &self,
        group: usize,
        key: usize,
        outcome: Outcome,
        value: Option<Value>,
        op: impl Fn(Told) -> KeyOp,
    ) {
        let book = &self.shared.book;
        match outcome {
            Outcome::NotSent => {}
            Outcome::Unknown { called, .. } => {
                book.record(group, key, Event { called, returned: None, op: op(Told::Unknown) });
            }
            Outcome::Answered { called, returned, answer } => {
                let told = match answer.status {
                    status if status.is_success() => Told::Done,
                    StatusCode::PRECONDITION_FAILED => Told::Refused,
                    StatusCode::NOT_FOUND if answer.code == "NoSuchKey" => Told::Missing,
                    // Another writer came in between: nothing was written, nothing was seen.
                    StatusCode::CONFLICT if answer.code == "ConditionalRequestConflict" => return,
                    _ => return self.unexpected(group, key, &answer),
                };
                if let (Told::Done, Some(value), Some(etag)) = (told, value, &answer.etag) {
                    book.saw_etag(group, key, value, etag);
                }
                let event = Event { called, returned: Some(returned), op: op(told) };
                book.record(group, key, event);
            }
        }
    }

    pub(super) fn unexpected(&self, group: usize, key: usize, answer: &Answer) {
        let (name, node) = (key_name(group, key), self.node + 1);
        let Answer { status, code, message, .. } = answer;
        let what = format!("{name}: node {node} answered {status} {code}: {message}");
        self.shared.book.violation(what);
    }

    /// A new value and its bytes.
    fn value(&mut self, group: usize, key: usize) -> (Value, Payload) {
        let size = self.size();
        let (value, size) = self.shared.book.new_value(group, key, size);
        let bytes = self.shared.bytes(&key_name(group, key), value, size);
        (value, Payload::Whole(Some(bytes)))
    }

    /// The size of an object.
    pub(super) fn size(&mut self) -> u64 {
        match self.random.random_range(0..100) {
            0..5 => self.random.random_range(1..200),
            5..60 => self.random.random_range(200..16_000),
            60..92 => self.random.random_range(16_000..400_000),
            _ => self.random.random_range(900_000..2_500_000),
        }
    }

    async fn put(&mut self, group: usize, key: usize) {
        let (value, body) = self.value(group, key);
        let name = key_name(group, key);
        let outcome = self.ask(None, Method::PUT, &name, &[], &[], body).await;
        self.wrote(group, key, outcome, Some(value), |_| KeyOp::Put(value));
    }

    async fn create(&mut self, group: usize, key: usize) {
        let (value, body) = self.value(group, key);
        let name = key_name(group, key);
        let condition = [("if-none-match", "*".to_owned())];
        let outcome = self.ask(None, Method::PUT, &name, &[], &condition, body).await;
        self.wrote(group, key, outcome, Some(value), |told| KeyOp::Create(value, told));
    }

    async fn replace(&mut self, group: usize, key: usize) {
        let Some((old, etag)) = self.shared.book.known_etag(group, key) else { return };
        let (value, body) = self.value(group, key);
        let name = key_name(group, key);
        let condition = [("if-match", etag)];
        let outcome = self.ask(None, Method::PUT, &name, &[], &condition, body).await;
        self.wrote(group, key, outcome, Some(value), |told| KeyOp::Replace(old, value, told));
    }

    async fn delete(&mut self, group: usize, key: usize) {
        let name = key_name(group, key);
        let outcome = self.ask(None, Method::DELETE, &name, &[], &[], Payload::EMPTY).await;
        self.wrote(group, key, outcome, None, |_| KeyOp::Delete);
    }

    /// GetObject; every byte is compared.
    pub async fn get(&mut self, group: usize, key: usize, node: Option<usize>) {
        let name = key_name(group, key);
        let outcome = self.ask(node, Method::GET, &name, &[], &[], Payload::EMPTY).await;
        let Outcome::Answered { called, returned, answer } = outcome else { return };
        let size = answer.body.len() as u64;
        let value = self.seen(group, key, &answer, Some(size), (called, returned));
        if let Some(value) = value {
            let mut right = self.shared.content.of(&format!("{name}#{value}"), size);
            if !right.matches(&answer.body) {
                let node = self.node + 1;
                self.shared.book.violation(format!("{name}: node {node}: wrong bytes of {value}"));
            }
        }
    }

    /// HeadObject.
    pub async fn head(&mut self, group: usize, key: usize, node: Option<usize>) {
        let name = key_name(group, key);
        let outcome = self.ask(node, Method::HEAD, &name, &[], &[], Payload::EMPTY).await;
        let Outcome::Answered { called, returned, mut answer } = outcome else { return };
        // Answers to HEAD have no body that could name the code.
        answer.code = "NoSuchKey".to_owned();
        self.seen(group, key, &answer, answer.length, (called, returned));
    }

    /// Records what a reader saw.
    fn seen(
        &self,
        group: usize,
        key: usize,
        answer: &Answer,
        size: Option<u64>,
        (called, returned): (u64, u64),
    ) -> Option<Value> {
        let book = &self.shared.book;
        let value = match answer.status {
            StatusCode::OK => {
                let value = size.and_then(|size| book.value_of(group, key, size));
                let Some(value) = value else {
                    let (name, node) = (key_name(group, key), self.node + 1);
                    book.violation(format!("{name}: node {node}: {size:?} bytes, of no value"));
                    return None;
                };
                if let Some(etag) = &answer.etag {
                    book.saw_etag(group, key, value, etag);
                }
                Some(value)
            }
            StatusCode::NOT_FOUND if answer.code == "NoSuchKey" => None,
            _ => {
                self.unexpected(group, key, answer);
                return None;
            }
        };
        book.record(group, key, Event { called, returned: Some(returned), op: KeyOp::Seen(value) });
        value
    }

    /// ListObjectsV2 of one group, page by page: what it shows and what it does not.
    pub async fn list(&mut self, group: usize) {
        let prefix = group_prefix(group);
        let most = self.random.random_range(2..20).to_string();
        let (mut found, mut token, mut span) = (Vec::new(), None::<String>, None::<(u64, u64)>);
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", &*prefix), ("max-keys", &*most)];
            query.extend(token.as_deref().map(|token| ("continuation-token", token)));
            let outcome = self.ask(None, Method::GET, "", &query, &[], Payload::EMPTY).await;
            let Outcome::Answered { called, returned, answer } = outcome else { return };
            if answer.status != StatusCode::OK {
                return self.unexpected(group, 0, &answer);
            }
            span = Some((span.map_or(called, |(first, _)| first), returned));
            let entries = answer.texts("Contents");
            found.extend(entries.iter().map(|entry| listed(entry)));
            token = answer.texts("NextContinuationToken").into_iter().next();
            if token.is_none() {
                break;
            }
            if entries.is_empty() {
                let what = format!("{prefix}: a truncated page without keys");
                return self.shared.book.violation(what);
            }
        }
        self.listed_keys(group, &found, span.unwrap_or_default());
    }

    fn listed_keys(
        &self,
        group: usize,
        found: &[(String, u64, String)],
        (called, returned): (u64, u64),
    ) {
        let book = &self.shared.book;
        if !found.is_sorted_by(|one, two| one.0 < two.0) {
            book.violation(format!("{}: a list out of order", group_prefix(group)));
        }
        for key in 0..GROUP_KEYS {
            let name = key_name(group, key);
            let entry = found.iter().find(|(listed, ..)| *listed == name);
            let value = entry.and_then(|(_, size, etag)| {
                let value = book.value_of(group, key, *size)?;
                book.saw_etag(group, key, value, etag);
                Some(value)
            });
            if let (Some((_, size, _)), None) = (entry, value) {
                book.violation(format!("{name}: listed with {size} bytes, of no value"));
                continue;
            }
            let op = KeyOp::Seen(value);
            book.record(group, key, Event { called, returned: Some(returned), op });
        }
    }
}

/// Key, size and ETag of one entry of a list.
fn listed(entry: &str) -> (String, u64, String) {
    let text = |name: &str| {
        let inside = entry.split_once(&format!("<{name}>")).map(|(_, rest)| rest);
        let text = inside.and_then(|rest| rest.split_once("</")).map(|(text, _)| text);
        text.unwrap_or_default().replace("&quot;", "\"")
    };
    (text("Key"), text("Size").parse().unwrap_or(u64::MAX), text("ETag"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: entries of lists are read. Method: one as S3 sends it.
    #[test]
    fn entries_of_lists_are_read() {
        let entry = "<Key>g00001/k2</Key><LastModified>x</LastModified><ETag>&quot;ab&quot;</ETag><Size>12</Size>";
        assert_eq!(listed(entry), ("g00001/k2".to_owned(), 12, "\"ab\"".to_owned()));
    }
}
