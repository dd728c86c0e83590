//! Placement: who holds what. Pure functions on plain values.
//!
//! Owns the volume arguments and their expansion notation, the sizes of erasure sets, the layout
//! document, and the hashing from a key to pool, set and drive order. Opens no file, resolves no host
//! name, and never decides whether a drive is up.
//!
//! ```text
//! arguments -> parse_volumes -> PoolSpec (endpoints) -> plan_sets -> Layout::plan -> layout document
//! key -> pool (weighted rendezvous) -> set (keyed hash) -> order of drives (permutation)
//! ```
//!
//! INV-PLACE-1: where a key lives is a function of the layout document and the key alone, computed in
//! integers, the same on every machine and for ever. INV-PLACE-2: adding a pool moves keys only into
//! the new pool. INV-PLACE-3: a set has equally many drives on each of its nodes.
//!
//! | module | holds |
//! |---|---|
//! | [`endpoint`] | one drive of one node: `http://host:port/path`, `https://...` or a path |
//! | [`notation`] | ranges `{a...b}` and their expansion |
//! | [`volumes`] | [`parse_volumes`]: arguments to pools, with every refusal |
//! | [`sets`] | [`set_size`] and [`plan_sets`] |
//! | [`layout`] | [`Layout`], the document, its validation |
//! | `hash` | the arithmetic of pool, set and order |

pub mod endpoint;
mod error;
mod hash;
pub mod layout;
pub mod notation;
pub mod sets;
pub mod volumes;

pub use endpoint::{Endpoint, Scheme};
pub use error::PlacementError;
pub use layout::{DriveSlot, Layout, NodeSpec, Pool, SetLayout};
pub use sets::{plan_sets, set_size};
pub use volumes::{PoolSpec, parse_volumes};
