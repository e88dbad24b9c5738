//! The gRPC door for reading: what a Thanos Querier sees of a receiver.
//!
//! | service | methods |
//! |---|---|
//! | `thanos.Store` | `Series`, `LabelNames`, `LabelValues` |
//! | `thanos.info.Info` | `Info` |
//! | `grpc.health.v1.Health` | `Check`, `Watch`, following readiness |
//! | `grpc.reflection.v1` and `v1alpha` | all of these |
//!
//! ## Promises
//! - `Series` is ascending by the final label set (external labels added, `without_replica_labels`
//!   removed), frames of one series follow each other and none grows over 1 MiB. `batch` frames go
//!   only to who asked for them: an older Querier would drop them silently.
//! - Only raw chunks in encodings 1 to 3; hints and unknown fields are ignored.
//! - A part that fails is a `warning`, or the error `Aborted` if the client wants all or nothing.
//! - Until everything is replayed `Info` is an error and health says `NOT_SERVING`, so no Querier
//!   takes a half answer for the whole.
//! - `Info` never waits for a shard, and a stream gives way after every [`series::TURN_BYTES`], and
//!   so does a request that is unpacked: `Info` answers within 100 ms at any load.
//! - Requests may be compressed with snappy, which Thanos can be told to use; answers never are.
//!   A message over [`REQUEST_BYTES_MAX`] is refused before it is read, and one whose lists are too
//!   long before it is built.
//! - All requests in hand together have [`REQUESTS_BYTES_MAX`]; one that does not fit is refused
//!   with `ResourceExhausted`. A connection has [`STREAMS_MAX`] calls at a time.
//! - A stream whose client takes nothing for 30 s ends with `DeadlineExceeded` and frees its place.
//! - There are only so many connections; one more is closed, see [`crate::rt::door`].
//! - Pings are answered at any pace: gRPC's 10 s keepalive never meets `too_many_pings`.
//!
//! ## Why
//! The frames of `Series` come encoded from the cores and are copied once into the stream. The
//! generated server would need them as messages, so `thanos.Store` is served by hand, and only it.

mod budget;
mod calls;
mod codec;
mod fields;
mod info;
mod request;
mod series;
mod snappy;
mod store;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::middleware::{from_fn_with_state, map_request};
use futures_lite::stream;
use thiserror::Error;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::query::View;
use crate::rt::door::{Connection, Door};
use crate::telemetry::Counters;
use tidegate_proto::DESCRIPTORS;
use tidegate_proto::thanos_info::info_server::InfoServer;

/// Largest request message, before and after decompression. `StoreAPI` requests are matchers; a
/// list of many thousand values in one regex still fits.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// Most bytes of requests in memory, of all calls together: four of the largest.
pub const REQUESTS_BYTES_MAX: usize = 4 * REQUEST_BYTES_MAX;

/// Most calls on one connection at a time; a client waits with what is more. The view lets 120 run
/// or wait, whoever asks.
const STREAMS_MAX: u32 = 200;

/// Every service this door serves, by its full name.
pub const SERVICES: [&str; 3] = ["thanos.Store", "thanos.info.Info", "grpc.health.v1.Health"];

/// How connections are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// After this time a connection is asked to close once its calls have ended, so that clients
    /// look up addresses again; without it never. Thanos:
    /// `--grpc-server-max-connection-age`.
    pub age_max: Option<Duration>,
    /// Silence after which a peer is pinged, to find the dead ones.
    pub ping_after: Duration,
    /// Silence after a ping after which a connection is dropped.
    pub ping_timeout: Duration,
}

impl Connections {
    /// Connections that may grow so old.
    pub fn new(age_max: Option<Duration>) -> Self {
        Self { age_max, ping_after: Duration::from_mins(1), ping_timeout: Duration::from_secs(20) }
    }
}

/// Why the door cannot be opened, or closed with an error.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The descriptors for reflection are damaged: a fault of the build.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server ended.
    #[error("gRPC server: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves the `StoreAPI` at `door` until `stop` is ready; calls that run then may end. They are
/// counted in `counters`.
pub async fn serve(
    view: View,
    door: Door,
    connections: Connections,
    counters: Counters,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let health = HealthReporter::new();
    let routes = routes(view.clone(), &health, counters)?;
    let incoming = stream::unfold(door, async |mut door| {
        let connection = door.accept().await;
        Some((Ok::<_, Infallible>(connection), door))
    });
    let mut server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(connections.ping_after))
        .http2_keepalive_timeout(Some(connections.ping_timeout));
    if let Some(age_max) = connections.age_max {
        server = server.max_connection_age(age_max);
    }
    let server = server.add_routes(routes).serve_with_incoming_shutdown(incoming, stop);
    tokio::select! {
        ended = server => Ok(ended?),
        () = follow_readiness(&view, &health) => Ok(()),
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    /// Nothing here asks who the peer is.
    fn connect_info(&self) {}
}

fn routes(view: View, health: &HealthReporter, counters: Counters) -> Result<Routes, ServeError> {
    let health = HealthServer::new(HealthService::from_health_reporter(health.clone()));
    let reflection = || {
        let all = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        SERVICES.into_iter().fold(all, tonic_reflection::server::Builder::with_service_name)
    };
    let routes = Routes::new(store::Store::new(view.clone()))
        .add_service(InfoServer::new(info::Info::new(view)))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let counted = from_fn_with_state(counters, calls::count);
    let held = from_fn_with_state(budget::Budget::new(), budget::hold);
    let router = routes.into_axum_router().layer(map_request(snappy::unpack));
    Ok(router.layer(held).layer(counted).into())
}

/// Tells health checks what [`View::ready`] says, for ever.
async fn follow_readiness(view: &View, health: &HealthReporter) {
    let mut readiness = view.readiness();
    loop {
        let status = match *readiness.borrow_and_update() {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        for service in SERVICES.into_iter().chain([""]) {
            health.set_service_status(service, status).await;
        }
        if readiness.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
