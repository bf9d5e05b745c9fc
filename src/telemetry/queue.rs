//! The log's lines on their way to standard error, written by a thread of their own.
//!
//! A reader that stalls (a pipe that nobody reads, a full log driver) blocks that thread and nobody else. Lines
//! wait in memory up to a limit; what comes after that is dropped and counted, and the log says how many lines
//! are missing when it flows again, unless its level leaves warnings out. What a process says last is waited for, not for ever.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// Bytes of lines that wait to be written, at most; chosen: some 5,000 lines.
pub(super) const MOST_BYTES: usize = 2 * 1024 * 1024;
/// Bytes that are written at a time, whole lines where possible.
const CHUNK: usize = 16 * 1024;
/// The wait before a descriptor that takes nothing now (`O_NONBLOCK`) is tried again.
const FULL: Duration = Duration::from_millis(50);
/// How long the end of the process waits for lines that move, and how long while none does.
const FLUSH: Duration = Duration::from_secs(1);
const STALLED: Duration = Duration::from_millis(250);

/// Hears of lines that were dropped, and how many.
pub(super) type Count = Box<dyn Fn(u64) + Send>;

/// Lines in memory. Writing one never waits for whoever reads the log.
pub(super) struct LineQueue {
    most_bytes: usize,
    /// Nothing awaits under it, and nothing is written under it.
    state: Mutex<State>,
    /// Lines came.
    filled: Condvar,
    /// Bytes were written, or given up.
    moved: Condvar,
}

#[derive(Default)]
struct State {
    /// Whole lines, the oldest first.
    waiting: Vec<u8>,
    /// Lines that were dropped since the last batch was taken; none is accepted until the next is.
    dropped: u64,
    /// Whether a batch is on its way.
    is_writing: bool,
    /// Bytes that have left, written or given up.
    left: u64,
    /// Lines that were dropped in all.
    total: u64,
    count: Option<Count>,
    /// The thread that writes: what it says itself is never dropped.
    writer: Option<thread::ThreadId>,
}

impl LineQueue {
    /// A queue whose thread writes to `out`. When lines flow again after some were dropped, that thread calls `say`
    /// with their number, which may write a line.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        most_bytes: usize,
        say: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            most_bytes,
            state: Mutex::default(),
            filled: Condvar::new(),
            moved: Condvar::new(),
        });
        let served = Arc::clone(&queue);
        // Never joined: it may be stuck in a write when the process ends.
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || served.serve(Out::new(out), &say))?;
        Ok(queue)
    }

    /// Tells `count` of every line that is dropped, those of before included.
    pub(super) fn count_dropped(&self, count: Count) {
        let mut state = self.lock();
        if state.total > 0 {
            count(state.total);
        }
        state.count = Some(count);
    }

    /// Takes a line with its line break, or drops it.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        // Once a line is dropped, all are until the next batch, so that the gap is in one place.
        let fits = state.dropped == 0
            && (state.waiting.is_empty() || state.waiting.len() + line.len() <= self.most_bytes);
        if fits || state.writer == Some(thread::current().id()) {
            state.waiting.extend_from_slice(line);
            drop(state);
            self.filled.notify_one();
        } else {
            state.dropped += 1;
            state.lost(1);
        }
    }

    /// Waits until all lines are written: a second at most, and no longer than a quarter of one while none moves.
    pub(super) fn flush(&self) {
        let until = Instant::now() + FLUSH;
        let mut state = self.lock();
        while state.is_writing || !state.waiting.is_empty() {
            let before = state.left;
            let patience = STALLED.min(until.saturating_duration_since(Instant::now()));
            let waited = self
                .moved
                .wait_timeout_while(state, patience, |state| state.left == before);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.left == before {
                return;
            }
        }
    }

    fn serve(&self, mut out: Out<impl Write>, say: &impl Fn(u64)) {
        self.lock().writer = Some(thread::current().id());
        let mut missing = 0;
        loop {
            let (batch, dropped) = self.next();
            let lost = self.write(&mut out, &batch);
            missing += lost + dropped;
            if missing > 0 && lost == 0 {
                say(std::mem::take(&mut missing));
            }
            self.finish(lost);
        }
    }

    /// Waits for lines, and takes all there are, with the number of those that were dropped after them.
    fn next(&self) -> (Vec<u8>, u64) {
        let state = self.lock();
        let waited = self
            .filled
            .wait_while(state, |state| state.waiting.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_writing = true;
        let batch = std::mem::take(&mut state.waiting);
        (batch, std::mem::take(&mut state.dropped))
    }

    /// The batch is written, or as much of it as could be.
    fn finish(&self, lost: u64) {
        let mut state = self.lock();
        state.is_writing = false;
        state.left += 1;
        if lost > 0 {
            state.lost(lost);
        }
        drop(state);
        self.moved.notify_all();
    }

    /// Writes a batch; the number of lines that could not be.
    fn write(&self, out: &mut Out<impl Write>, mut batch: &[u8]) -> u64 {
        while !batch.is_empty() {
            match out.write(&batch[..chunk(batch)]) {
                Ok(written) if written > 0 => {
                    batch = &batch[written..];
                    self.lock().left += written as u64;
                    self.moved.notify_all();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::park_timeout(FULL);
                }
                Ok(_) | Err(_) => return lines(batch),
            }
        }
        0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lost(&mut self, lines: u64) {
        self.total += lines;
        if let Some(count) = &self.count {
            count(lines);
        }
    }
}

impl fmt::Debug for LineQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineQueue").finish_non_exhaustive()
    }
}

/// Where lines go. After a line that was cut short the next one begins on a line of its own.
struct Out<W> {
    inner: W,
    is_mid_line: bool,
    was_cut: bool,
}

impl<W: Write> Out<W> {
    const fn new(inner: W) -> Self {
        Self {
            inner,
            is_mid_line: false,
            was_cut: false,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.was_cut && self.inner.write(b"\n")? > 0 {
            (self.was_cut, self.is_mid_line) = (false, false);
        }
        let written = self.inner.write(bytes);
        match &written {
            Ok(0) => self.was_cut = self.is_mid_line,
            Ok(written) => self.is_mid_line = bytes[written - 1] != b'\n',
            Err(error) if is_passing(error) => {}
            Err(_) => self.was_cut = self.is_mid_line,
        }
        written
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}

/// How much of a batch is written at a time: the whole lines of a chunk, or a chunk of a line that is longer.
fn chunk(batch: &[u8]) -> usize {
    let most = batch.len().min(CHUNK);
    let whole = batch[..most].iter().rposition(|byte| *byte == b'\n');
    whole.map_or(most, |at| at + 1)
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::OnceLock};

    use super::*;

    /// A reader of the log, as the test says.
    #[derive(Clone, Default)]
    struct Reader(Arc<(Mutex<Inner>, Condvar)>);

    #[derive(Default)]
    struct Inner {
        read: Vec<u8>,
        stalls: bool,
        /// A write waits for it.
        is_awaited: bool,
        /// What the next writes come to: so many bytes, or an error.
        answers: VecDeque<Result<usize, io::ErrorKind>>,
    }

    impl Reader {
        fn with(change: impl FnOnce(&mut Inner)) -> Self {
            let reader = Self::default();
            reader.change(change);
            reader
        }

        fn change(&self, change: impl FnOnce(&mut Inner)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        fn until_awaited(&self) {
            let inner = self.0.0.lock().unwrap();
            drop(self.0.1.wait_while(inner, |it| !it.is_awaited).unwrap());
        }

        fn read(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().read.clone()).unwrap()
        }
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut inner = self.0.0.lock().unwrap();
            inner.is_awaited = true;
            self.0.1.notify_all();
            let mut inner = self.0.1.wait_while(inner, |it| it.stalls).unwrap();
            let most = inner.answers.pop_front().unwrap_or(Ok(bytes.len()))?;
            let written = most.min(bytes.len());
            inner.read.extend_from_slice(&bytes[..written]);
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A queue that says `N missing`.
    fn queue(reader: &Reader, most_bytes: usize) -> Arc<LineQueue> {
        let own = Arc::new(OnceLock::<Arc<LineQueue>>::new());
        let said = Arc::clone(&own);
        let say = move |missing| {
            let queue = said.wait();
            queue.push(format!("{missing} missing\n").as_bytes());
        };
        let queue = LineQueue::start(reader.clone(), most_bytes, say).unwrap();
        own.set(Arc::clone(&queue)).unwrap();
        queue
    }

    /// However slow the machine is.
    #[track_caller]
    fn assert_reads(queue: &LineQueue, reader: &Reader, text: &str) {
        for _ in 0..10_000 {
            queue.flush();
            if reader.read() == text {
                return;
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        assert_eq!(reader.read(), text);
    }

    #[test]
    fn lines_beyond_the_limit_are_dropped_counted_and_told_of_when_the_log_flows_again() {
        let reader = Reader::with(|it| it.stalls = true);
        let queue = queue(&reader, 30);
        queue.push(b"first\n");
        reader.until_awaited();
        for line in ["a23456789\n", "b23456789\n", "c23456789\n", "dropped\n"] {
            queue.push(line.as_bytes());
        }
        let counted = Arc::new(Mutex::new(Vec::new()));
        let count = Arc::clone(&counted);
        queue.count_dropped(Box::new(move |lines| count.lock().unwrap().push(lines)));
        // It would fit, but the gap is to be in one place.
        queue.push(b"\n");
        assert_eq!(*counted.lock().unwrap(), [1, 1]);
        reader.change(|it| it.stalls = false);
        let mut read = "first\na23456789\nb23456789\nc23456789\n2 missing\n".to_owned();
        assert_reads(&queue, &reader, &read);
        queue.push(b"later\n");
        read.push_str("later\n");
        assert_reads(&queue, &reader, &read);
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_that_stalls() {
        let reader = Reader::with(|it| it.stalls = true);
        let queue = queue(&reader, MOST_BYTES);
        queue.push(b"last\n");
        queue.flush();
        assert_eq!(reader.read(), "");
        reader.change(|it| it.stalls = false);
    }

    #[test]
    fn a_line_that_was_cut_short_is_missing_and_the_next_one_is_whole() {
        let full = Err(io::ErrorKind::StorageFull);
        let reader = Reader::with(|it| it.answers = [Ok(3), full, full].into());
        let queue = queue(&reader, MOST_BYTES);
        let lost = Arc::new(Mutex::new(0));
        let count = Arc::clone(&lost);
        queue.count_dropped(Box::new(move |lines| *count.lock().unwrap() += lines));
        for (line, lost_by_then) in [("cut short\n", 1), ("lost\n", 2)] {
            queue.push(line.as_bytes());
            while *lost.lock().unwrap() < lost_by_then {
                queue.flush();
            }
        }
        queue.push(b"whole\n");
        assert_reads(&queue, &reader, "cut\nwhole\n2 missing\n");
    }

    #[test]
    fn a_descriptor_that_takes_nothing_now_is_tried_again() {
        let passing = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].map(Err);
        let reader = Reader::with(|it| it.answers = passing.into());
        let queue = queue(&reader, MOST_BYTES);
        queue.push(b"line\n");
        assert_reads(&queue, &reader, "line\n");
    }

    #[test]
    fn a_batch_is_written_in_whole_lines() {
        let long = [b'x'; CHUNK];
        let batch = [&long[..10], b"\n", &long[..], b"\n"].concat();
        assert_eq!(chunk(&batch), 11);
        assert_eq!((chunk(&batch[11..]), chunk(b"\n")), (CHUNK, 1));
    }
}
