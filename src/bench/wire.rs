//! HTTP/1.1 for loads: a client that does as little as one can, so that it is not what is measured. It knows answers with a
//! `content-length`, and 304.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What is read at a time, at first.
const BUFFER: usize = 4 * 1024;
/// The most headers of an answer.
const HEADERS: usize = 32;
/// The largest answer, in bytes.
const ANSWER: usize = 4 * 1024 * 1024;

/// One connection: a request, its answer, the next request.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, as it stands in the buffer.
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) etag: &'a str,
    pub(super) body: &'a [u8],
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect")?;
        stream.set_nodelay(true).context("connect")?;
        Ok(Self { stream, buffer: Vec::with_capacity(BUFFER) })
    }

    /// After an error the connection is of no use any more.
    pub(super) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Answer<'_>> {
        self.stream.write_all(request).await.context("ask")?;
        self.buffer.clear();
        let mut whole = None;
        while whole.is_none_or(|(head, body)| self.buffer.len() < head + body) {
            ensure!(self.buffer.len() < ANSWER, "an answer is too large");
            let count = self.stream.read_buf(&mut self.buffer).await.context("read an answer")?;
            ensure!(count > 0, "the connection was closed");
            if whole.is_none() {
                whole = lengths(&self.buffer)?;
            }
        }
        let (head, body) = whole.context("an answer without a head")?;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        answer.parse(&self.buffer)?;
        let etag = value(&answer, "etag").unwrap_or_default();
        Ok(Answer { status: answer.code.unwrap_or_default(), etag, body: &self.buffer[head..head + body] })
    }
}

/// The lengths of an answer's head and body, once its head is there.
fn lengths(buffer: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(buffer).context("read an answer")? else {
        return Ok(None);
    };
    match value(&answer, "content-length") {
        _ if answer.code == Some(304) => Ok(Some((head, 0))),
        Some(length) => Ok(Some((head, length.parse().context("read content-length")?))),
        None => bail!("an answer without content-length"),
    }
}

fn value<'b>(answer: &httparse::Response<'_, 'b>, name: &str) -> Option<&'b str> {
    let found = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_it_says() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nETag: \"x\"\r\n\r\nabc";
        assert_eq!(lengths(text).unwrap(), Some((text.len() - 3, 3)));
        assert_eq!(lengths(&text[..20]).unwrap(), None);
        assert_eq!(lengths(b"HTTP/1.1 304 Not Modified\r\n\r\n").unwrap(), Some((29, 0)));
        assert!(lengths(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
