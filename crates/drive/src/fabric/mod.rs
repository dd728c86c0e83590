//! The fabric: the drives of other nodes over gRPC (DESIGN section 6).
//!
//! | module | holds |
//! |---|---|
//! | [`wire`] | commands, replies and errors as messages and back |

pub mod wire;
