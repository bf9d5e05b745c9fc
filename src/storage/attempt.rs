//! One attempt of a guarded operation: its requests, each checked when it goes out.
//!
//! * What a request must hold (the breaker's leave, the lease) is asked, and the call counted, when the SDK's
//!   rate limiter has let it through: what it holds back is no call yet.
//! * A request that is held back is withdrawn at once when the circuit opens or a drain begins, and when it
//!   was held for as long as its operation may wait. Its attempt is dropped with it.
//! * A request that is on its way ends on its own.
//!
//! Which attempt follows, and what the breaker hears, is `guard.rs`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use tokio::{sync::Notify, time::Instant};

use super::{
    Stop,
    answer::Heard,
    batch::{Batch, Riders},
    door::Door,
    error,
    guard::{Caller, give},
    proof::Proof,
    said::saying,
    sent_call::SentCall,
};
use crate::{
    job::{CallName, Failure, FailureClass, failure::Verdict},
    resilience::{Permit, Refused},
};

/// How often the circuit is told that a probe moves.
const PROBE_LOOK: Duration = Duration::from_secs(1);
/// After so long a probe that moves is stuck all the same: it is the one call that its lane waits for.
const PROBE_MOST: Duration = Duration::from_secs(300);

/// One attempt, in which a closure makes its calls. By value, since an `AsyncFn` over a borrowed one makes
/// no future that can be shown to be `Send`.
#[derive(Debug, Clone)]
pub(super) struct Attempt<'a> {
    caller: Caller<'a>,
    /// Jobs whose keys its calls carry.
    riders: Option<Riders<'a>>,
    state: Arc<State>,
    heard: Arc<Heard>,
}

#[derive(Debug)]
struct State {
    /// Nothing awaits under it.
    inner: Mutex<Inner>,
    withdrawn: Notify,
}

#[derive(Debug)]
struct Inner {
    /// Gone once the verdict is given.
    permit: Option<Permit>,
    withdrawn: Option<Withdrawn>,
    answered: bool,
    /// How long its requests waited to be sent.
    held: Duration,
    /// Until when its requests may wait to be sent.
    patience: Option<Instant>,
    sent_at: Instant,
}

/// Why an attempt ended before its request was sent.
#[derive(Debug)]
pub(super) enum Withdrawn {
    /// So does the operation.
    Stop(Stop),
    /// It was held back for as long as it may be.
    Impatient,
    /// What is to be sent has changed while it waited: it begins anew.
    Again,
}

impl<'a> Attempt<'a> {
    /// `patience`: how long its requests may wait to be sent; else without limit.
    pub(super) fn new(
        caller: Caller<'a>,
        permit: Option<Permit>,
        patience: Option<Duration>,
    ) -> Self {
        let now = Instant::now();
        Self {
            caller,
            riders: None,
            heard: Arc::default(),
            state: Arc::new(State {
                inner: Mutex::new(Inner {
                    permit,
                    withdrawn: None,
                    answered: false,
                    held: Duration::ZERO,
                    patience: patience.map(|patience| now + patience),
                    sent_at: now,
                }),
                withdrawn: Notify::new(),
            }),
        }
    }

    /// The same attempt with the keys of several jobs, for each of which its calls are counted.
    pub(super) fn carrying<'b>(&self, batch: &'b Batch, keys: &'b [usize]) -> Attempt<'b>
    where
        'a: 'b,
    {
        Attempt {
            caller: self.caller,
            riders: Some(Riders::new(batch, keys)),
            state: Arc::clone(&self.state),
            heard: Arc::clone(&self.heard),
        }
    }

    /// The end of `work`, which makes this attempt's calls, unless a request of it is withdrawn.
    pub(super) async fn end<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Result<T, Failure>, Withdrawn> {
        tokio::select! {
            biased;
            end = work => Ok(end),
            () = self.state.withdrawn.notified() => {
                Err(self.lock().withdrawn.take().unwrap_or(Withdrawn::Again))
            }
        }
    }

    /// Makes one S3 request and classifies its error; a success without its proof is one, too.
    pub(super) async fn request<T, E>(
        &self,
        name: impl Into<CallName>,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        T: Proof,
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.call(name, self.proven(send, error::failure)).await
    }

    /// The request alone, within a call of its own; `classify` turns the SDK's error into ours.
    pub(super) fn proven<T: Proof, E>(
        &self,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        classify: impl FnOnce(SdkError<E, HttpResponse>) -> Failure,
    ) -> impl Future<Output = Result<T, Failure>> {
        let Caller { headers, home, .. } = self.caller;
        let send = saying(headers, home, self.heard.listen(Box::pin(send)));
        async move {
            let output = send.await.map_err(classify)?;
            let needs_etag = self.caller.storage.clients.require_etag;
            self.heard.prove(output, needs_etag)
        }
    }

    /// Who answered last in this attempt.
    pub(super) fn heard(&self) -> &Heard {
        &self.heard
    }

    /// One S3 request that is not over with its answer's head; counted and timed as one call, from when it
    /// is sent.
    pub(super) async fn call<T>(
        &self,
        name: impl Into<CallName>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Caller {
            storage, context, ..
        } = self.caller;
        if let Some(failure) = &storage.clients.misconfigured {
            return Err(failure.clone());
        }
        let traffic = storage.traffic(self.caller.lane);
        let (name, door) = (name.into(), Door::default());
        let mut work = std::pin::pin!(door.before(work));
        let (mut since, mut sent, mut counted) = (Instant::now(), None, traffic.held());
        let end = loop {
            tokio::select! {
                biased;
                end = &mut work => break end,
                () = door.knocked() => {
                    self.lock().held += since.elapsed();
                    self.admit().await;
                    (since, counted) = (Instant::now(), traffic.sent());
                    sent = Some(SentCall::new(self.caller, name, &door));
                    self.lock().sent_at = since;
                    // Before the request: one that is dropped half-way was made, too.
                    context.calls.fetch_add(1, Ordering::Relaxed);
                    if let Some(riders) = &self.riders {
                        riders.called();
                    }
                    crash_point!("call.before");
                    door.open();
                }
                why = self.interrupted(), if sent.is_none() => self.withdraw(why).await,
                () = self.probe_moves(&door), if sent.is_some() => {}
            }
        };
        let took = since.elapsed();
        if let Some(sent) = sent {
            crash_point!("call.after");
            sent.ended(end.as_ref().err());
        } else {
            self.lock().held += took;
        }
        drop(counted);
        match &end {
            Err(failure) if !failure.called => {}
            _ => {
                let class = end.as_ref().err().map(|failure| failure.class);
                storage.metrics.s3_attempt(name, class, took);
                if let Err(failure) = &end {
                    if failure.class == FailureClass::Credentials {
                        storage.clients.credentials_refused();
                    }
                    context.note_failed(name.as_str(), took, failure);
                }
            }
        }
        end
    }

    /// Tells the circuit now and then that its probe moves. Never ends for other calls.
    async fn probe_moves(&self, door: &Door) {
        let is_probe = self.lock().permit.as_ref().is_some_and(Permit::is_probe);
        if !is_probe {
            return std::future::pending().await;
        }
        let before = door.progress().map(|progress| progress.last());
        tokio::time::sleep(PROBE_LOOK).await;
        if before < door.progress().map(|progress| progress.last())
            && self.took() < PROBE_MOST
            && let Some(permit) = &self.lock().permit
        {
            permit.progress();
        }
    }

    /// The service has answered well, and more is to come. It is up, so a probe gives its verdict now; whether a call in
    /// a closed circuit went well is known when all has come.
    pub(super) fn answered(&self) {
        let mut inner = self.lock();
        inner.answered = true;
        let probe = inner.permit.take_if(|permit| permit.is_probe());
        drop(inner);
        give(probe, Verdict::Success);
    }

    /// Whether the service has answered well, whatever came after it.
    pub(super) fn has_answered(&self) -> bool {
        self.lock().answered
    }

    pub(super) fn take_permit(&self) -> Option<Permit> {
        self.lock().permit.take()
    }

    /// How long its requests waited to be sent.
    pub(super) fn held(&self) -> Duration {
        self.lock().held
    }

    /// How long ago its last request was sent.
    pub(super) fn took(&self) -> Duration {
        self.lock().sent_at.elapsed()
    }

    /// Asks what a request must hold when it goes out; it ends only when all of it does.
    async fn admit(&self) {
        if let Err(why) = self.ask().await {
            self.withdraw(why).await;
        }
    }

    async fn ask(&self) -> Result<(), Withdrawn> {
        self.ask_breaker()?;
        if let Some(lease) = &self.caller.context.lease {
            tokio::select! {
                biased;
                held = lease.check() => held.map_err(Withdrawn::Stop)?,
                refused = self.outdated() => return Err(refused.into()),
            }
            // The ledger may have taken its time.
            self.ask_breaker()?;
        }
        if let Some(riders) = &self.riders
            && !riders.are_all_here().await
        {
            return Err(Withdrawn::Again);
        }
        if let Some(permit) = &self.lock().permit {
            permit.progress();
        }
        Ok(())
    }

    /// The breaker's leave: that of the operation, or a new one when its verdict has been given.
    fn ask_breaker(&self) -> Result<(), Refused> {
        let permit = &mut self.lock().permit;
        *permit = self.caller.ask_breaker(permit.take())?;
        Ok(())
    }

    /// Ends when a request that is held back has waited in vain.
    async fn interrupted(&self) -> Withdrawn {
        let patience = self.lock().patience;
        let patience = async {
            match patience {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            refused = self.outdated() => refused.into(),
            () = self.caller.context.draining.cancelled() => Withdrawn::Stop(Stop::Draining),
            () = patience => Withdrawn::Impatient,
        }
    }

    async fn outdated(&self) -> Refused {
        let outdated = self.lock().permit.as_ref().map(Permit::outdated);
        match outdated {
            Some(outdated) => outdated.await,
            None => std::future::pending().await,
        }
    }

    /// Ends the attempt: `end` hears of it, and drops whoever waits here.
    async fn withdraw(&self, why: Withdrawn) {
        self.lock().withdrawn = Some(why);
        self.state.withdrawn.notify_one();
        std::future::pending().await
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Refused> for Withdrawn {
    fn from(refused: Refused) -> Self {
        Self::Stop(refused.into())
    }
}
