//! What was brought up from below the overlay by I/O threads, for decisions that must not wait:
//! [`Want`] names it, [`Loaded`] holds it for one request, [`Recent`] for a while.
//!
//! Whatever is loaded is the base's answer at one *generation* of the base. A generation ends when an
//! overlay set aside becomes part of the base (only then does the base's answer for a key change
//! without the overlay covering the key); what was loaded in an earlier one is dropped.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    overlay::{Base, BaseError, BasePage},
    value::Value,
};

/// Bytes of [`Recent`]: some five thousand registers and their places.
const RECENT_BYTES_MAX: usize = 4 << 20;

/// What a record costs beside its bytes: map and queue entries.
const OVERHEAD_BYTES: usize = 128;

/// Bytes of a version at the end of a register's key.
const VERSION_BYTES: usize = 16;

/// Raw keys and values.
pub type Records = Vec<(Bytes, Bytes)>;

/// The registers of one key.
pub type Registers = Vec<(Bytes, Arc<Value>)>;

/// What a decision lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Want {
    /// The values of single keys.
    Keys(Vec<Bytes>),
    /// All registers of the key that encodes so.
    Prefix(Bytes),
    /// A page of a range.
    Page {
        /// First key, inclusive.
        start: Bytes,
        /// First key not wanted.
        end: Option<Bytes>,
        /// Most records.
        limit: usize,
    },
}

/// The base's answers that one decision asked for.
#[derive(Default, Debug)]
pub struct Loaded {
    keys: HashMap<Bytes, Option<Bytes>>,
    prefixes: HashMap<Bytes, Records>,
    pages: HashMap<(Bytes, Option<Bytes>), BasePage>,
}

impl Loaded {
    /// Asks the base. Blocks.
    ///
    /// # Errors
    /// When the base cannot say.
    pub fn load(base: &dyn Base, want: Want) -> Result<Self, BaseError> {
        let mut loaded = Self::default();
        match want {
            Want::Keys(keys) => {
                for key in keys {
                    let held = base.get(&key)?;
                    loaded.keys.insert(key, held);
                }
            }
            Want::Prefix(prefix) => {
                let held = base.key(&prefix)?;
                loaded.prefixes.insert(prefix, held);
            }
            Want::Page { start, end, limit } => {
                let page = base.scan(&start, end.as_deref(), limit)?;
                loaded.pages.insert((start, end), page);
            }
        }
        Ok(loaded)
    }

    /// Adds what was loaded since.
    pub fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.prefixes.extend(other.prefixes);
        self.pages.extend(other.pages);
    }

    /// The value of a key, if it was asked for.
    #[must_use]
    pub fn key(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.keys.get(key)
    }

    /// The registers of a key, if they were asked for.
    #[must_use]
    pub fn prefix(&self, prefix: &[u8]) -> Option<&Records> {
        self.prefixes.get(prefix)
    }

    /// A page, if it was asked for.
    #[must_use]
    pub fn page(&self, start: &[u8], end: Option<&[u8]>) -> Option<&BasePage> {
        if self.pages.is_empty() {
            return None;
        }
        let key = (Bytes::copy_from_slice(start), end.map(Bytes::copy_from_slice));
        self.pages.get(&key)
    }
}

/// Answers noted for one decision: it looks at a register and its places.
const DECISION_ANSWERS_MAX: usize = 16;

/// Where an answer of the base came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// From memory: noted for the decision being made, which looks at a register and a place several times.
    FromMemory,
    /// From the device, by an I/O thread: noted for those that follow, too (Accept, Settle, Purge).
    FromDevice,
}

/// The base's answers of late, decoded. Of those that came from the device the oldest goes first.
#[derive(Default, Debug)]
pub struct Recent {
    of_decision: Vec<(Bytes, Answer)>,
    answers: HashMap<Bytes, Answer>,
    queue: VecDeque<Bytes>,
    bytes: usize,
}

#[derive(Clone, Debug)]
enum Answer {
    /// What is held for a single key.
    Single(Option<Arc<Value>>),
    /// The registers of the key that encodes as the prefix.
    Registers(Registers),
}

impl Recent {
    /// Takes note of what is held for a key in this generation.
    pub fn note(&mut self, key: &[u8], value: Option<&Arc<Value>>, came: Came) {
        self.keep(key, Answer::Single(value.cloned()), came);
    }

    /// Takes note of the registers of a key in this generation.
    pub fn note_registers(&mut self, prefix: &[u8], registers: &Registers, came: Came) {
        // Copies: a key may be a slice that keeps a whole block.
        let copy =
            |(key, value): &(Bytes, Arc<Value>)| (Bytes::copy_from_slice(key), value.clone());
        self.keep(prefix, Answer::Registers(registers.iter().map(copy).collect()), came);
    }

    fn keep(&mut self, key: &[u8], answer: Answer, came: Came) {
        let key = Bytes::copy_from_slice(key);
        if came == Came::FromDevice {
            self.keep_longer(key.clone(), answer.clone());
        }
        if self.of_decision.len() < DECISION_ANSWERS_MAX {
            self.of_decision.push((key, answer));
        }
    }

    fn keep_longer(&mut self, key: Bytes, answer: Answer) {
        let cost = cost(&key, &answer);
        if cost > RECENT_BYTES_MAX / 16 || self.answers.contains_key(&key) {
            return;
        }
        while self.bytes + cost > RECENT_BYTES_MAX {
            let Some(oldest) = self.queue.pop_front() else { break };
            let gone = self.answers.remove(&oldest);
            self.bytes -= gone.map_or(0, |gone| self::cost(&oldest, &gone));
        }
        self.bytes += cost;
        self.queue.push_back(key.clone());
        self.answers.insert(key, answer);
    }

    fn answer(&self, key: &[u8]) -> Option<&Answer> {
        let noted = self.of_decision.iter().find(|(noted, _)| noted == key);
        noted.map(|(_, answer)| answer).or_else(|| self.answers.get(key))
    }

    /// What is held for a key, if that is known: from itself, or as one of the registers of its key.
    #[must_use]
    pub fn key(&self, key: &[u8]) -> Option<Option<Arc<Value>>> {
        if let Some(Answer::Single(value)) = self.answer(key) {
            return Some(value.clone());
        }
        let prefix = key.get(..key.len().checked_sub(VERSION_BYTES)?)?;
        let registers = self.registers(prefix)?;
        let found = registers.iter().find(|(register, _)| register == key);
        Some(found.map(|(_, value)| value.clone()))
    }

    /// The registers of a key, if they are known.
    #[must_use]
    pub fn registers(&self, prefix: &[u8]) -> Option<&Registers> {
        match self.answer(prefix)? {
            Answer::Registers(registers) => Some(registers),
            Answer::Single(_) => None,
        }
    }

    /// Another decision begins.
    pub fn end_decision(&mut self) {
        self.of_decision.clear();
    }

    /// Forgets everything: the base has changed.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

fn cost(key: &[u8], answer: &Answer) -> usize {
    let weight = |value: &Arc<Value>| value.weight() as usize + OVERHEAD_BYTES;
    let answer = match answer {
        Answer::Single(value) => value.as_ref().map_or(0, weight),
        Answer::Registers(registers) => {
            registers.iter().map(|(key, value)| key.len() + weight(value)).sum()
        }
    };
    key.len() + OVERHEAD_BYTES + answer
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{overlay::Layers, value::PlaceRecord};

    fn place() -> Arc<Value> {
        Arc::new(Value::Place(PlaceRecord::default()))
    }

    /// Goal: the bytes of what is kept are bounded, and the newest is kept. Method: four times the
    /// budget.
    #[test]
    fn recent_is_bounded_and_keeps_the_newest() {
        let mut recent = Recent::default();
        let name = |n: usize| format!("{n:01000}").into_bytes();
        let count = 4 * RECENT_BYTES_MAX / 1000;
        for n in 0..count {
            recent.note(&name(n), (n % 2 == 0).then(place).as_ref(), Came::FromDevice);
            recent.end_decision();
            assert!(recent.bytes <= RECENT_BYTES_MAX);
            assert_eq!(recent.key(&name(n)).unwrap().is_some(), n % 2 == 0);
        }
        assert!(recent.key(&name(0)).is_none());
        assert_eq!(recent.queue.len(), recent.answers.len());
    }

    /// Goal: one answer serves all that a decision asks of a key. Method: note the registers of a key, and
    /// ask for single ones: the one held, one not held, one of another key, and a short key.
    #[test]
    fn the_registers_of_a_key_answer_for_each_of_them() {
        let mut recent = Recent::default();
        let register = |version: u8| [&b"some key"[..], &[version; VERSION_BYTES][..]].concat();
        let held = vec![(register(1).into(), place())];
        recent.note_registers(b"some key", &held, Came::FromMemory);
        assert_eq!(recent.key(&register(1)), Some(Some(place())));
        assert_eq!(recent.key(&register(2)), Some(None));
        assert_eq!(recent.key(&[&b"other"[..], &[1; VERSION_BYTES]].concat()), None);
        assert_eq!(recent.key(b"some key"), None);
        assert_eq!(recent.registers(b"some key").map(Vec::len), Some(1));
        recent.end_decision();
        assert_eq!(recent.key(&register(1)), None);
        recent.note_registers(b"some key", &held, Came::FromDevice);
        recent.end_decision();
        assert_eq!(recent.key(&register(1)), Some(Some(place())));
        recent.clear();
        assert_eq!(recent.key(&register(1)), None);
    }

    /// A base that counts its questions.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Base for Counting {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, BaseError> {
            unreachable!("answers come from memory")
        }

        fn scan(&self, _: &[u8], _: Option<&[u8]>, _: usize) -> Result<BasePage, BaseError> {
            unreachable!("answers come from memory")
        }

        fn key(&self, _: &[u8]) -> Result<Records, BaseError> {
            unreachable!("answers come from memory")
        }

        fn try_get(&self, _: &[u8]) -> Result<Option<Option<Bytes>>, BaseError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Some(None))
        }

        fn try_key(&self, _: &[u8]) -> Result<Option<Records>, BaseError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Some(Vec::new()))
        }

        fn is_empty(&self) -> bool {
            false
        }
    }

    /// Goal: what a decision asks again is not looked up again, and nothing is kept for the next one or across
    /// a change of the base. Method: a base that counts; a key's registers, one of them and a place, thrice
    /// each; again; then another base.
    #[test]
    fn a_base_is_asked_once_for_a_decision() {
        let bases = [Arc::new(Counting::default()), Arc::new(Counting::default())];
        let mut layers = Layers::new(bases[0].clone());
        for base in &bases {
            layers.set_base(base.clone());
            for asked in [2, 4] {
                for _ in 0..3 {
                    assert!(layers.key(b"some key").unwrap().items.is_empty());
                    assert!(layers.get(b"some key0123456789abcdef").unwrap().value.is_none());
                    assert!(layers.get(b"place").unwrap().value.is_none());
                }
                assert_eq!(base.0.load(Ordering::Relaxed), asked);
                layers.lend(Loaded::default());
            }
        }
    }
}
