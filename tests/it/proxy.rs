//! A TCP proxy that can drop its connections, as a failing network does.

use std::sync::{Arc, Mutex};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Forwards to one address for as long as it lives.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// `host:port` to connect to.
    pub(crate) address: String,
    /// Nothing awaits under it.
    open: Arc<Mutex<JoinSet<()>>>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let open = Arc::new(Mutex::new(JoinSet::new()));
        let mut accepting = JoinSet::new();
        let tasks = Arc::clone(&open);
        accepting.spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let target = target.clone();
                tasks.lock().unwrap().spawn(async move {
                    let mut server = TcpStream::connect(target).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                });
            }
        });
        Self {
            address,
            open,
            _accepting: accepting,
        }
    }

    /// Drops every connection; new ones are forwarded again.
    pub(crate) fn cut(&self) {
        self.open.lock().unwrap().abort_all();
    }
}
