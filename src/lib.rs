//! Bucket Brigade.

pub mod job;
