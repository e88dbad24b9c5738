//! Buckets and the way of blocks into them, against a real S3 server and a directory.

mod block;
mod server;
mod ship;
mod store;

use std::path::Path;

use tidegate::bucket::{Bucket, S3, Settings};

use crate::bucket::server::{ACCESS_KEY, SECRET_KEY, Server};

/// Settings for a server on loopback: few retries below, so that ours above are seen.
fn s3_settings(server: &Server) -> S3 {
    let mut s3 = S3::new(&server.address().to_string(), "blocks", ACCESS_KEY, SECRET_KEY);
    s3.insecure = true;
    s3.max_retries = 1;
    s3.part_size_bytes = 5 << 20;
    s3
}

fn s3_bucket(server: &Server) -> Bucket {
    Bucket::open(&Settings::S3(Box::new(s3_settings(server)))).expect("a bucket")
}

fn directory_bucket(dir: &Path) -> Bucket {
    let settings = Settings::Directory { directory: dir.to_owned(), prefix: String::new() };
    Bucket::open(&settings).expect("a bucket")
}
