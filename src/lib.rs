//! Bucket Brigade.

pub mod job;
pub mod resilience;
