//! A TCP connection that can be broken on purpose, at a moment that is exact.
//!
//! Owns how a connection ends: reset at once, or closed right after the last byte that was written.
//! It refuses to know why.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

/// The hand on one connection, for whoever answers requests on it.
#[derive(Debug, Clone, Default)]
pub(super) struct Line(Arc<State>);

#[derive(Debug, Default)]
struct State {
    severed: CancellationToken,
    abrupt: AtomicBool,
    after_flush: AtomicBool,
}

impl Line {
    /// Breaks the connection now; the peer sees a reset.
    pub(super) fn reset(&self) {
        self.0.abrupt.store(true, Ordering::Relaxed);
        self.0.severed.cancel();
    }

    /// Closes the connection once everything written so far has gone out.
    pub(super) fn cut_after_flush(&self) {
        self.0.after_flush.store(true, Ordering::Relaxed);
    }

    /// Waits until the connection has to be dropped.
    pub(super) async fn severed(&self) {
        self.0.severed.cancelled().await;
    }
}

/// The connection itself.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    line: Line,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, line: Line) -> Self {
        Self { stream, line }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.line.0.abrupt.load(Ordering::Relaxed) {
            // Without it the peer may see an orderly end instead of a reset.
            if let Err(error) = self.stream.set_zero_linger() {
                tracing::debug!(%error, "a connection could not be reset and is closed instead");
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes only after its own buffer is empty, so that at this point all is with the kernel.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() && self.line.0.after_flush.load(Ordering::Relaxed) {
            self.line.0.severed.cancel();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
