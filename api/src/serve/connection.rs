//! Connections: HTTP/1.1 by hyper, answered by a poem endpoint.
//!
//! poem has a server of its own. It looks for HTTP/2 in front of each connection, holds what either protocol needs, and has a
//! second task that every read and every write wakes, to notice silence. Thousands of connections are open while people watch
//! and wait, and each had 10 KiB more of that (decision 18).

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
use super::worded::Worded;

/// The most connections at a time, besides those that became `WebSocket`s; others wait to be accepted.
const CONNECTIONS: usize = 50_000;
/// How long after one answer the head of the next request has to be there.
const IDLE: Duration = Duration::from_secs(75);
/// The most memory for what was read of a request and not taken yet, its head above all.
const HEAD: usize = 64 * 1024;
/// How long nothing is accepted after the process had no room for another connection (its files are counted).
const NO_ROOM: Duration = Duration::from_millis(100);
/// How long requests in work may take once the process is asked to stop.
const END: Duration = Duration::from_secs(5);

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
                    let served = connection(stream, [local, peer], app.clone(), IDLE, shutdown.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(place);
                    });
                }
                // It was given up before it was accepted.
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
        tracing::warn!(connections = connections.len(), "some connections are cut off");
    }
    Ok(())
}

fn noted(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        // What panics while it answers is caught where it does.
        tracing::error!(%error, "a connection panicked; this is a bug");
    }
}

/// What serves one connection: to its end, or to that of the request in work once the process is asked to stop.
fn connection<E: Endpoint + 'static>(
    stream: TcpStream,
    [local, peer]: [SocketAddr; 2],
    app: Arc<E>,
    idle: Duration,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + use<E> {
    // An answer is written at once; what comes after it, on a stream, must not wait for the client's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it was served");
    }
    let service = service_fn(move |mut request: hyper::Request<_>| {
        address::normalise(request.uri_mut());
        let app = app.clone();
        let [local, peer] = [local, peer].map(Addr::SocketAddr);
        // A connection keeps room for this as long as it lives, so it is in a piece of memory of its own.
        Box::pin(async move {
            let request = (request, LocalAddr(local), RemoteAddr(peer), Scheme::HTTP).into();
            Ok::<hyper::Response<_>, Infallible>(app.get_response(request).await.into())
        })
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(HEAD);
    let mut connection =
        Box::pin(server.serve_connection(TokioIo::new(Worded::new(stream)), service).with_upgrades());
    async move {
        tokio::select! {
            // Clients go as they please; nobody needs to hear of it.
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
            let idle = Duration::from_millis(50);
            tokio::spawn(connection(stream, [peer; 2], app, idle, CancellationToken::new()));
            for _ in 0..requests {
                client.write_all(REQUEST).await.unwrap();
                assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
            }
            // It ends, or this test does not.
            client.read_to_end(&mut Vec::new()).await.unwrap();
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
