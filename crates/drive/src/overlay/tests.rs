//! What layers show together.

use std::collections::BTreeMap;

use holdfast_types::OperationId;
use proptest::prelude::*;

use super::*;
use crate::value::PlaceRecord;

/// A base in memory.
struct Below(BTreeMap<Bytes, Bytes>);

impl Base for Below {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<BasePage, BaseError> {
        let inside =
            |(key, _): &(&Bytes, &Bytes)| &key[..] >= start && end.is_none_or(|end| &key[..] < end);
        let mut items: Vec<_> =
            self.0.iter().filter(inside).map(|(k, v)| (k.clone(), v.clone())).collect();
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(BasePage { items, more })
    }

    fn key(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, BaseError> {
        Ok(self.scan(prefix, prefix_end(prefix).as_deref(), usize::MAX)?.items)
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Option<Bytes>>, BaseError> {
        self.get(key).map(Some)
    }

    fn try_key(&self, prefix: &[u8]) -> Result<Option<Vec<(Bytes, Bytes)>>, BaseError> {
        self.key(prefix).map(Some)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn key(number: u8) -> Bytes {
    PlaceRecord::key(OperationId(number.into())).into()
}

fn value(references: u64) -> Value {
    Value::Place(PlaceRecord { references, ..PlaceRecord::default() })
}

/// Removals and values by key.
fn layer() -> impl Strategy<Value = BTreeMap<u8, Option<u8>>> {
    prop::collection::btree_map(0_u8..40, prop::option::weighted(0.7, 1_u8..4), 0..30)
}

fn put_all(layers: &mut Layers, layer: &BTreeMap<u8, Option<u8>>, generation: u64) {
    for (number, held) in layer {
        let held = held.map(|held| value(generation + u64::from(held)));
        layers.put(key(*number), held, generation, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Goal: pages of a scan, single keys and keys with all their registers show of every key what the newest
    /// layer says. Method: random values and removals in base, frozen overlay and overlay; read in pages of
    /// every small size from every start, and one by one, against one map that was written to in turn.
    #[test]
    fn layers_show_what_was_put_last(
        (base, frozen, newest) in (layer(), layer(), layer()),
        (start, end, wanted) in (0_u8..40, prop::option::of(0_u8..45), 1_usize..12),
        has_frozen in any::<bool>(),
    ) {
        let mut expected: BTreeMap<Bytes, Value> = BTreeMap::new();
        let held = base.iter().filter_map(|(n, held)| Some((key(*n), value((*held)?.into()))));
        expected.extend(held);
        let below = expected.iter().map(|(key, value)| (key.clone(), value.encode())).collect();
        let mut layers = Layers::new(Arc::new(Below(below)));
        for (layer, generation) in [(&frozen, 10), (&newest, 20)] {
            put_all(&mut layers, layer, generation);
            for (number, held) in layer {
                match held {
                    Some(held) => expected.insert(key(*number), value(generation + u64::from(*held))),
                    None => expected.remove(&key(*number)),
                };
            }
            if has_frozen && generation == 10 {
                layers.freeze();
            }
        }
        let (mut at, end) = (key(start), end.map(key));
        let inside = |(k, _): &(&Bytes, &Value)| **k >= at && end.as_ref().is_none_or(|e| *k < e);
        let want: Vec<_> = expected.iter().filter(inside).map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut shown = Vec::new();
        loop {
            let page = layers.scan(&at, end.as_deref(), wanted).expect("a base in memory");
            shown.extend(page.items.into_iter().map(|(key, value)| (key, (*value).clone())));
            let Some(next) = page.next else { break };
            prop_assert!(next > at, "a scan goes on");
            at = next;
        }
        prop_assert_eq!(shown, want);
        for number in 0..40 {
            let (key, held) = (key(number), expected.get(&key(number)));
            let single = layers.get(&key).expect("a base in memory").value;
            prop_assert_eq!(single.as_deref(), held);
            let all = layers.key(&key).expect("a base in memory").items;
            prop_assert_eq!(all.first().map(|(_, value)| &**value), held);
            prop_assert_eq!(all.len(), usize::from(held.is_some()));
        }
    }
}

/// Goal: what comes and goes above nothing leaves nothing, and weighs nothing. Method: keys put, changed and
/// removed again; then as many others, which take their places.
#[test]
fn what_came_and_went_leaves_nothing() {
    let mut overlay = Overlay::default();
    for round in 0..3 {
        for number in 0..40 {
            overlay.put(key(number), Some(Arc::new(value(1))), round, true);
            overlay.put(key(number), Some(Arc::new(value(2))), round, false);
            let slot = overlay.get(&key(number)).expect("just put");
            assert!(slot.fresh && slot.gate == round && slot.value.as_deref() == Some(&value(2)));
        }
        assert_eq!((overlay.len(), overlay.iter().count()), (40, 40));
        assert!(overlay.weight() > 40 * 17);
        for number in 0..40 {
            overlay.put(key(number), None, round, false);
            assert!(overlay.get(&key(number)).is_none());
        }
        assert!(overlay.is_empty() && overlay.weight() == 0);
    }
    overlay.put(key(1), None, 7, false);
    assert!(overlay.get(&key(1)).is_some_and(|slot| slot.value.is_none()), "a removal to remember");
    overlay.put(key(2), None, 7, true);
    assert_eq!(overlay.len(), 1, "there was nothing to remove");
}
