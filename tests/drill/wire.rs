//! The wire between worker and broker: it can be cut, and it counts every delivery that goes over it,
//! those to workers that were killed too. It knows AMQP only as far as a frame's head.

use std::{
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
/// Class and method of `basic.deliver`.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const METHOD_FRAME: u8 = 1;

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

async fn forward(client: TcpStream, target: &str, state: &State) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    tokio::select! {
        copied = tokio::io::copy(&mut from_client, &mut to_server) => copied.map(|_| ()),
        counted = count(from_server, to_client, &state.deliveries) => counted,
    }
}

/// Copies what the broker sends, frame by frame, as much as there is at a time.
async fn count(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    deliveries: &AtomicU64,
) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    // What of the present frame is still to come, and what of the next one's head is here.
    let (mut rest, mut head) = (0, Vec::with_capacity(HEAD + DELIVER.len()));
    loop {
        let read = from.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        let mut new = &bytes[..read];
        while !new.is_empty() {
            if rest > 0 {
                let skipped = rest.min(new.len());
                rest -= skipped;
                new = &new[skipped..];
                continue;
            }
            head.push(new[0]);
            new = &new[1..];
            let Some(size) = frame_size(&head) else {
                continue;
            };
            // A method's class stands at the beginning of the frame's payload.
            let seen = head.len() - HEAD;
            if seen < DELIVER.len().min(size) {
                continue;
            }
            if head[0] == METHOD_FRAME && head[HEAD..] == DELIVER {
                deliveries.fetch_add(1, Ordering::Relaxed);
            }
            rest = size - seen + END;
            head.clear();
        }
        to.write_all(&bytes[..read]).await?;
    }
}

fn frame_size(head: &[u8]) -> Option<usize> {
    let size = head.get(3..HEAD)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(size)).ok()
}
