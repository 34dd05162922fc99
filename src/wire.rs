//! HTTP/1.1 for loads: a minimal client, so that it costs little of what is measured. It
//! understands answers with a `content-length`, and 304. It speaks TLS, for remote deployments.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use reqwest::Url;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;

/// The first size of the buffer.
const BUFFER: usize = 4 * 1024;
/// The most headers of an answer.
const HEADERS: usize = 32;
/// The largest answer, in bytes.
const ANSWER: usize = 4 * 1024 * 1024;

/// A server, from its URL. A deployment that a benchmark has started has no path and no TLS, so
/// some benchmarks use the addresses and the host only.
#[derive(Clone)]
pub struct Server {
    /// The addresses of the host name when it was resolved.
    pub addresses: Vec<SocketAddr>,
    /// The `host` header.
    pub host: String,
    /// The prefix of each request's path. It is empty unless Muster is a part of a larger site.
    pub prefix: String,
    /// The TLS connector, and the name that the certificate must have.
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Server {
    /// Resolves the URL's host. Over `https` the server must have a certificate that this machine
    /// trusts.
    pub async fn find(url: &str) -> anyhow::Result<Self> {
        let parsed = Url::parse(url).with_context(|| format!("read the URL {url}"))?;
        let is_secured = match parsed.scheme() {
            "http" => false,
            "https" => true,
            other => bail!("{url}: a load speaks http and https, not {other}"),
        };
        ensure!(
            parsed.username().is_empty()
                && parsed.password().is_none()
                && parsed.query().is_none()
                && parsed.fragment().is_none(),
            "a deployment's URL has a host and a path, and nothing else"
        );
        let name = parsed.host_str().with_context(|| format!("{url} names no host"))?;
        let port = parsed.port_or_known_default().with_context(|| format!("{url} names no port"))?;
        let tls = if is_secured {
            let provider = Arc::new(aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .with_platform_verifier()?
                .with_no_client_auth();
            let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        let at = format!("{name}:{port}");
        let addresses = tokio::net::lookup_host(&at).await.with_context(|| format!("find {at}"))?.collect();
        Ok(Self {
            addresses,
            host: parsed.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}")),
            prefix: parsed.path().trim_end_matches('/').to_owned(),
            tls,
        })
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// One connection: a request, its answer, the next request.
pub struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
    /// The server said that its last answer ends the connection.
    pub is_over: bool,
}

/// An answer in the buffer.
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// The entity tag; empty without one.
    pub etag: &'a str,
    /// The body.
    pub body: &'a [u8],
}

impl Connection {
    /// Opens a connection.
    pub async fn open(server: &Server) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(&server.addresses[..]).await.context("connect")?;
        stream.set_nodelay(true).context("connect")?;
        let stream = match &server.tls {
            None => Stream::Plain(stream),
            Some((connector, name)) => {
                let secured = connector.connect(name.clone(), stream).await;
                Stream::Tls(Box::new(secured.with_context(|| format!("speak TLS with {}", server.host))?))
            }
        };
        Ok(Self { stream, buffer: Vec::with_capacity(BUFFER), is_over: false })
    }

    /// After an error the connection is unusable.
    pub async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Answer<'_>> {
        let Self { stream, buffer, is_over } = self;
        match stream {
            Stream::Plain(stream) => stream.write_all(request).await.context("ask")?,
            Stream::Tls(stream) => {
                stream.write_all(request).await.context("ask")?;
                stream.flush().await.context("ask")?;
            }
        }
        buffer.clear();
        let mut whole = None;
        while whole.is_none_or(|(head, body)| buffer.len() < head + body) {
            ensure!(buffer.len() < ANSWER, "an answer is too large");
            let read = match stream {
                Stream::Plain(stream) => stream.read_buf(buffer).await,
                Stream::Tls(stream) => stream.read_buf(buffer).await,
            };
            ensure!(read.context("read an answer")? > 0, "the connection was closed");
            if whole.is_none() {
                whole = lengths(buffer)?;
            }
        }
        let (head, body) = whole.context("an answer without a head")?;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        answer.parse(buffer)?;
        let etag = value(&answer, "etag").unwrap_or_default();
        *is_over = value(&answer, "connection").is_some_and(|said| said.eq_ignore_ascii_case("close"));
        Ok(Answer { status: answer.code.unwrap_or_default(), etag, body: &buffer[head..head + body] })
    }
}

/// The lengths of an answer's head and body, once its head has arrived.
fn lengths(buffer: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(buffer).context("read an answer")? else {
        return Ok(None);
    };
    match value(&answer, "content-length") {
        _ if answer.code == Some(304) => Ok(Some((head, 0))),
        Some(length) => Ok(Some((head, length.parse().context("read content-length")?))),
        None => bail!("an answer without content-length; this client does not read chunked answers"),
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

    #[tokio::test]
    async fn a_server_is_found_by_its_url() {
        let plain = Server::find("http://127.0.0.1:8000").await.unwrap();
        assert_eq!((plain.host.as_str(), plain.prefix.as_str()), ("127.0.0.1:8000", ""));
        assert!(plain.tls.is_none());
        let part = Server::find("https://[::1]/drives/").await.unwrap();
        assert_eq!((part.host.as_str(), part.prefix.as_str()), ("[::1]", "/drives"));
        assert_eq!(part.addresses, ["[::1]:443".parse().unwrap()]);
        assert!(part.tls.is_some());
        for wrong in [
            "127.0.0.1:8000",
            "localhost:8000",
            "ftp://127.0.0.1",
            "http://",
            "http://a@127.0.0.1/",
            "http://:b@127.0.0.1/",
            "http://127.0.0.1/?x",
        ] {
            assert!(Server::find(wrong).await.is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_over_when_its_server_says_so() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::find(&format!("http://{}", listener.local_addr().unwrap())).await.unwrap();
        let (connection, accepted) = tokio::join!(Connection::open(&server), listener.accept());
        let (mut connection, mut accepted) = (connection.unwrap(), accepted.unwrap().0);
        for (more, is_over) in [("", false), ("Connection: Close\r\n", true)] {
            let answer = format!("HTTP/1.1 200 OK\r\n{more}content-length: 2\r\n\r\n{{}}");
            let (asked, written) = tokio::join!(
                connection.ask(b"GET / HTTP/1.1\r\n\r\n"),
                accepted.write_all(answer.as_bytes())
            );
            assert_eq!((asked.unwrap().body, written.is_ok()), (&b"{}"[..], true));
            assert_eq!(connection.is_over, is_over);
        }
    }
}
