//! Buckets and the way of blocks into them, against a real S3 server and a directory.

pub(crate) mod block;
pub(crate) mod server;
mod ship;
mod store;

use std::path::Path;
use std::time::Duration;

use tidegate::bucket::Bucket;
use tidegate::config::objstore::{Credentials, Http, Lookup, S3, Sse};
use tidegate::config::{self, Secret};

use crate::bucket::server::{ACCESS_KEY, SECRET_KEY, Server};

/// Settings for a server on loopback: few retries below, so that ours above are seen.
fn s3_settings(server: &Server) -> S3 {
    S3 {
        bucket: "blocks".into(),
        endpoint: server.address().to_string(),
        region: String::new(),
        insecure: true,
        credentials: keys(SECRET_KEY),
        lookup: Lookup::Auto,
        part_size_bytes: 5 << 20,
        disable_multipart: false,
        prefix: String::new(),
        sse: Sse::None,
        user_metadata: Vec::new(),
        max_retries: 1,
        http: Http {
            idle_conn_timeout: Duration::from_secs(90),
            response_header_timeout: Duration::from_secs(10),
            max_idle_conns_per_host: 100,
            insecure_skip_verify: false,
            ca_file: None,
            client_cert: None,
            server_name: String::new(),
        },
    }
}

fn keys(secret_key: &str) -> Credentials {
    let secret_key = Secret::new(secret_key);
    Credentials::Keys { access_key: ACCESS_KEY.into(), secret_key, session_token: None }
}

fn open(settings: S3) -> Bucket {
    Bucket::open(&config::Bucket::S3(Box::new(settings))).expect("a bucket")
}

fn s3_bucket(server: &Server) -> Bucket {
    open(s3_settings(server))
}

fn directory_bucket(dir: &Path) -> Bucket {
    let directory = dir.to_owned();
    let settings = config::Bucket::Filesystem { directory, prefix: String::new() };
    Bucket::open(&settings).expect("a bucket")
}
