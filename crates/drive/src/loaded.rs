//! What was brought up from below the overlay by I/O threads, for decisions that must not wait:
//! [`Want`] names it, [`Loaded`] holds it for one request, [`Recent`] for a while.
//!
//! Whatever is loaded is the base's answer at one *generation* of the base. A generation ends when an
//! overlay set aside becomes part of the base (only then does the base's answer for a key change
//! without the overlay covering the key); what was loaded in an earlier one is dropped.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::overlay::{Base, BaseError, BasePage};

/// Bytes of [`Recent`]: some ten thousand registers.
const RECENT_BYTES_MAX: usize = 4 << 20;

/// What a record costs beside its bytes: map and queue entries.
const OVERHEAD_BYTES: usize = 128;

/// Raw keys and values.
pub type Records = Vec<(Bytes, Bytes)>;

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

/// Registers that were loaded lately: what is asked for again and again costs one trip to the I/O
/// threads. The oldest goes first.
#[derive(Default, Debug)]
pub struct Recent {
    prefixes: HashMap<Bytes, Records>,
    queue: VecDeque<Bytes>,
    bytes: usize,
}

impl Recent {
    /// Takes note of registers loaded in this generation.
    pub fn note(&mut self, loaded: &Loaded) {
        for (prefix, records) in &loaded.prefixes {
            let cost = cost(prefix, records);
            if cost > RECENT_BYTES_MAX / 16 || self.prefixes.contains_key(prefix) {
                continue;
            }
            while self.bytes + cost > RECENT_BYTES_MAX {
                let Some(oldest) = self.queue.pop_front() else { break };
                let gone = self.prefixes.remove(&oldest).unwrap_or_default();
                self.bytes -= self::cost(&oldest, &gone);
            }
            self.bytes += cost;
            self.queue.push_back(prefix.clone());
            // Copies: a loaded value may be a slice that keeps a whole block.
            let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
            let records = records.iter().map(|(key, value)| (copy(key), copy(value)));
            self.prefixes.insert(prefix.clone(), records.collect());
        }
    }

    /// The registers of a key, if they are here.
    #[must_use]
    pub fn prefix(&self, prefix: &[u8]) -> Option<&Records> {
        self.prefixes.get(prefix)
    }

    /// Forgets everything: the base has changed.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

fn cost(prefix: &Bytes, records: &Records) -> usize {
    let records = records.iter().map(|(key, value)| key.len() + value.len() + OVERHEAD_BYTES);
    prefix.len() + OVERHEAD_BYTES + records.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the bytes of what is kept are bounded, and the newest is kept. Method: four times the
    /// budget.
    #[test]
    fn recent_is_bounded_and_keeps_the_newest() {
        let mut recent = Recent::default();
        let value = Bytes::from(vec![7; 10_000]);
        let name = |n: usize| Bytes::from(format!("key {n}"));
        let count = 4 * RECENT_BYTES_MAX / value.len();
        for n in 0..count {
            let mut loaded = Loaded::default();
            loaded.prefixes.insert(name(n), vec![(name(n), value.clone())]);
            recent.note(&loaded);
            assert!(recent.bytes <= RECENT_BYTES_MAX);
            assert_eq!(recent.prefix(&name(n)).unwrap()[0].1, value);
        }
        assert!(recent.prefix(&name(0)).is_none());
        assert_eq!(recent.queue.len(), recent.prefixes.len());
    }
}
