//! The integration tests: real RabbitMQ, a real S3 server behind a fault layer, a real ledger, real
//! processes. One binary, so that it links once. Run them with `make test`.

mod architecture;
mod bad_jobs;
mod circuit;
mod cleanup;
mod cli;
mod http;
mod messages;
mod once;
mod operations;
mod outages;
mod process;
mod processes;
mod rabbit;
mod retry;
mod stage;
