//! Bounds how long a client may take to send the head of a request.
//!
//! hyper has one timeout, from the end of an answer to the end of the next head. It has to be long,
//! because clients and proxies keep idle connections. [`Punctual`] adds a short timeout that begins
//! with the first byte of a head.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How many requests of a connection were begun and answered, together. While the number is odd, a
/// request is in work, and bytes that arrive belong to no head. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<AtomicUsize>);

impl Turns {
    /// The head of a request is complete.
    pub(super) fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The answer to the request. When it is sent, the next head may begin. After a switch to
    /// another protocol there is none.
    pub(super) fn until_sent(self, answer: Response<BoxBody<Bytes, io::Error>>) -> Response<Answer> {
        let is_last = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        answer.map(|body| Answer { body, turns: (!is_last).then_some(self) })
    }

    /// Which head is awaited; none while a request is in work.
    fn head(&self) -> Option<usize> {
        let turns = self.0.load(Ordering::Relaxed);
        turns.is_multiple_of(2).then_some(turns)
    }
}

/// The body of an answer. Its end is the end of the work on the request.
#[derive(Debug)]
pub(super) struct Answer {
    body: BoxBody<Bytes, io::Error>,
    turns: Option<Turns>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(turns) = &self.turns {
            turns.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that fails if the head of a request takes too long.
#[derive(Debug)]
pub(super) struct Punctual<S> {
    stream: S,
    turns: Turns,
    patience: Duration,
    /// The head of which the first bytes have arrived.
    begun: Option<usize>,
    /// The end of the patience with a head that did not arrive in one piece.
    overdue: Option<Pin<Box<Sleep>>>,
}

impl<S> Punctual<S> {
    pub(super) fn new(stream: S, turns: Turns, patience: Duration) -> Self {
        Self { stream, turns, patience, begun: None, overdue: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Punctual<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let head = this.turns.head();
        if head.is_none() || head != this.begun {
            this.overdue = None;
            let before = buffer.filled().len();
            let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
            this.begun = head.filter(|_| buffer.filled().len() > before);
            return read;
        }
        let patience = this.patience;
        let overdue = this.overdue.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        if overdue.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Punctual<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
