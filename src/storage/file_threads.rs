//! The threads that work on files may take: a share of the process's blocking threads, so that a volume that hangs
//! leaves the others to name look-ups and the ledger.
//!
//! A call to a file system can't be given up: its thread is stuck for as long as the volume hangs. So its place is
//! held until the call has ended, whether or not anybody still waits for it, and so is the memory that it works on.
//! Who waits does so for a limited time, and then fails as `unavailable`: the job is parked. Files are closed here
//! too, since a volume may hang there as well; while eight closings hang, files of other volumes stay open.

use std::{
    collections::VecDeque,
    ops::Deref,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::Semaphore, time::timeout};

use crate::job::{Failure, FailureClass};

/// Calls at a time; chosen. Tokio has 512 blocking threads.
const PLACES: usize = 64;
/// Threads that close files; chosen.
const CLOSERS: usize = 8;
/// How long a call waits for a place: each place is free again within milliseconds while no volume hangs.
const TURN: Duration = Duration::from_secs(10);
/// What every call may take, and the slowest that a volume may be in bytes a second. Chosen, not measured.
const START: Duration = Duration::from_secs(30);
const SLOWEST: f64 = 65_536.0;

/// A place for each call at a time. Cheap to clone: every clone has the same places.
#[derive(Debug, Clone)]
pub(super) struct FileThreads {
    places: Arc<Semaphore>,
    closing: Arc<Mutex<Closing>>,
}

/// What is to be closed, and how many threads are at it.
#[derive(Default)]
struct Closing {
    waiting: VecDeque<Box<dyn Send>>,
    threads: usize,
}

impl Default for FileThreads {
    fn default() -> Self {
        Self::with_places(PLACES)
    }
}

impl FileThreads {
    fn with_places(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            closing: Arc::default(),
        }
    }

    /// Runs `work` on `path`, with so many bytes to read or write, off the async threads. Dropped, it is not waited
    /// for, and goes on to its end.
    ///
    /// Fails as `work` does, or `unavailable`: `files_stalled` when no place was free for 10 s, `file_stalled` when
    /// it has not ended after 30 s and a second for each 64 KiB.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        path: &Path,
        bytes: usize,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let place = match timeout(TURN, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => place,
            // Nobody closes it.
            Ok(Err(_)) | Err(_) => return Err(no_place(path)),
        };
        let work = move || {
            let end = work();
            drop(place);
            end
        };
        let patience = patience(bytes);
        timeout(patience, off_thread(work))
            .await
            .unwrap_or_else(|_| Err(stalled(path, patience)))
    }

    /// Keeps a file, or what else has one, so that it is closed by a thread of these.
    pub(super) fn keep<T: Send + 'static>(&self, value: T) -> Kept<T> {
        Kept {
            value: Some(value),
            threads: self.clone(),
        }
    }

    fn close(&self, value: Box<dyn Send>) {
        // Without a runtime nothing else would wait for it.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut closing = self.closing();
        closing.waiting.push_back(value);
        if closing.threads < CLOSERS {
            closing.threads += 1;
            drop(closing);
            let threads = self.clone();
            drop(runtime.spawn_blocking(move || while threads.close_next() {}));
        }
    }

    /// `false`: there is nothing to close, and this thread is not counted any more.
    fn close_next(&self) -> bool {
        let next = {
            let mut closing = self.closing();
            let next = closing.waiting.pop_front();
            closing.threads -= usize::from(next.is_none());
            next
        };
        next.is_some()
    }

    fn closing(&self) -> MutexGuard<'_, Closing> {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that computes for long, off the async threads.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let panicked = |error| {
        let message = format!("a blocking step did not end: {error}");
        Err(unavailable("interrupted", message))
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(panicked)
}

/// How long a file or a source may take for so many bytes.
pub(super) fn patience(bytes: usize) -> Duration {
    START + Duration::from_secs_f64(bytes as f64 / SLOWEST)
}

/// Whether a call was given up that may yet go on.
pub(super) fn is_stalled(failure: &Failure) -> bool {
    failure.code == STALLED
}

const STALLED: &str = "file_stalled";

fn stalled(path: &Path, patience: Duration) -> Failure {
    let seconds = patience.as_secs();
    let message = format!("the volume of {path:?} hangs: a call has not ended after {seconds} s");
    unavailable(STALLED, message)
}

fn no_place(path: &Path) -> Failure {
    let seconds = TURN.as_secs();
    let message = format!(
        "all {PLACES} places for work on files were taken for {seconds} s, so nothing is done on {path:?}: a volume hangs"
    );
    unavailable("files_stalled", message)
}

fn unavailable(code: &str, message: String) -> Failure {
    Failure::ours(FailureClass::Unavailable, code, message)
}

/// See [`FileThreads::keep`].
#[derive(Debug)]
pub(super) struct Kept<T: Send + 'static> {
    /// Gone only while it is dropped.
    value: Option<T>,
    threads: FileThreads,
}

impl<T: Send + 'static> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("kept")
    }
}

impl<T: Send + 'static> Drop for Kept<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            self.threads.close(Box::new(value));
        }
    }
}

impl std::fmt::Debug for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Closing")
            .field("waiting", &self.waiting.len())
            .field("threads", &self.threads)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;
    use crate::resilience::Budget;

    const PATH: &str = "/data/file";

    /// A volume: calls to it hang until it is dropped.
    fn hanging() -> (mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>) {
        let (volume, calls) = mpsc::channel();
        (volume, Arc::new(Mutex::new(calls)))
    }

    fn hang(
        calls: &Arc<Mutex<mpsc::Receiver<()>>>,
    ) -> impl FnOnce() -> Result<(), Failure> + use<> {
        let calls = Arc::clone(calls);
        move || {
            assert!(calls.lock().unwrap().recv().is_err());
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_volume_that_hangs_takes_its_places_and_no_other_threads() {
        let threads = FileThreads::with_places(2);
        let (volume, calls) = hanging();
        for _ in 0..2 {
            let stuck = threads.run(Path::new(PATH), 0, hang(&calls));
            // Nobody waits for it any more, and its place is taken all the same.
            assert!(timeout(Duration::from_millis(1), stuck).await.is_err());
        }
        assert_eq!(threads.places.available_permits(), 0);
        let next = threads.run(Path::new(PATH), 0, || Ok(()));
        assert!(timeout(Duration::from_millis(20), next).await.is_err());
        off_thread(|| Ok(())).await.unwrap();
        drop(volume);
        threads.run(Path::new(PATH), 0, || Ok(())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_volume_that_hangs_hears_so_in_time() {
        let threads = FileThreads::with_places(1);
        let taken = Arc::clone(&threads.places).acquire_owned().await;
        let failure = threads
            .run(Path::new(PATH), 0, || Ok(()))
            .await
            .unwrap_err();
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (FailureClass::Unavailable, "files_stalled")
        );
        assert!(failure.message.contains("a volume hangs"), "{failure}");
        drop(taken);
        // A thread that blocks stops the paused clock: this call is one that never begins.
        let failure = stalled(Path::new(PATH), patience(640 * 1024));
        assert!(failure.message.contains("after 40 s"), "{failure}");
        assert!(is_stalled(&failure) && !failure.called);
    }

    #[tokio::test]
    async fn memory_that_a_stuck_call_works_on_is_held_until_it_has_ended() {
        let budget = Budget::new(1024 * 1024);
        let threads = FileThreads::default();
        let (volume, calls) = hanging();
        let (buffer, stuck) = (budget.buffer(512 * 1024).await, hang(&calls));
        let work = move || {
            let end = stuck();
            drop(buffer);
            end
        };
        let call = threads.run(Path::new(PATH), 0, work);
        assert!(timeout(Duration::from_millis(1), call).await.is_err());
        assert_eq!(budget.in_use(), 512 * 1024);
        drop(volume);
        while budget.in_use() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// A file whose closing hangs.
    struct Closed(Arc<Mutex<mpsc::Receiver<()>>>, Arc<AtomicUsize>);

    impl Drop for Closed {
        fn drop(&mut self) {
            assert!(self.0.lock().unwrap().recv().is_err());
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn closing_a_file_on_a_volume_that_hangs_blocks_nobody() {
        let threads = FileThreads::default();
        let (volume, calls) = hanging();
        let closed = Arc::new(AtomicUsize::new(0));
        for _ in 0..100 {
            drop(threads.keep(Closed(Arc::clone(&calls), Arc::clone(&closed))));
        }
        assert_eq!(threads.closing().threads, CLOSERS);
        drop(volume);
        while closed.load(Ordering::Relaxed) < 100 {
            tokio::task::yield_now().await;
        }
    }
}
