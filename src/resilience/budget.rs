//! One budget of bytes for everything large that a process holds: parts of uploads, bodies that are read, messages
//! in hand.
//!
//! What can wait is **reserved** before it is read, as a whole, oldest first. What is here already, or is small, is
//! **charged**: it never waits, and leaves less for the others. Nobody waits for ever:
//!
//! * Who holds a reservation waits for no other one, so each of them ends by itself.
//! * The oldest waiter gets its bytes when nothing else is reserved, whatever is charged and however much it asks
//!   for: one item larger than the budget runs alone.
//!
//! Buffers are used again while the budget is in use: an allocator gives memory of this size back to the system at
//! once, and fetching it anew for each part was a fifth of an upload's CPU when measured. What is idle counts as held.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

/// What is no larger never waits, and is charged; chosen. A lane has a few hundred of them at most.
pub const SMALL: u64 = 64 * 1024;
/// Smaller buffers are left to the allocator.
const WORTH_KEEPING: usize = 1024 * 1024;

/// The budget of one process. Cheap to clone.
#[derive(Clone)]
pub struct Budget(Arc<Pool>);

struct Pool {
    total: u64,
    /// Nothing awaits under it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reserved: u64,
    charged: u64,
    /// Buffers that nobody uses; with what is held they stay within the budget.
    idle: Vec<Vec<u8>>,
    idle_bytes: u64,
    /// The oldest first.
    waiting: VecDeque<Waiting>,
    /// The number of the next waiter.
    next: u64,
}

struct Waiting {
    number: u64,
    bytes: u64,
    /// Takes an idle buffer of that size along.
    wants_buffer: bool,
    /// The buffer, or one without memory.
    granted: oneshot::Sender<Vec<u8>>,
}

impl Budget {
    /// A budget of that many bytes.
    pub fn new(total: u64) -> Self {
        Self(Arc::new(Pool {
            total,
            state: Mutex::default(),
        }))
    }

    /// Its size in bytes.
    pub fn total(&self) -> u64 {
        self.0.total
    }

    /// Bytes that are held now, idle buffers not included.
    pub fn in_use(&self) -> u64 {
        let state = self.0.lock();
        state.reserved + state.charged
    }

    /// Waits until that many bytes are free; at most [`SMALL`] are charged at once. May be dropped while it waits.
    pub async fn reserve(&self, bytes: u64) -> Held {
        if bytes <= SMALL {
            return self.charge(bytes);
        }
        self.wait_for(bytes, false).await.0
    }

    /// The same if it needs no waiting, and nobody waits.
    pub fn try_reserve(&self, bytes: u64) -> Option<Held> {
        if bytes <= SMALL {
            return Some(self.charge(bytes));
        }
        let mut state = self.0.lock();
        let spare = state.reserve_now(bytes, self.0.total)?;
        drop(state);
        drop(spare);
        Some(self.held(bytes, Kind::Reserved))
    }

    /// Reserves, and gives a buffer to hold the bytes in: an idle one of just that capacity, or one without memory.
    pub async fn buffer(&self, bytes: u64) -> Buffer {
        if bytes <= SMALL {
            let (held, memory) = (self.charge(bytes), Vec::new());
            return Buffer { memory, held };
        }
        let (held, memory) = self.wait_for(bytes, true).await;
        Buffer { memory, held }
    }

    /// Counts bytes that are here already.
    pub fn charge(&self, bytes: u64) -> Held {
        let mut state = self.0.lock();
        state.charged += bytes;
        let spare = state.trim(self.0.total);
        drop(state);
        drop(spare);
        self.held(bytes, Kind::Charged)
    }

    /// A part of it, which counts what is charged to it.
    pub fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            count: Arc::default(),
        }
    }

    fn held(&self, bytes: u64, kind: Kind) -> Held {
        Held {
            pool: Arc::clone(&self.0),
            bytes,
            kind,
            share: None,
        }
    }

    async fn wait_for(&self, bytes: u64, wants_buffer: bool) -> (Held, Vec<u8>) {
        let (granted, grant) = oneshot::channel();
        let mut ticket = {
            let mut state = self.0.lock();
            let number = state.next;
            state.next += 1;
            state.waiting.push_back(Waiting {
                number,
                bytes,
                wants_buffer,
                granted,
            });
            let spare = state.grant(self.0.total);
            drop(state);
            drop(spare);
            Ticket {
                pool: &self.0,
                number,
                bytes,
                grant,
                used: false,
            }
        };
        // A waiter is never forgotten, so the channel is never closed.
        let memory = (&mut ticket.grant).await.unwrap_or_default();
        ticket.used = true;
        (self.held(bytes, Kind::Reserved), memory)
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, bytes: u64, kind: Kind) {
        let mut state = self.lock();
        match kind {
            Kind::Reserved => state.reserved -= bytes,
            Kind::Charged => state.charged -= bytes,
        }
        let spare = state.grant(self.total);
        drop(state);
        // Outside the lock: giving memory back to the system takes its time.
        drop(spare);
    }
}

impl State {
    const fn fits(&self, bytes: u64, total: u64) -> bool {
        self.reserved == 0 || self.reserved + self.charged + bytes <= total
    }

    /// Lets those in who may; gives back the buffers that are in the way.
    fn grant(&mut self, total: u64) -> Vec<Vec<u8>> {
        while let Some(first) = self.waiting.front()
            && self.fits(first.bytes, total)
            && let Some(first) = self.waiting.pop_front()
        {
            self.reserved += first.bytes;
            let memory = match first.wants_buffer {
                true => self.take(first.bytes),
                false => Vec::new(),
            };
            // Its ticket hears of it, whether it still waits or not.
            drop(first.granted.send(memory));
        }
        self.trim(total)
    }

    fn reserve_now(&mut self, bytes: u64, total: u64) -> Option<Vec<Vec<u8>>> {
        let free = self.waiting.is_empty() && self.fits(bytes, total);
        free.then(|| {
            self.reserved += bytes;
            self.trim(total)
        })
    }

    /// An idle buffer of exactly that capacity, or else one without memory.
    fn take(&mut self, bytes: u64) -> Vec<u8> {
        let fitting = |buffer: &Vec<u8>| buffer.capacity() as u64 == bytes;
        match self.idle.iter().position(fitting) {
            Some(at) => {
                self.idle_bytes -= bytes;
                self.idle.swap_remove(at)
            }
            None => Vec::new(),
        }
    }

    fn keep(&mut self, mut memory: Vec<u8>) {
        if memory.capacity() >= WORTH_KEEPING {
            memory.clear();
            self.idle_bytes += memory.capacity() as u64;
            self.idle.push(memory);
        }
    }

    /// The idle buffers that there is no room for; all of them when nothing is reserved: an idle worker is small.
    fn trim(&mut self, total: u64) -> Vec<Vec<u8>> {
        if self.reserved == 0 {
            self.idle_bytes = 0;
            return std::mem::take(&mut self.idle);
        }
        let mut spare = Vec::new();
        while self.reserved + self.charged + self.idle_bytes > total
            && let Some(buffer) = self.idle.pop()
        {
            self.idle_bytes -= buffer.capacity() as u64;
            spare.push(buffer);
        }
        spare
    }
}

/// A place in the line. Dropped unused, it leaves the line or gives back what it was granted.
struct Ticket<'p> {
    pool: &'p Pool,
    number: u64,
    bytes: u64,
    grant: oneshot::Receiver<Vec<u8>>,
    used: bool,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.used {
            return;
        }
        let mut state = self.pool.lock();
        let place = state.waiting.iter().position(|it| it.number == self.number);
        match place {
            Some(place) => drop(state.waiting.remove(place)),
            None => {
                state.reserved -= self.bytes;
                state.keep(self.grant.try_recv().unwrap_or_default());
            }
        }
        // Those behind it may be smaller.
        let spare = state.grant(self.pool.total);
        drop(state);
        drop(spare);
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Reserved,
    Charged,
}

/// Bytes that may be held until this is dropped.
#[must_use = "dropped, the bytes are free for others"]
pub struct Held {
    pool: Arc<Pool>,
    bytes: u64,
    kind: Kind,
    share: Option<Arc<Count>>,
}

impl Held {
    /// How many.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what is more than that.
    pub fn shrink_to(&mut self, bytes: u64) {
        self.give_back(self.bytes.saturating_sub(bytes));
    }

    fn give_back(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.pool.release(bytes, self.kind);
        if let Some(count) = &self.share {
            count.bytes.fetch_sub(bytes, Ordering::Relaxed);
            count.less.notify_waiters();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(count) = &self.share {
            count.items.fetch_sub(1, Ordering::Relaxed);
        }
        self.give_back(self.bytes);
    }
}

/// Reserved bytes with a buffer to hold them in.
#[derive(Debug)]
#[must_use = "dropped, the bytes are free for others"]
pub struct Buffer {
    memory: Vec<u8>,
    held: Held,
}

impl Buffer {
    /// The memory, to be filled and put back.
    pub fn take_memory(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.memory)
    }

    /// Holds these bytes for as long as anybody uses them.
    pub fn hold(mut self, filled: Vec<u8>) -> Bytes {
        self.memory = filled;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if memory.capacity() >= WORTH_KEEPING {
            // Kept before its bytes are free, so that the next one finds it.
            self.held.pool.lock().keep(memory);
        }
    }
}

/// A part of a budget that counts what is charged to it. Cheap to clone.
#[derive(Clone)]
pub struct Share {
    budget: Budget,
    count: Arc<Count>,
}

#[derive(Default)]
struct Count {
    bytes: AtomicU64,
    items: AtomicU64,
    less: Notify,
}

impl Share {
    /// Counts bytes that are here already.
    pub fn charge(&self, bytes: u64) -> Held {
        self.count.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.count.items.fetch_add(1, Ordering::Relaxed);
        let mut held = self.budget.charge(bytes);
        held.share = Some(Arc::clone(&self.count));
        held
    }

    /// Bytes that are charged to it now.
    pub fn bytes(&self) -> u64 {
        self.count.bytes.load(Ordering::Relaxed)
    }

    /// How many charges that are.
    pub fn items(&self) -> u64 {
        self.count.items.load(Ordering::Relaxed)
    }

    /// Waits until no more than that are charged to it. May be dropped.
    pub async fn at_most(&self, bytes: u64) {
        loop {
            let mut less = std::pin::pin!(self.count.less.notified());
            // Before the look, so that no change is missed.
            less.as_mut().enable();
            if self.bytes() <= bytes {
                return;
            }
            less.await;
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Budget")
            .field("total", &self.0.total)
            .field("reserved", &state.reserved)
            .field("charged", &state.charged)
            .field("idle", &state.idle_bytes)
            .field("waiting", &state.waiting.len())
            .finish()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({})", self.bytes)
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({})", self.bytes())
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
