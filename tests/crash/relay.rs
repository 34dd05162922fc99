//! The network between Muster's processes and a server, as bad as a test wants it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// As it should be.
    Good,
    /// Everything comes so much later.
    Late(Duration),
    /// One byte a second.
    Trickle,
    /// Nothing comes through, and nobody is told. What was open stays dead for ever, also when the network is good again.
    Dead,
}

/// A relay in front of a server: it listens on a port of its own.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    network: watch::Sender<Network>,
    /// Changes when all connections are to be reset.
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

    /// The URL of the server behind it, by way of it.
    pub fn instead_of(&self, url: &str) -> String {
        let mut url = reqwest::Url::parse(url).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.to_string()
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// How many connections were reset that were open.
    pub fn cut(&self) -> usize {
        self.cut.load(Ordering::Relaxed)
    }

    /// Resets every connection there is.
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
        // Whoever comes now finds nobody, and is not told.
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
    // Both sockets are dropped here: without lingering, that is a reset.
}

/// Carries bytes one way until an end closes.
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
