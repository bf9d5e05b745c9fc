//! A simulation of whole workers, to find by machine what nobody thought of.
//!
//! A seed makes a schedule (`plan`): jobs, settings, and what goes wrong when, down to the await at which a process
//! dies. It runs on one thread and a paused clock, on the twins of broker and ledger and on a store that answers by the
//! weather; whatever is left to chance is drawn from the seed, so a run repeats exactly. Rules are checked while it runs
//! and at its end. A schedule that breaks one is made smaller, and printed with its trace.
//!
//! What is not simulated: lapin and AMQP, SQL, TCP, and threads. docs/explanation/simulation.md says how to read it.

mod apply;
mod broker;
mod chance;
mod fault;
mod fleet;
mod ledger;
mod mark;
mod panics;
mod plan;
mod run;
mod search;
mod shrink;
mod store;
mod tests;
mod theme;
mod world;

/// The queue that replies go to.
const ANSWERS: &str = "answers";
