//! A TCP proxy that can drop its connections, as a failing network does, or swallow what they carry without a word.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Forwards to one address for as long as it lives.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// `host:port` to connect to.
    pub(crate) address: String,
    /// Nothing awaits under it.
    open: Arc<Mutex<JoinSet<()>>>,
    accepted: Arc<AtomicU64>,
    /// Connections with a lower number are silent for good.
    silent_below: watch::Sender<u64>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let open = Arc::new(Mutex::new(JoinSet::new()));
        let (silent_below, _) = watch::channel(0);
        let accepted = Arc::new(AtomicU64::new(0));
        let mut accepting = JoinSet::new();
        let (tasks, count, silence) = (
            Arc::clone(&open),
            Arc::clone(&accepted),
            silent_below.clone(),
        );
        accepting.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst);
                let forwarded = forward(client, target.clone(), number, silence.subscribe());
                tasks.lock().unwrap().spawn(forwarded);
            }
        });
        Self {
            address,
            open,
            accepted,
            silent_below,
            _accepting: accepting,
        }
    }

    /// Drops every connection; new ones are forwarded again.
    pub(crate) fn cut(&self) {
        self.open.lock().unwrap().abort_all();
    }

    /// From now on every connection is a black hole, new ones too: taken, never answered, never closed.
    pub(crate) fn black_hole(&self) {
        self.silent_below.send_replace(u64::MAX);
    }

    /// New connections are forwarded; those that stand stay, or become, black holes.
    pub(crate) fn forward_new(&self) {
        let next = self.accepted.load(Ordering::SeqCst);
        self.silent_below.send_replace(next);
    }
}

async fn forward(
    mut client: TcpStream,
    target: String,
    number: u64,
    mut silent_below: watch::Receiver<u64>,
) {
    let mut server = TcpStream::connect(target).await.unwrap();
    let is_silent = async {
        // Fails only when the proxy is gone, and this with it.
        drop(silent_below.wait_for(|below| number < *below).await);
    };
    tokio::select! {
        biased;
        () = is_silent => {}
        copied = tokio::io::copy_bidirectional(&mut client, &mut server) => {
            drop(copied);
            return;
        }
    }
    // Both ends stay open, and nobody reads: neither hears of the other's end.
    std::future::pending::<()>().await;
}
