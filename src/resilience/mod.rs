//! The mechanisms: circuit breaker, retry policy and adaptive limit, as pure state machines with injected clock and
//! chance; the slots of a lane, and the budget of bytes.
//!
//! Nothing here knows S3, RabbitMQ or jobs.

pub mod adaptive;
pub mod budget;
pub mod cause;
pub mod circuit_breaker;
pub mod clock;
pub mod retry;
pub mod slots;

pub use adaptive::{AdaptiveLimit, CallEnd, CallKind, EndedCall};
pub use budget::{Budget, Buffer, Held, Share};
pub use cause::Cause;
pub use circuit_breaker::{CircuitBreaker, CircuitSettings, Mode, Permit, Refused, Snapshot};
pub use clock::{Clock, TokioClock};
pub use retry::RetryPolicy;
pub use slots::{Slot, Slots};
