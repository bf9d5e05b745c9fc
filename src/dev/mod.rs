//! What `brigade dev`, `brigade demo` and the integration tests run on: services inside this process.
//! Nothing here is part of a worker in production; the feature `dev` leaves it out.

pub mod s3_server;
