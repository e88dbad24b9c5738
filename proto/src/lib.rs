//! The wire messages Tidegate speaks, as prost types with tonic clients and servers.
//!
//! They are generated at build from the `.proto` files beside, which keep upstream's package names,
//! message names and numbers, because those are what a peer sees. One module per package; modules
//! nest as packages do. Field `bytes` are [`prost::bytes::Bytes`], so handing one on copies
//! nothing.
//!
//! These types are for cold paths and for tests. Remote write on the hot path is scanned by
//! `tidegate::decode`, for which these are the oracle, and the frames of `thanos.Store/Series` pass
//! as bytes that the cores encoded.
#![allow(
    clippy::all,
    clippy::pedantic,
    reason = "generated code; this package holds nothing else, so the house lints are off here"
)]

/// Package `prometheus`: remote write 1.0.
pub mod prometheus {
    tonic::include_proto!("prometheus");
}

/// Package `io.prometheus.write.v2`: remote write 2.0.
pub mod io_prometheus_write_v2 {
    tonic::include_proto!("io.prometheus.write.v2");
}

/// Package `prometheus_copy`: Prometheus' samples between receivers of Thanos.
pub mod prometheus_copy {
    tonic::include_proto!("prometheus_copy");
}

/// Package `thanos`: the StoreAPI and the writes of routers.
pub mod thanos {
    tonic::include_proto!("thanos");

    /// Package `thanos.info`: who is there.
    pub mod info {
        tonic::include_proto!("thanos.info");
    }
}

pub use thanos::info as thanos_info;

/// All descriptors as an encoded `google.protobuf.FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
