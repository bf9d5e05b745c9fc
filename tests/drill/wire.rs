//! The wire between worker and broker: it can be cut, and it counts every delivery and every subscription that
//! goes over it, those of workers that were killed too. It knows AMQP only as far as that takes.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::JoinSet,
};

/// The head of a frame: type, channel, size.
const HEAD: usize = 7;
/// The octet that ends a frame.
const END: usize = 1;
/// What a client sends before its first frame: `AMQP` and a version.
const GREETING: usize = 8;
const METHOD_FRAME: u8 = 1;
const HEADER_FRAME: u8 = 2;
/// Class and method of `basic.deliver` and `basic.consume`.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const CONSUME: [u8; 4] = [0, 60, 0, 20];
/// The header in which a quorum queue says how often it has delivered a message in vain.
const DELIVERY_COUNT: &[u8] = b"x-delivery-count";

/// Forwards to one broker for as long as it lives.
pub(crate) struct Wire {
    /// `host:port` to connect to.
    pub(crate) address: String,
    state: Arc<State>,
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct State {
    deliveries: AtomicU64,
    /// Per queue. Nothing awaits under it.
    consumes: Mutex<BTreeMap<String, u64>>,
    most_delivery_count: AtomicU64,
    is_cut: AtomicBool,
    /// Nothing awaits under it.
    open: Mutex<JoinSet<()>>,
}

impl Wire {
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<State>::default();
        let mut accepting = JoinSet::new();
        let shared = Arc::clone(&state);
        accepting.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if shared.is_cut.load(Ordering::Relaxed) {
                    continue;
                }
                let (target, state) = (target.clone(), Arc::clone(&shared));
                let forwarding = async move { drop(forward(client, &target, &state).await) };
                shared.open.lock().unwrap().spawn(forwarding);
            }
        });
        Self {
            address,
            state,
            _accepting: accepting,
        }
    }

    /// Drops every connection, and new ones until it is mended.
    pub(crate) fn cut(&self) {
        self.state.is_cut.store(true, Ordering::Relaxed);
        self.state.open.lock().unwrap().abort_all();
    }

    pub(crate) fn mend(&self) {
        self.state.is_cut.store(false, Ordering::Relaxed);
    }

    /// Deliveries so far, over all connections.
    pub(crate) fn deliveries(&self) -> u64 {
        self.state.deliveries.load(Ordering::Relaxed)
    }
}

impl Wire {
    /// How often a queue whose name ends so was subscribed to.
    pub(crate) fn subscriptions(&self, queue: &str) -> u64 {
        let consumes = self.state.consumes.lock().unwrap();
        let of_queue = consumes.iter().filter(|(name, _)| name.ends_with(queue));
        of_queue.map(|(_, count)| count).sum()
    }

    /// The largest `x-delivery-count` of a delivery so far.
    pub(crate) fn most_delivery_count(&self) -> u64 {
        self.state.most_delivery_count.load(Ordering::Relaxed)
    }
}

impl State {
    fn sent(&self, kind: u8, payload: &[u8]) {
        if kind != METHOD_FRAME || !payload.starts_with(&CONSUME) {
            return;
        }
        // Class, method, two octets that are reserved, then the queue's name behind its length.
        let rest = payload.get(6..).unwrap_or_default();
        if let Some((&length, rest)) = rest.split_first() {
            let name = rest.get(..usize::from(length)).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            *self.consumes.lock().unwrap().entry(name).or_default() += 1;
        }
    }

    fn received(&self, kind: u8, payload: &[u8]) {
        if kind == METHOD_FRAME && payload.starts_with(&DELIVER) {
            self.deliveries.fetch_add(1, Ordering::Relaxed);
        }
        if kind == HEADER_FRAME
            && let Some(count) = delivery_count(payload)
        {
            self.most_delivery_count.fetch_max(count, Ordering::Relaxed);
        }
    }
}

async fn forward(client: TcpStream, target: &str, state: &State) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let mut greeting = [0; GREETING];
    from_client.read_exact(&mut greeting).await?;
    to_server.write_all(&greeting).await?;
    tokio::select! {
        copied = tap(from_client, to_server, |kind, payload| state.sent(kind, payload)) => copied,
        copied = tap(from_server, to_client, |kind, payload| state.received(kind, payload)) => copied,
    }
}

/// Copies what comes, as much as there is at a time, and shows each method and each content header.
async fn tap(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    show: impl Fn(u8, &[u8]),
) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    // What is here of the present frame, if it is one to be shown; else how much of it is still to come.
    let (mut frame, mut skipped): (Vec<u8>, usize) = (Vec::new(), 0);
    loop {
        let read = from.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        let mut new = &bytes[..read];
        while !new.is_empty() {
            if skipped > 0 {
                let now = skipped.min(new.len());
                skipped -= now;
                new = &new[now..];
                continue;
            }
            let wanted = match frame_size(&frame) {
                Some(size) => HEAD + size + END,
                None => HEAD,
            };
            let now = (wanted - frame.len()).min(new.len());
            frame.extend_from_slice(&new[..now]);
            new = &new[now..];
            let Some(size) = frame_size(&frame) else {
                continue;
            };
            if !matches!(frame[0], METHOD_FRAME | HEADER_FRAME) {
                skipped = size + END;
                frame.clear();
            } else if frame.len() == HEAD + size + END {
                show(frame[0], &frame[HEAD..HEAD + size]);
                frame.clear();
            }
        }
        to.write_all(&bytes[..read]).await?;
    }
}

fn frame_size(head: &[u8]) -> Option<usize> {
    let size = head.get(3..HEAD)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(size)).ok()
}

/// The count in a content header: behind its name come the type's letter and a number of that size.
fn delivery_count(header: &[u8]) -> Option<u64> {
    let mut names = header.windows(DELIVERY_COUNT.len());
    let at = names.position(|window| window == DELIVERY_COUNT)? + DELIVERY_COUNT.len();
    let (kind, number) = header.get(at..)?.split_first()?;
    let size = match kind {
        b'b' | b'B' => 1,
        b's' | b'u' => 2,
        b'I' | b'i' => 4,
        b'l' | b'L' => 8,
        other => panic!("x-delivery-count of type {other}"),
    };
    let number = number.get(..size)?;
    Some(
        number
            .iter()
            .fold(0, |sum, octet| sum << 8 | u64::from(*octet)),
    )
}
