//! Connections: hyper serves HTTP/1.1, and a poem endpoint answers.
//!
//! poem has a server of its own. It detects HTTP/2 at the start of each connection and keeps what
//! either protocol needs. It notices silence with a second task, which every read and write wakes.
//! Together this costs 10 KiB more for each connection. Thousands of connections are open while
//! people watch and wait (decision 18).

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::address;
use super::punctual::{Punctual, Turns};
use super::worded::Worded;

/// The most connections at a time, besides those that became `WebSocket`s. Further ones wait to be
/// accepted.
const CONNECTIONS: usize = 50_000;
/// Timeout for the head of the next request, from the answer before it.
const IDLE: Duration = Duration::from_secs(75);
/// Timeout for the head of a request, from its first byte.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// The limit of the read buffer, in bytes. It bounds the head of a request.
const HEAD: usize = 16 * 1024;
/// The pause after a connection could not be accepted, for example because the process has too many
/// open files.
const NO_ROOM: Duration = Duration::from_millis(100);
/// Timeout for requests in progress after the process is asked to stop.
const END: Duration = Duration::from_secs(5);

/// Timeouts for the head of a request.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// From the answer before it.
    idle: Duration,
    /// From its first byte.
    head: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { idle: IDLE, head: HEAD_TIME }
    }
}

/// Serves an endpoint until shutdown.
pub(crate) async fn serve(
    listener: TcpListener,
    app: impl Endpoint + 'static,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (app, room, local) = (Arc::new(app), Arc::new(Semaphore::new(CONNECTIONS)), listener.local_addr()?);
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let place = room.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => noted(ended),
            (place, accepted) = accept => match accepted {
                Ok((stream, peer)) => {
                    let served = connection(
                        stream,
                        [local, peer],
                        app.clone(),
                        Patience::default(),
                        shutdown.clone(),
                    );
                    connections.spawn(async move {
                        served.await;
                        drop(place);
                    });
                }
                // The client gave up before the connection was accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(NO_ROOM).await;
                }
            },
        }
    }
    drop(listener);
    let ended = async {
        while let Some(ended) = connections.join_next().await {
            noted(ended);
        }
    };
    if tokio::time::timeout(END, ended).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "some requests did not end in time; closing their connections"
        );
    }
    Ok(())
}

fn noted(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        // The panic of a handler never gets here: `serve::caught` turns it into a problem.
        tracing::error!(%error, "a connection panicked; this is a bug");
    }
}

/// The future that serves one connection until it ends. On shutdown it ends after the request in
/// progress.
fn connection<E: Endpoint + 'static>(
    stream: TcpStream,
    [local, peer]: [SocketAddr; 2],
    app: Arc<E>,
    patience: Patience,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + use<E> {
    // Disable Nagle's algorithm. What a stream sends later must not wait until the client
    // acknowledges the data before it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it was served");
    }
    let turns = Turns::default();
    let stream = Punctual::new(stream, turns.clone(), patience.head);
    let service = service_fn(move |mut request: hyper::Request<_>| {
        turns.begin();
        address::normalise(request.uri_mut());
        let (app, turns) = (app.clone(), turns.clone());
        let [local, peer] = [local, peer].map(Addr::SocketAddr);
        // Boxed: a connection keeps room for this future for as long as it is open.
        Box::pin(async move {
            let request = (request, LocalAddr(local), RemoteAddr(peer), Scheme::HTTP).into();
            Ok::<_, Infallible>(turns.until_sent(app.get_response(request).await.into()))
        })
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(patience.idle).max_buf_size(HEAD);
    let mut connection =
        Box::pin(server.serve_connection(TokioIo::new(Worded::new(stream)), service).with_upgrades());
    async move {
        tokio::select! {
            // Clients may disconnect at any time, so an error is not logged.
            _ = connection.as_mut() => return,
            () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

#[cfg(test)]
mod tests {
    use poem::endpoint::make;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

    async fn listening() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    async fn answer(client: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(b"done") {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "an answer comes whole");
        }
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed() {
        for requests in [0, 1, 2] {
            let listener = listening().await;
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, peer) = listener.accept().await.unwrap();
            let app = Arc::new(make(|_| async { "done" }));
            let patience = Patience { idle: Duration::from_millis(50), head: HEAD_TIME };
            tokio::spawn(connection(stream, [peer; 2], app, patience, CancellationToken::new()));
            for _ in 0..requests {
                client.write_all(REQUEST).await.unwrap();
                assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
            }
            // If the connection stays open, this waits for ever.
            client.read_to_end(&mut Vec::new()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_head_that_is_begun_has_to_be_ended_soon() {
        for requests in [0, 1, 2] {
            let listener = listening().await;
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, peer) = listener.accept().await.unwrap();
            let app = Arc::new(make(|_| async { "done" }));
            let patience = Patience { idle: Duration::from_secs(3600), head: Duration::from_millis(50) };
            tokio::spawn(connection(stream, [peer; 2], app, patience, CancellationToken::new()));
            for _ in 0..requests {
                client.write_all(REQUEST).await.unwrap();
                assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
            }
            client.write_all(&REQUEST[..9]).await.unwrap();
            // If the connection stays open, this waits for ever.
            client.read_to_end(&mut Vec::new()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn neither_idle_connections_nor_slow_answers_and_bodies_count_as_slow_heads() {
        let listener = listening().await;
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let longer = Duration::from_millis(60);
        let app = Arc::new(make(move |request: poem::Request| async move {
            tokio::time::sleep(longer).await;
            request.into_body().into_bytes().await.unwrap();
            "done"
        }));
        let patience = Patience { idle: Duration::from_secs(3600), head: Duration::from_millis(20) };
        tokio::spawn(connection(stream, [peer; 2], app, patience, CancellationToken::new()));
        for _ in 0..3 {
            tokio::time::sleep(longer).await;
            client.write_all(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\n\r\n{").await.unwrap();
            tokio::time::sleep(longer).await;
            client.write_all(b"}").await.unwrap();
            assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
        }
    }

    #[tokio::test]
    async fn at_the_end_a_request_in_work_is_answered_and_silent_connections_are_closed() {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let app = {
            let (begun, go_on) = (begun.clone(), go_on.clone());
            make(move |_| {
                let (begun, go_on) = (begun.clone(), go_on.clone());
                async move {
                    begun.notify_one();
                    go_on.notified().await;
                    "done"
                }
            })
        };
        let listener = listening().await;
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, app, shutdown.clone()));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(REQUEST).await.unwrap();
        begun.notified().await;
        shutdown.cancel();
        silent.read_to_end(&mut Vec::new()).await.unwrap();
        go_on.notify_one();
        assert!(answer(&mut asking).await.contains("connection: close"));
        assert_eq!(asking.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        server.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
