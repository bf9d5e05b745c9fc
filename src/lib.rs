//! Bucket Brigade.

pub mod broker;
pub mod config;
#[cfg(feature = "dev")]
pub mod dev;
pub mod job;
pub mod ledger;
pub mod metrics;
pub mod resilience;
pub mod storage;
