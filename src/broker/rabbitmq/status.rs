//! What `/readyz`, the lanes and the metrics are told about the broker; one place sets all three.

use std::sync::Arc;

use crate::{
    broker::{BrokerStatus, Link},
    metrics::{Metrics, Role},
    watch,
};

/// The one writer of [`BrokerStatus`].
#[derive(Debug)]
pub(super) struct StatusBoard {
    status: watch::Sender<BrokerStatus>,
    metrics: Arc<Metrics>,
}

impl StatusBoard {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let down = Link::Down("not connected yet".to_owned());
        let (status, _) = watch::channel(BrokerStatus {
            consume: down.clone(),
            publish: down,
            topology: None,
            blocked: None,
            broken: None,
        });
        Self { status, metrics }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<BrokerStatus> {
        self.status.subscribe()
    }

    /// The connection stands. `again`: it stood before.
    pub(super) fn up(&self, role: Role, again: bool) {
        self.metrics
            .amqp_connected
            .with_label_values(&[role.as_str()])
            .set(1);
        if again {
            self.metrics
                .amqp_reconnects
                .with_label_values(&[role.as_str()])
                .inc();
        }
        self.set_link(role, Link::Up);
    }

    /// The connection does not stand; the sentence says why.
    pub(super) fn down(&self, role: Role, why: &str) {
        self.metrics
            .amqp_connected
            .with_label_values(&[role.as_str()])
            .set(0);
        self.set_link(role, Link::Down(why.to_owned()));
        if role == Role::Publish {
            self.blocked(None);
        }
    }

    /// Why the connection of that role is down, if it is.
    pub(super) fn why_down(&self, role: Role) -> String {
        let status = self.status.borrow();
        match link(&status, role) {
            Link::Down(why) => why.clone(),
            Link::Up => "the connection was lost".to_owned(),
        }
    }

    pub(super) fn topology(&self, problem: Option<String>) {
        self.change(|status| &mut status.topology, problem);
    }

    pub(super) fn blocked(&self, reason: Option<String>) {
        self.change(|status| &mut status.blocked, reason);
    }

    /// The task of that connection ended by itself.
    pub(super) fn broken(&self, role: Role) {
        let what = format!("the task of the {} connection ended", role.as_str());
        self.down(role, &what);
        self.change(|status| &mut status.broken, Some(what));
    }

    fn set_link(&self, role: Role, link: Link) {
        match role {
            Role::Consume => self.change(|status| &mut status.consume, link),
            Role::Publish => self.change(|status| &mut status.publish, link),
        }
    }

    /// Watchers hear of changes only.
    fn change<T: PartialEq>(&self, field: impl Fn(&mut BrokerStatus) -> &mut T, value: T) {
        self.status.send_if_modified(|status| {
            let field = field(status);
            let changed = *field != value;
            *field = value;
            changed
        });
    }
}

fn link(status: &BrokerStatus, role: Role) -> &Link {
    match role {
        Role::Consume => &status.consume,
        Role::Publish => &status.publish,
    }
}
