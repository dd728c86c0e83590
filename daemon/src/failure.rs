//! [`Failure`]: why the daemon does not start, as an operator reads it: one line of cause, one of cure.

use std::fmt;

/// What stopped the daemon, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What happened, to what.
    pub cause: String,
    /// What to do next.
    pub cure: String,
}

impl Failure {
    /// A failure; line breaks within either line become spaces.
    pub fn new(cause: impl Into<String>, cure: impl Into<String>) -> Self {
        let line = |text: String| text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        Self { cause: line(cause.into()), cure: line(cure.into()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.cause, self.cure)
    }
}

impl std::error::Error for Failure {}

impl From<holdfast_placement::PlacementError> for Failure {
    fn from(error: holdfast_placement::PlacementError) -> Self {
        Self::new(error.to_string(), error.cure())
    }
}
