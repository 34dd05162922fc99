//! A relay that makes the network between Muster's processes and a server as bad as a test wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The state of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Bytes pass at once.
    Good,
    /// Bytes arrive this much later.
    Late(Duration),
    /// One byte a second.
    Trickle,
    /// Bytes vanish without an error. Open connections stay dead, even after the network is good
    /// again.
    Dead,
}

/// A relay in front of a server, with its own port.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    network: watch::Sender<Network>,
    /// A change resets all connections.
    resets: watch::Sender<u64>,
    cut: Arc<AtomicUsize>,
    _listening: JoinSet<()>,
}

impl Relay {
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (network, resets) = (watch::Sender::new(Network::Good), watch::Sender::new(0));
        let own = listener.local_addr().unwrap().port();
        let (see, reset, cut) = (network.subscribe(), resets.subscribe(), Arc::<AtomicUsize>::default());
        let counted = cut.clone();
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(relay(client, port, see.clone(), reset.clone(), counted.clone()));
            }
        });
        Self { port: own, network, resets, cut, _listening: listening }
    }

    /// The server's URL with the relay's port.
    pub fn instead_of(&self, url: &str) -> String {
        let mut url = reqwest::Url::parse(url).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.to_string()
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// The number of open connections that were reset.
    pub fn cut(&self) -> usize {
        self.cut.load(Ordering::Relaxed)
    }

    /// Resets all open connections.
    pub fn reset(&self) {
        self.resets.send_modify(|number| *number += 1);
    }
}

async fn relay(
    mut client: TcpStream,
    port: u16,
    network: watch::Receiver<Network>,
    mut reset: watch::Receiver<u64>,
    cut: Arc<AtomicUsize>,
) {
    reset.mark_unchanged();
    if *network.borrow() == Network::Dead {
        // A new connection gets neither an answer nor an error.
        let _ = reset.changed().await;
        return;
    }
    let Ok(mut server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await else { return };
    for socket in [&client, &server] {
        let _ = socket.set_nodelay(true);
        let _ = socket.set_zero_linger();
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    tokio::select! {
        () = pump(from_client, to_server, network.clone()) => {}
        () = pump(from_server, to_client, network) => {}
        _ = reset.changed() => { cut.fetch_add(1, Ordering::Relaxed); }
    }
    // Both sockets are dropped here. Without lingering, this resets the connections.
}

/// Copies bytes in one direction until one end closes.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut network: watch::Receiver<Network>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let room = if *network.borrow() == Network::Trickle { 1 } else { buffer.len() };
        let read = tokio::select! {
            read = from.read(&mut buffer[..room]) => match read {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            },
            _ = network.changed() => {
                if *network.borrow_and_update() == Network::Dead {
                    std::future::pending::<()>().await;
                }
                continue;
            }
        };
        let now = *network.borrow();
        match now {
            Network::Good => {}
            Network::Late(late) => tokio::time::sleep(late).await,
            Network::Trickle => tokio::time::sleep(Duration::from_secs(1)).await,
            Network::Dead => std::future::pending::<()>().await,
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    /// Starts an echo server with a relay in front, and connects through the relay.
    async fn echo() -> (Relay, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = client.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let relay = Relay::before(port).await;
        let mut client = connect(&relay).await;
        assert_eq!(sent(&mut client, b"good").await, b"good");
        (relay, client)
    }

    async fn connect(relay: &Relay) -> TcpStream {
        TcpStream::connect(("127.0.0.1", relay.port)).await.unwrap()
    }

    async fn sent(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
        client.write_all(bytes).await.unwrap();
        let mut back = vec![0; bytes.len()];
        client.read_exact(&mut back).await.unwrap();
        back
    }

    #[tokio::test]
    async fn what_is_late_comes_later_each_way() {
        let (relay, mut client) = echo().await;
        let late = Duration::from_millis(100);
        relay.set(Network::Late(late));
        let since = Instant::now();
        assert_eq!(sent(&mut client, b"late").await, b"late");
        assert!(since.elapsed() >= late * 2, "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn one_byte_comes_at_a_time() {
        let (relay, mut client) = echo().await;
        relay.set(Network::Trickle);
        client.write_all(b"ab").await.unwrap();
        let since = Instant::now();
        for (byte, number) in [(b'a', 1), (b'b', 2)] {
            assert_eq!(client.read_u8().await.unwrap(), byte);
            assert!(since.elapsed() >= Duration::from_secs(number), "{:?}", since.elapsed());
        }
    }

    #[tokio::test]
    async fn what_is_dead_stays_dead_and_nobody_is_told() {
        let (relay, mut open) = echo().await;
        relay.set(Network::Dead);
        let mut late = connect(&relay).await;
        let patience = Duration::from_millis(200);
        assert!(timeout(patience, sent(&mut open, b"x")).await.is_err());
        assert!(timeout(patience, sent(&mut late, b"x")).await.is_err());
        relay.set(Network::Good);
        assert!(timeout(patience, sent(&mut open, b"x")).await.is_err(), "it is dead for ever");
        assert_eq!(sent(&mut connect(&relay).await, b"x").await, b"x");
    }

    #[tokio::test]
    async fn whoever_is_reset_is_told_and_counted() {
        let (relay, mut client) = echo().await;
        relay.reset();
        let ended = client.read(&mut [0; 10]).await;
        assert!(ended.is_err(), "{ended:?}");
        assert_eq!(relay.cut(), 1);
    }
}
