//! The checker: whether a history of what clients saw could have come from one copy of the data that
//! takes one operation at a time (linearizability). Pure; knows nothing of clusters.
//!
//! | module | holds |
//! |---|---|
//! | [`search`] | the search for an order that explains a history, for any [`Spec`] |
//! | [`key`] | what one key of a bucket may do |
//! | [`bucket`] | what a bucket may do that comes and goes |

pub mod bucket;
pub mod key;
pub mod search;

pub use search::{Event, Spec, Verdict, check};
