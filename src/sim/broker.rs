//! The broker as one worker sees it: the twin, the faults of the schedule, and a look at each step.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{fault::Refusal, mark::Mark};
use crate::{
    broker::{
        Acker, Broker, BrokerError, BrokerStatus, Delivery, Ended, Names, PublishError, Stale,
        Subscription, Tag, Target,
    },
    job::{Lane, Message},
    watch,
};

/// How long a confirm is waited for.
const CONFIRM: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct SimBroker {
    pub(super) mark: Arc<Mark>,
}

impl SimBroker {
    async fn send(mark: &Mark, target: &Target, message: &Message) -> Result<(), PublishError> {
        mark.before().await;
        let id = message.message_id.as_deref().unwrap_or("?");
        let queue = mark.world.names.queue(target);
        let refusal = match target {
            Target::Retry(..) | Target::Dead(_) => mark.world.state().refusals.pop_front(),
            _ => None,
        };
        let sent = match refusal {
            Some(Refusal::Returned) => Err(PublishError::Returned("no route".to_owned())),
            Some(Refusal::Nacked) => Err(PublishError::Nacked),
            Some(Refusal::LateConfirm | Refusal::LostConfirm) | None => {
                mark.broker.publish(target, message).await
            }
        };
        if sent.is_ok() {
            let is_parked = matches!(target, Target::Retry(..));
            mark.world.facts(id, |facts| match target {
                Target::Retry(..) => facts.parks += 1,
                Target::Dead(_) => facts.letters += 1,
                _ => {}
            });
            mark.with(|held| held.parked += u64::from(is_parked));
        }
        let sent = match (refusal, sent) {
            (Some(Refusal::LateConfirm), Ok(())) => {
                mark.say(format_args!("{id} stands in {queue}, its confirm is late"));
                tokio::time::sleep(CONFIRM).await;
                mark.with(|held| held.parked -= u64::from(matches!(target, Target::Retry(..))));
                Err(PublishError::TimedOut)
            }
            (Some(Refusal::LostConfirm), Ok(())) => {
                mark.say(format_args!("{id} stands in {queue}, its confirm is lost"));
                mark.with(|held| held.parked -= u64::from(matches!(target, Target::Retry(..))));
                Err(PublishError::NotConnected("reset".to_owned()))
            }
            (_, sent) => sent,
        };
        mark.after().await;
        match &sent {
            Ok(()) => mark.say(format_args!("publishes {id} to {queue}")),
            Err(error) => mark.say(format_args!("can't publish {id} to {queue}: {error}")),
        }
        sent
    }
}

#[async_trait]
impl Broker for SimBroker {
    async fn subscribe(
        &self,
        lane: Lane,
        prefetch: u16,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let mark = &self.mark;
        mark.before().await;
        if mark.broker.is_consuming(&mark.world.names.lane_queue(lane)) {
            let text = format!("{} consumes {lane} twice", mark.name);
            mark.world.broken("two consumers", text);
        }
        let subscribed = mark.broker.subscribe(lane, prefetch).await;
        mark.after().await;
        match subscribed {
            Ok(inner) => {
                mark.say(format_args!("consumes {lane}, {prefetch} at a time"));
                mark.with(|held| *held.subscribed.entry(lane).or_default() += 1);
                let mark = Arc::clone(mark);
                Ok(Box::new(SimSubscription { mark, lane, inner }))
            }
            Err(error) => {
                mark.say(format_args!("can't consume {lane}: {error}"));
                Err(error)
            }
        }
    }

    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError> {
        Self::send(&self.mark, target, message).await
    }

    fn names(&self) -> &Names {
        &self.mark.world.names
    }

    async fn queue_ready(&self, lane: Lane) -> Option<u32> {
        self.mark.before().await;
        self.mark.broker.queue_ready(lane).await
    }

    async fn queue_parked(&self, lane: Lane) -> Option<u32> {
        self.mark.before().await;
        self.mark.broker.queue_parked(lane).await
    }

    fn status(&self) -> watch::Receiver<BrokerStatus> {
        self.mark.broker.status()
    }

    async fn close(&self) {
        self.mark.before().await;
        self.mark.broker.close().await;
    }
}

struct SimSubscription {
    mark: Arc<Mark>,
    lane: Lane,
    inner: Box<dyn Subscription>,
}

impl SimSubscription {
    fn delivery(&self, delivery: Delivery) -> Delivery {
        let Self { mark, lane, .. } = self;
        let Delivery {
            message,
            redelivered,
            acker,
        } = delivery;
        let id = message.message_id.clone().unwrap_or_default();
        let again = if redelivered { ", again" } else { "" };
        mark.say(format_args!("takes {id}{again}"));
        mark.world.facts(&id, |facts| facts.deliveries += 1);
        let now = mark.world.now();
        let number = mark.with(|held| {
            let number = held.number();
            held.held.insert(number, (*lane, id.clone(), now));
            held.last_delivery.insert(*lane, now);
            number
        });
        let tag = SimTag {
            mark: Arc::clone(mark),
            lane: *lane,
            id,
            number,
            acker: Some(acker),
        };
        let acker = Acker::new(Box::new(tag), Arc::clone(&message));
        Delivery {
            message,
            redelivered,
            acker,
        }
    }
}

#[async_trait]
impl Subscription for SimSubscription {
    async fn next(&mut self) -> Result<Delivery, Ended> {
        let next = self.inner.next().await;
        if self.mark.is_dead() {
            std::future::pending::<()>().await;
        }
        next.map(|delivery| self.delivery(delivery))
    }

    async fn cancel(mut self: Box<Self>) -> Vec<Delivery> {
        self.mark.before().await;
        self.mark.say(format_args!("cancels {}", self.lane));
        let inner = std::mem::replace(&mut self.inner, Box::new(NoSubscription));
        let buffered = inner.cancel().await;
        let buffered = buffered.into_iter();
        buffered.map(|delivery| self.delivery(delivery)).collect()
    }
}

struct NoSubscription;

#[async_trait]
impl Subscription for NoSubscription {
    async fn next(&mut self) -> Result<Delivery, Ended> {
        std::future::pending().await
    }

    async fn cancel(self: Box<Self>) -> Vec<Delivery> {
        Vec::new()
    }
}

struct SimTag {
    mark: Arc<Mark>,
    lane: Lane,
    id: String,
    number: u64,
    /// Gone once it is being settled.
    acker: Option<Acker>,
}

impl Drop for SimTag {
    fn drop(&mut self) {
        self.mark.with(|held| held.held.remove(&self.number));
        let is_let_go = self.acker.as_ref().is_some_and(|acker| !acker.is_stale());
        if is_let_go && !self.mark.is_dead() && !super::panics::any() {
            let text = format!("{} lets go of {} unsettled", self.mark.name, self.id);
            self.mark.world.broken("forgotten", text);
        }
    }
}

#[async_trait]
impl Tag for SimTag {
    fn is_stale(&self) -> bool {
        self.acker.as_ref().is_none_or(Acker::is_stale)
    }

    async fn ack(mut self: Box<Self>) -> Result<(), Stale> {
        let mark = Arc::clone(&self.mark);
        mark.before().await;
        let acker = self.acker.take().ok_or(Stale)?;
        if acker.is_stale() {
            mark.say(format_args!("can't ack {}", self.id));
            return Err(Stale);
        }
        mark.world.check_ack(&mark.name, &self.id);
        let is_lost = {
            let mut state = mark.world.state();
            let is_lost = state.acks_to_lose > 0;
            state.acks_to_lose -= u64::from(is_lost);
            is_lost
        };
        if is_lost {
            mark.say(format_args!(
                "acks {}, and the connection breaks before it arrives",
                self.id
            ));
            mark.broker.lose_channels();
            return Ok(());
        }
        let acked = acker.ack().await;
        mark.say(format_args!("acks {}", self.id));
        mark.after().await;
        acked
    }

    async fn requeue(mut self: Box<Self>) -> Result<(), Stale> {
        let mark = Arc::clone(&self.mark);
        mark.before().await;
        let acker = self.acker.take().ok_or(Stale)?;
        if acker.is_stale() {
            mark.say(format_args!("can't requeue {}", self.id));
            return Err(Stale);
        }
        if mark
            .broker
            .is_consuming(&mark.world.names.lane_queue(self.lane))
        {
            let text = format!("{} requeues {} while it consumes", mark.name, self.id);
            mark.world.broken("requeue while consuming", text);
        }
        if !mark.may_requeue(self.lane) {
            let text = format!("{} requeues {} and may run it", mark.name, self.id);
            mark.world.broken("requeue without need", text);
        }
        let requeued = acker.requeue().await;
        mark.say(format_args!("requeues {}", self.id));
        mark.world.facts(&self.id, |facts| facts.requeues += 1);
        mark.with(|held| held.requeued += 1);
        mark.after().await;
        requeued
    }

    async fn publish(&self, target: &Target, message: &Message) -> Result<(), PublishError> {
        SimBroker::send(&self.mark, target, message).await
    }
}
