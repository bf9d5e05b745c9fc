//! The names of exchanges and queues, as the contract has them (section 1).

use super::Target;
use crate::job::{Lane, outcome::ParkDelay};

/// Makes every name from the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Names that begin with `prefix`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Where producers publish.
    pub fn jobs(&self) -> String {
        format!("{}.jobs", self.prefix)
    }

    /// Where parked copies go.
    pub fn retry(&self) -> String {
        format!("{}.retry", self.prefix)
    }

    /// Where dead letters go.
    pub fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// Where outcome events go.
    pub fn events(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// A lane's queue.
    pub fn lane_queue(&self, lane: Lane) -> String {
        format!("{}.{lane}", self.prefix)
    }

    /// A lane's dead queue.
    pub fn dead_queue(&self, lane: Lane) -> String {
        format!("{}.{lane}.dead", self.prefix)
    }

    /// A lane's retry queue of that delay.
    pub fn retry_queue(&self, lane: Lane, delay: ParkDelay) -> String {
        format!("{}.{lane}.retry.{}", self.prefix, delay.millis())
    }

    /// The routing key to a lane's retry queue of that delay.
    pub fn retry_key(lane: Lane, delay: ParkDelay) -> String {
        format!("{lane}.{}", delay.millis())
    }

    /// The queue that a message for `target` ends in; for an event, its exchange.
    pub fn queue(&self, target: &Target) -> String {
        match target {
            Target::Jobs(lane) => self.lane_queue(*lane),
            Target::Retry(lane, delay) => self.retry_queue(*lane, *delay),
            Target::Dead(lane) => self.dead_queue(*lane),
            Target::Reply(queue) => queue.clone(),
            Target::Event(_) => self.events(),
        }
    }

    /// How a message for `target` travels.
    pub fn route(&self, target: &Target) -> Route {
        let (exchange, key, mandatory) = match target {
            Target::Jobs(lane) => (self.jobs(), lane.to_string(), true),
            Target::Retry(lane, delay) => (self.retry(), Self::retry_key(*lane, *delay), true),
            Target::Dead(lane) => (self.dead(), lane.to_string(), true),
            // The broker delivers direct replies itself; as mandatory they'd always be returned.
            Target::Reply(queue) => (
                String::new(),
                queue.clone(),
                !queue.starts_with("amq.rabbitmq.reply-to."),
            ),
            Target::Event(key) => (self.events(), key.clone(), false),
        };
        Route {
            exchange,
            key,
            mandatory,
        }
    }
}

/// Exchange, routing key, and whether a queue must take the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Empty for the default exchange.
    pub exchange: String,
    /// The routing key; a queue's name with the default exchange.
    pub key: String,
    /// Returned when no queue takes it.
    pub mandatory: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        let names = Names::new("brigade");
        let lane = Lane::Upload;
        assert_eq!(names.lane_queue(lane), "brigade.upload");
        assert_eq!(names.dead_queue(lane), "brigade.upload.dead");
        assert_eq!(
            names.retry_queue(Lane::Cleanup, ParkDelay::OneMinute),
            "brigade.cleanup.retry.60000"
        );
    }

    #[test]
    fn only_direct_replies_and_events_may_find_no_queue() {
        let names = Names::new("p");
        let mandatory = |target| names.route(&target).mandatory;
        assert!(mandatory(Target::Jobs(Lane::Read)));
        assert!(mandatory(Target::Retry(Lane::Read, ParkDelay::TenSeconds)));
        assert!(mandatory(Target::Dead(Lane::Read)));
        assert!(mandatory(Target::Reply("answers".into())));
        assert!(!mandatory(Target::Reply(
            "amq.rabbitmq.reply-to.g1h2".into()
        )));
        assert!(!mandatory(Target::Event(
            "read.get_object.completed".into()
        )));
    }

    #[test]
    fn a_parked_copy_goes_by_lane_and_delay() {
        let route = Names::new("p").route(&Target::Retry(Lane::Read, ParkDelay::TenMinutes));
        assert_eq!(
            (route.exchange.as_str(), route.key.as_str()),
            ("p.retry", "read.600000")
        );
    }
}
