//! A second handle on a connection's socket: to end it from outside, and to hear whether anything comes in.
//!
//! A handshake that is given up keeps lapin's thread and socket for as long as a hung broker keeps its end
//! open, and a connection to a node that hangs stands until its heartbeats are missed.

/// Holds the socket of the last try, if one was opened.
#[derive(Debug, Default)]
pub(super) struct Lifeline {
    /// Nothing awaits under it.
    #[cfg(unix)]
    socket: std::sync::Mutex<Option<std::net::TcpStream>>,
}

#[cfg(unix)]
impl Lifeline {
    pub(super) fn hold(&self, socket: &tokio::net::TcpStream) {
        use std::os::fd::AsFd;
        let copy = socket
            .as_fd()
            .try_clone_to_owned()
            .map(std::net::TcpStream::from);
        *self.lock() = copy.ok();
    }

    /// Whether a socket was opened.
    pub(super) fn is_held(&self) -> bool {
        self.lock().is_some()
    }

    /// Ends the socket, if it was opened.
    pub(super) fn cut(&self) {
        if let Some(socket) = self.lock().take() {
            // An error means that the other end was faster.
            drop(socket.shutdown(std::net::Shutdown::Both));
        }
    }

    /// Begins to listen whether bytes come in; takes none of them.
    pub(super) fn listen(&self) -> Option<Ear> {
        let socket = self.lock().as_ref()?.try_clone().ok()?;
        // lapin's end of the same socket does not block either.
        tokio::net::TcpStream::from_std(socket).ok().map(Ear)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<std::net::TcpStream>> {
        self.socket
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(not(unix))]
impl Lifeline {
    pub(super) fn hold(&self, _: &tokio::net::TcpStream) {}

    pub(super) fn is_held(&self) -> bool {
        false
    }

    pub(super) fn cut(&self) {}

    pub(super) fn listen(&self) -> Option<Ear> {
        None
    }
}

/// Hears of every packet of a socket that somebody else reads.
#[derive(Debug)]
pub(super) struct Ear(tokio::net::TcpStream);

impl Ear {
    /// Waits for the next packet, or the end of the connection.
    pub(super) async fn heard(&self) {
        // The error is the socket's end, which its reader sees too.
        drop(self.0.readable().await);
        let passed_on = || -> std::io::Result<()> { Err(std::io::ErrorKind::WouldBlock.into()) };
        // Waits for the next one from here on, whether or not the reader has taken this one yet.
        drop(self.0.try_io(tokio::io::Interest::READABLE, passed_on));
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn packets_that_another_handle_reads_are_heard_and_silence_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut near, mut far) = (near.unwrap(), far.unwrap().0);
        let lifeline = Lifeline::default();
        lifeline.hold(&near);
        let ear = lifeline.listen().unwrap();
        let mut byte = [0; 1];
        for _ in 0..3 {
            far.write_all(b"x").await.unwrap();
            let heard = tokio::time::timeout(Duration::from_secs(5), ear.heard());
            heard.await.expect("a packet is heard");
            near.read_exact(&mut byte).await.unwrap();
        }
        let silence = tokio::time::timeout(Duration::from_millis(100), ear.heard()).await;
        assert!(silence.is_err(), "nothing came, and it was heard");
        lifeline.cut();
        let ended = tokio::time::timeout(Duration::from_secs(5), near.read(&mut byte));
        assert_eq!(ended.await.expect("it ends").unwrap(), 0);
    }
}
