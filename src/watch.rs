//! A value that many may watch: Tokio's, which the crate names only here.
//!
//! Tokio wakes those who wait for a change in an order of chance, from a seed that nobody can set. Unit tests get a
//! twin that wakes them in the order in which they began to wait, so that a simulation repeats exactly.

#[cfg(not(test))]
pub use tokio::sync::watch::{Receiver, Sender, channel};
#[cfg(test)]
pub use twin::{Receiver, Sender, channel};

#[cfg(test)]
mod twin {
    use std::{
        ops::Deref,
        sync::{
            Arc, PoisonError, RwLock, RwLockReadGuard,
            atomic::{AtomicU64, Ordering},
        },
    };

    use tokio::sync::Notify;

    #[derive(Debug)]
    struct Shared<T> {
        value: RwLock<T>,
        version: AtomicU64,
        senders: AtomicU64,
        changed: Notify,
    }

    /// Changes the value.
    #[derive(Debug)]
    pub struct Sender<T>(Arc<Shared<T>>);

    /// Sees the value, and hears of changes.
    #[derive(Debug)]
    pub struct Receiver<T> {
        shared: Arc<Shared<T>>,
        seen: u64,
    }

    /// The value as of now. The sender waits for as long as it is held.
    #[derive(Debug)]
    pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

    /// The sender is gone.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
    #[error("the sender is gone")]
    pub struct RecvError;

    /// A value, and one who watches it.
    pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            senders: AtomicU64::new(1),
            changed: Notify::new(),
        });
        let receiver = Receiver {
            shared: Arc::clone(&shared),
            seen: 0,
        };
        (Sender(shared), receiver)
    }

    impl<T> Shared<T> {
        fn borrow(&self) -> Ref<'_, T> {
            Ref(self.value.read().unwrap_or_else(PoisonError::into_inner))
        }

        fn version(&self) -> u64 {
            self.version.load(Ordering::SeqCst)
        }

        fn is_closed(&self) -> bool {
            self.senders.load(Ordering::SeqCst) == 0
        }
    }

    impl<T> Sender<T> {
        /// Changes the value, and tells everybody if `change` says so.
        pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
            let changed = {
                let value = self.0.value.write();
                let changed = change(&mut value.unwrap_or_else(PoisonError::into_inner));
                self.0
                    .version
                    .fetch_add(u64::from(changed), Ordering::SeqCst);
                changed
            };
            if changed {
                self.0.changed.notify_waiters();
            }
            changed
        }

        /// Changes the value.
        pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
            self.send_if_modified(|value| {
                change(value);
                true
            });
        }

        /// Puts another value in its place, and gives the old one back.
        pub fn send_replace(&self, mut new: T) -> T {
            self.send_modify(|value| std::mem::swap(value, &mut new));
            new
        }

        /// The value as of now.
        pub fn borrow(&self) -> Ref<'_, T> {
            self.0.borrow()
        }

        /// One more who watches; has seen the value as of now.
        pub fn subscribe(&self) -> Receiver<T> {
            Receiver {
                shared: Arc::clone(&self.0),
                seen: self.0.version(),
            }
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.senders.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.senders.fetch_sub(1, Ordering::SeqCst);
            self.0.changed.notify_waiters();
        }
    }

    impl<T> Receiver<T> {
        /// The value as of now.
        pub fn borrow(&self) -> Ref<'_, T> {
            self.shared.borrow()
        }

        /// The same, and it counts as seen.
        pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
            let value = self.shared.borrow();
            self.seen = self.shared.version();
            value
        }

        /// Whether there is a value that has not been seen.
        pub fn has_changed(&self) -> Result<bool, RecvError> {
            match self.shared.is_closed() {
                true => Err(RecvError),
                false => Ok(self.shared.version() != self.seen),
            }
        }

        /// The value counts as seen.
        pub fn mark_unchanged(&mut self) {
            self.seen = self.shared.version();
        }

        /// Ends when there is a value that has not been seen, which then counts as seen.
        pub async fn changed(&mut self) -> Result<(), RecvError> {
            loop {
                // Before the look, so that no change is missed.
                let changed = self.shared.changed.notified();
                let version = self.shared.version();
                if version != self.seen {
                    self.seen = version;
                    return Ok(());
                }
                if self.shared.is_closed() {
                    return Err(RecvError);
                }
                changed.await;
            }
        }

        /// Ends when it is so, with the value.
        pub async fn wait_for(
            &mut self,
            mut is_so: impl FnMut(&T) -> bool,
        ) -> Result<Ref<'_, T>, RecvError> {
            loop {
                let so = {
                    let value = self.shared.borrow();
                    self.seen = self.shared.version();
                    is_so(&value)
                };
                if so {
                    return Ok(self.shared.borrow());
                }
                self.changed().await?;
            }
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            Self {
                shared: Arc::clone(&self.shared),
                seen: self.seen,
            }
        }
    }

    impl<T> Deref for Ref<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_are_heard_once_and_the_end_after_them() {
        let (sender, mut receiver) = channel(1);
        let mut late = sender.subscribe();
        assert_eq!(sender.send_replace(2), 1);
        assert!(!sender.send_if_modified(|_| false));
        assert!(receiver.changed().await.is_ok() && !receiver.has_changed().unwrap());
        assert_eq!(*late.wait_for(|value| *value == 2).await.unwrap(), 2);
        let waits = async { receiver.changed().await.is_ok() };
        let (heard, ()) = tokio::join!(waits, async { sender.send_modify(|value| *value = 3) });
        assert!(heard && late.has_changed().unwrap());
        drop(sender.clone());
        drop(sender);
        assert_eq!((late.changed().await.is_ok(), *late.borrow()), (true, 3));
        assert!(late.changed().await.is_err() && late.wait_for(|_| false).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_woken_in_the_order_in_which_they_came() {
        let (sender, receiver) = channel(0);
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (mut receiver, told) = (receiver.clone(), told.clone());
            tasks.spawn(async move {
                receiver.changed().await.unwrap();
                told.send(number).unwrap();
            });
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        sender.send_replace(1);
        for number in 0..20 {
            assert_eq!(heard.recv().await, Some(number));
        }
    }
}
