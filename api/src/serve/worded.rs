//! Adds a problem to the answers that hyper itself gives when it cannot read a request.
//!
//! Such an answer has a status and no body (400, 414, 431, 501, 505). [`Worded`] is between hyper
//! and the socket, and gives it the body that all errors have.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::problem::Problem;

/// The start of such a bare answer, before its status.
const BEGIN: &[u8] = b"HTTP/1.1 ";
/// The longest bare answer, in bytes.
const LONGEST: usize = 300;
/// The header that says that it has no body.
const EMPTY: &[u8] = b"content-length: 0\r\n";

/// A connection whose bare answers get a body.
#[derive(Debug)]
pub(super) struct Worded<S> {
    stream: S,
    /// The replacement of an answer, how many of its bytes are written, and how long the bare
    /// answer was.
    instead: Option<(Vec<u8>, usize, usize)>,
}

impl<S> Worded<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, instead: None }
    }
}

/// The answer that replaces a bare one; none for all others. A route's own answer with one of these
/// statuses has a body.
fn problem(written: &[u8]) -> Option<Vec<u8>> {
    if !written.ends_with(b"\r\n\r\n") {
        return None;
    }
    // Answers to earlier requests may be in front of it.
    let tail = written.len().saturating_sub(LONGEST);
    let start = tail + written[tail..].windows(BEGIN.len()).rposition(|part| part == BEGIN)?;
    let (before, written) = written.split_at(start);
    let status = written.strip_prefix(BEGIN)?.get(..3)?;
    let problem = match status {
        b"400" => {
            Problem::malformed_request().detail("the request is not HTTP/1.1, or says two things at once")
        }
        b"414" => Problem::malformed_request().status_of(414).detail("the address is too long"),
        b"431" => Problem::headers_too_large(),
        b"501" => Problem::malformed_request().status_of(501).detail("the transfer encoding is not known"),
        b"505" => Problem::malformed_request().status_of(505).detail("HTTP/1.1 is spoken here"),
        _ => return None,
    };
    if !written.windows(EMPTY.len()).any(|part| part == EMPTY) {
        return None;
    }
    let body = serde_json::to_vec(&problem.body).expect("a problem is plain data");
    let head = String::from_utf8_lossy(written);
    let length = format!("content-type: application/problem+json\r\ncontent-length: {}\r\n", body.len());
    let head = head.replacen("content-length: 0\r\n", &length, 1);
    Some([before, head.as_bytes(), &body].concat())
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Worded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, written: &[u8]) -> Poll<io::Result<usize>> {
        if self.instead.is_none() {
            match problem(written) {
                Some(problem) => self.instead = Some((problem, 0, written.len())),
                None => return Pin::new(&mut self.stream).poll_write(cx, written),
            }
        }
        let this = &mut *self;
        while let Some((problem, done, length)) = &mut this.instead {
            let wrote = ready!(Pin::new(&mut this.stream).poll_write(cx, &problem[*done..]))?;
            *done += wrote;
            if *done == problem.len() || wrote == 0 {
                let length = *length;
                this.instead = None;
                return Poll::Ready(Ok(length));
            }
        }
        Poll::Ready(Ok(written.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        written: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper writes a bare answer as one slice.
        match written {
            [only] => self.poll_write(cx, only),
            _ => Pin::new(&mut self.stream).poll_write_vectored(cx, written),
        }
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

impl<S: AsyncRead + Unpin> AsyncRead for Worded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_answer_gets_a_body_and_no_other() {
        let bare =
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let worded = String::from_utf8(problem(bare).unwrap()).unwrap();
        let (head, body) = worded.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())) && head.contains("problem+json"),
            "{head}"
        );
        assert!(body.contains(r#""code":"headers-too-large""#), "{body}");
        let behind = [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", &bare[..]].concat();
        let worded = String::from_utf8(problem(&behind).unwrap()).unwrap();
        assert!(worded.starts_with("HTTP/1.1 200 OK") && worded.contains("headers-too-large"), "{worded}");
        for other in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 9\r\n\r\n{\"a\":\"b\"}",
            b"HTTP/1.1 400",
            b"",
        ] {
            assert!(problem(other).is_none());
        }
    }
}
