//! The integration tests: real RabbitMQ, a real S3 server behind a fault layer, a real ledger, real
//! processes. One binary, so that it links once. Run them with `make test`.

#![allow(
    clippy::unwrap_used,
    clippy::clone_on_ref_ptr,
    clippy::disallowed_methods,
    reason = "a test that meets an error fails, and says where; `make test` hands over in the environment"
)]

mod access;
mod architecture;
mod bad_jobs;
mod broker_addresses;
mod broker_contract;
mod broker_publishing;
mod broker_rabbitmq;
mod broker_subject;
mod broker_topology;
mod circuit;
mod cleanup;
mod cleanup_batches;
mod cleanup_prefix;
mod cli;
mod cli_edges;
mod copies;
#[cfg(feature = "failpoints")]
mod crash;
mod dead;
mod deploy;
mod fleet;
mod half_broken;
mod http;
mod http_edges;
mod image;
mod ledger_silence;
mod logs;
mod messages;
mod once;
mod operation_table;
mod operations;
mod operator;
mod outages;
#[cfg(feature = "failpoints")]
mod panics;
mod places;
mod process;
mod processes;
mod prometheus;
mod proxy;
mod rabbit;
mod reasons;
mod recipe;
mod retry;
mod stage;
mod strangers;
mod throttle;
mod tls;
mod uploads;
