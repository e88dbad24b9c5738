//! The readers' doors: the sockets of the StoreAPI and of the HTTP API, and their end.

use std::net::SocketAddr;
use std::time::Duration;

use crate::query::View;
use crate::rt::beside;
use crate::rt::channel::watch;
use crate::rt::clock::Moment;
use crate::rt::door::{Door, Places};
use crate::server::{Error, raised};
use crate::telemetry::{Counters, Exposition, Snapshot};
use crate::{api, config, store_api};

/// Refuses an address on which somebody listens. The doors of the cores share theirs, so they
/// would share it with another process of this user as well, and neither would notice.
pub(super) fn nobody_listens(flag: &'static str, addresses: &[SocketAddr]) -> Result<(), Error> {
    for &address in addresses.iter().filter(|address| address.port() != 0) {
        let tried = || {
            let socket = match address {
                SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
            };
            socket.set_reuseaddr(true)?;
            socket.bind(address)
        };
        tried().map_err(|source| Error::Listen { flag, address, source })?;
    }
    Ok(())
}

/// Open sockets and the addresses they got.
pub(super) type Listening = Vec<(SocketAddr, tokio::net::TcpListener)>;

/// Opens sockets.
pub(super) async fn listen(
    flag: &'static str,
    addresses: &[SocketAddr],
) -> Result<Listening, Error> {
    let mut open = Vec::new();
    for &address in addresses {
        let error = |source| Error::Listen { flag, address, source };
        let listener = tokio::net::TcpListener::bind(address).await.map_err(error)?;
        open.push((listener.local_addr().map_err(error)?, listener));
    }
    Ok(open)
}

/// The places behind the doors of the StoreAPI and of the HTTP API.
pub(super) fn places(each: usize) -> [Places; 2] {
    [Places::new("grpc", each, b""), Places::new("http", each, api::TOO_MANY)]
}

/// The doors of readers, each a task.
pub(super) struct ReadDoors {
    /// How long what runs at the end may take, and the task.
    tasks: Vec<(Duration, beside::JoinHandle<()>)>,
    close: watch::Sender<bool>,
}

impl ReadDoors {
    /// Opens them.
    pub(super) fn open(
        config: &config::Receive,
        view: &View,
        (grpc, http): (Listening, Listening),
        places: &[Places; 2],
        (exposition, counters): (Exposition, &Counters),
    ) -> Self {
        let (close, closing) = watch::channel(false);
        let mut tasks = Vec::new();
        let connections = store_api::Connections::new(config.read.grpc_connection_age_max);
        for (_, listener) in grpc {
            let stop = raised(closing.clone());
            let (view, counters) = (view.clone(), counters.clone());
            let door = Door::new(listener, places[0].clone());
            let serving = store_api::serve(view, door, connections, counters, stop);
            let task = beside::spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the StoreAPI ended");
                }
            });
            tasks.push((config.read.grpc_grace, task));
        }
        let routes = api::routes(view.clone(), exposition, counters.clone());
        for (_, listener) in http {
            let door = Door::new(listener, places[1].clone());
            let task = api::serve(routes.clone(), door, raised(closing.clone()));
            tasks.push((config.read.http_grace, beside::spawn(task)));
        }
        Self { tasks, close }
    }

    /// Takes no more connections, and lets what runs end, each door within its grace. What does not
    /// end is broken off with the process.
    pub(super) async fn close(self) {
        self.close.send_replace(true);
        let begun = Moment::now();
        for (grace, task) in self.tasks {
            let left = grace.min(config::READS_STOP_MAX).saturating_sub(begun.elapsed());
            if beside::timeout(left, task).await.is_err() {
                tracing::info!("requests of readers that did not end are broken off");
            }
        }
    }
}

/// What `/metrics` shows: the cores' last numbers, what the view knows, and what is counted beside.
pub(super) fn exposition(
    view: &View,
    snapshots: &[watch::Receiver<Snapshot>],
    counters: [&Counters; 2],
) -> Exposition {
    let mut exposition = Exposition::default();
    for core in snapshots {
        let core = core.clone();
        exposition.source(move |all| all.merge(&core.borrow()));
    }
    let view = view.clone();
    exposition.source(move |all| view.sample(all));
    for counters in counters {
        let counters = counters.clone();
        exposition.source(move |all| counters.sample(all));
    }
    exposition
}
