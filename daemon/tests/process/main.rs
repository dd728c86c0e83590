//! Goal: the real binary starts, serves, ends and starts again as an operator expects. Method: child
//! processes on loopback ports and temporary folders, a small signed S3 client over plain sockets.

mod client;
mod cluster;
mod members;
mod node;
mod refusals;
mod single;
mod tls;
mod traces;
mod unit;
