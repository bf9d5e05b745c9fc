//! The mechanisms: circuit breaker and retry policy, as pure state machines with injected clock and chance, and the
//! budget of bytes.
//!
//! Nothing here knows S3, RabbitMQ or jobs.

pub mod budget;
pub mod cause;
pub mod circuit_breaker;
pub mod clock;
pub mod retry;

pub use budget::{Budget, Buffer, Held, Share};
pub use cause::Cause;
pub use circuit_breaker::{CircuitBreaker, CircuitSettings, Mode, Permit, Refused, Snapshot};
pub use clock::{Clock, TokioClock};
pub use retry::RetryPolicy;
