//! Goal: over the fabric drives answer as they do at home, and nobody else can make them answer.
//! Method: a real server and client over loopback TCP in front of a double of a node.

mod double;
mod rig;

mod calls;
mod conformance;
mod faults;
mod strangers;
mod streams;
