//! Compiles the `.proto` files with protox, which needs no protoc, and generates prost types with
//! tonic clients and servers. The descriptors are kept for gRPC's server reflection.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use prost::Message as _;

const ROOT: &str = "proto";
const FILES: [&str; 5] = [
    "io/prometheus/write/v2/types.proto",
    "prometheus/remote.proto",
    "thanos/info.proto",
    "thanos/prometheus_copy.proto",
    "thanos/store.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let mut files = protox::compile(FILES, [ROOT])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files.clone())?;

    // A client of reflection wants shapes; the comments are for the reader of the types.
    for file in &mut files.file {
        file.source_code_info = None;
    }
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?;
    fs::write(Path::new(&out).join("descriptors.bin"), files.encode_to_vec())?;
    Ok(())
}
