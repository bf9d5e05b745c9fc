//! Bucket Brigade: jobs from RabbitMQ run against S3, behind circuit breakers and backoff, with a SQL
//! ledger of every outcome. Nothing is lost.
//!
//! ```text
//!  RabbitMQ queue (one a lane)
//!       |
//!       v
//!   Delivery --decode--> Job --claim--> Ledger --new--> Operation --> Outcome --> Ledger --> Settlement
//!   (+ Acker,                             |              |  ^                      record      ack | requeue |
//!    used once)                           |              v  |                      first       park | bury
//!                                    already done    guard: breaker permit ->
//!                                    (duplicate)     attempt with time-out ->
//!                                                    classify -> backoff
//! ```
//!
//! Arrows never turn back, and the ledger is written before a delivery is settled. The modules in reading
//! order: the vocabulary ([`job`]) and the mechanisms ([`resilience`]) are pure; [`storage`], [`broker`] and
//! [`ledger`] each hide one outside system; [`lane`] is the engine between them; [`worker`] puts
//! everything together, [`drain`] takes it apart.

// `println!` and its kin panic when the disk is full; `terminal` does not.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]
// A job's future nests everything from its lane down to the SDK's connection.
#![recursion_limit = "256"]

#[macro_use]
mod crash;
mod nearest;

pub mod terminal;
pub mod watch;

pub mod job;
pub mod resilience;

pub mod broker;
pub mod ledger;
pub mod metrics;
pub mod storage;

pub mod drain;
pub mod lane;
pub mod worker;

pub mod config;
pub mod http;
pub mod telemetry;

pub mod cli;
#[cfg(feature = "dev")]
pub mod dev;

#[cfg(test)]
mod sim;
