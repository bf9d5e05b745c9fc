//! For trying it out and for tests: an S3 server in this process, `brigade dev` and `brigade demo`.
//!
//! Cargo feature `dev`, on by default. Nothing else in the crate may depend on this module but the
//! command line.

pub mod demo;
pub mod playground;
pub mod s3_server;
mod worker_process;
