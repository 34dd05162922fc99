//! A receiver of webhooks that answers as the test wants.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

/// A received message.
#[derive(Debug, Clone)]
pub struct Message {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Message {
    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub fn id(&self) -> Uuid {
        self.header("webhook-id").parse().unwrap()
    }

    pub fn kind(&self) -> String {
        self.event()["type"].as_str().unwrap().to_owned()
    }

    /// The number in the drive's log.
    pub fn sequence(&self) -> u64 {
        self.event()["sequence"].as_str().unwrap().parse().unwrap()
    }

    pub fn drive(&self) -> String {
        self.event()["source"].as_str().unwrap().trim_start_matches("/drives/").to_owned()
    }

    /// How many of its signatures were made with this secret.
    pub fn signed_with(&self, secret: &str) -> usize {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut signed =
            format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp")).into_bytes();
        signed.extend_from_slice(&self.body);
        let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed);
        let expected = format!("v1,{}", STANDARD.encode(expected));
        self.header("webhook-signature").split(' ').filter(|signature| **signature == expected).count()
    }
}

/// The answer of the receiver.
#[derive(Debug, Clone)]
pub enum Reply {
    Status(u16),
    /// A status, a `Location` and a body.
    With(u16, String, String),
    /// A status and a `Retry-After`.
    Later(u16, String),
    /// No answer for this long.
    Hang(Duration),
}

type Behaviour = Arc<Mutex<Box<dyn Fn(&Message) -> Reply + Send>>>;

/// A server on a port of this machine.
#[derive(Clone)]
pub struct Receiver {
    pub url: String,
    received: Arc<Mutex<Vec<Message>>>,
    behaviour: Behaviour,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self::at(format!("http://{}/hook", listener.local_addr().unwrap()));
        let server = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream));
            }
        });
        receiver
    }

    /// Starts a receiver that speaks TLS, at `localhost`.
    pub async fn start_over_tls(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self::at(format!("https://localhost:{}/hook", listener.local_addr().unwrap().port()));
        let server = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, acceptor) = (server.clone(), acceptor.clone());
                tokio::spawn(async move {
                    // A client that does not trust the certificate ends the handshake.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        server.serve(stream).await;
                    }
                });
            }
        });
        receiver
    }

    fn at(url: String) -> Self {
        let behaviour: Behaviour = Arc::new(Mutex::new(Box::new(|_| Reply::Status(204))));
        Self { url, received: Arc::default(), behaviour }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.take(request).await) }
        });
        let server = hyper::server::conn::http1::Builder::new();
        // The connection may break. Then the client has its answer or not.
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    }

    /// Sets the answers from now on.
    pub fn answers(&self, reply: impl Fn(&Message) -> Reply + Send + 'static) {
        *self.behaviour.lock().unwrap() = Box::new(reply);
    }

    /// The received messages, in order.
    pub fn received(&self) -> Vec<Message> {
        self.received.lock().unwrap().clone()
    }

    async fn take(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let message = Message { path: parts.uri.path().to_owned(), headers: parts.headers, body };
        let reply = self.behaviour.lock().unwrap()(&message);
        self.received.lock().unwrap().push(message);
        let (status, header, body) = match reply {
            Reply::Status(status) => (status, None, String::new()),
            Reply::With(status, location, body) => (status, Some(("location", location)), body),
            Reply::Later(status, asked) => (status, Some(("retry-after", asked)), String::new()),
            Reply::Hang(time) => {
                tokio::time::sleep(time).await;
                (204, None, String::new())
            }
        };
        let mut response = Response::builder().status(status);
        if let Some((name, value)) = header.filter(|(_, value)| !value.is_empty()) {
            response = response.header(name, value);
        }
        response.body(Full::from(body)).unwrap()
    }
}
