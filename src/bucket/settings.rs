//! Where the bucket is and how to speak to it: Thanos' objstore keys, already parsed.
//!
//! Every field is a key of Thanos' `--objstore.config` and has its default. Keys that Thanos has
//! and this crate cannot honour are refused where the YAML is read; here there is nothing that
//! would do nothing.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Retries of one request when `max_retries` is 0: what Thanos' S3 client does then.
pub const MAX_RETRIES_DEFAULT: usize = 10;

/// Default of `part_size`: 64 MiB, as in Thanos.
pub const PART_SIZE_BYTES_DEFAULT: u64 = 64 << 20;

/// Smallest part that S3 accepts, but for the last.
pub const PART_SIZE_BYTES_MIN: u64 = 5 << 20;

/// A bucket.
#[derive(Debug, Clone)]
pub enum Settings {
    /// `type: S3`.
    S3(Box<S3>),
    /// `type: FILESYSTEM`.
    Directory {
        /// `directory`.
        directory: PathBuf,
        /// `prefix`, or empty.
        prefix: String,
    },
}

/// `type: S3`: Amazon's, or a store that speaks like it.
#[derive(Debug, Clone)]
pub struct S3 {
    /// `bucket`.
    pub bucket: String,
    /// `endpoint`: host and port, without a scheme.
    pub endpoint: String,
    /// `region`; empty: taken from an Amazon endpoint, else `us-east-1`.
    pub region: String,
    /// `insecure`: plain HTTP.
    pub insecure: bool,
    /// `access_key`, `secret_key`, `session_token`, or where else they come from.
    pub credentials: Credentials,
    /// `bucket_lookup_type`.
    pub lookup: Lookup,
    /// `part_size` in bytes: larger objects are uploaded in parts.
    pub part_size_bytes: u64,
    /// `disable_multipart`: no parts, whatever the size.
    pub disable_multipart: bool,
    /// `prefix` of every key, or empty.
    pub prefix: String,
    /// `sse_config`.
    pub sse: Sse,
    /// `put_user_metadata`: sent with every object.
    pub user_metadata: Vec<(String, String)>,
    /// `max_retries` of one request; 0 means [`MAX_RETRIES_DEFAULT`].
    pub max_retries: usize,
    /// `http_config`.
    pub http: Http,
}

impl S3 {
    /// The defaults for a bucket at an endpoint, with fixed keys.
    pub fn new(endpoint: &str, bucket: &str, access_key: &str, secret_key: &str) -> Self {
        let keys = Keys {
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            session_token: String::new(),
        };
        Self {
            bucket: bucket.into(),
            endpoint: endpoint.into(),
            region: String::new(),
            insecure: false,
            credentials: Credentials::Keys(keys),
            lookup: Lookup::Auto,
            part_size_bytes: PART_SIZE_BYTES_DEFAULT,
            disable_multipart: false,
            prefix: String::new(),
            sse: Sse::None,
            user_metadata: Vec::new(),
            max_retries: 0,
            http: Http::default(),
        }
    }
}

/// Who we are to the store.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Written in the configuration.
    Keys(Keys),
    /// No keys there: `AWS_*` variables (keys, web identity, container credentials), else the
    /// metadata service of an EC2 machine. Amazon's shared credentials file is not read.
    Ambient,
}

/// Fixed keys. Their secrets stay out of `Debug`.
#[derive(Clone)]
pub struct Keys {
    /// `access_key`.
    pub access_key: String,
    /// `secret_key`.
    pub secret_key: String,
    /// `session_token`, or empty.
    pub session_token: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// How a bucket is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// In the host name at Amazon, in the path elsewhere.
    Auto,
    /// `https://bucket.endpoint/key`.
    VirtualHosted,
    /// `https://endpoint/bucket/key`.
    Path,
}

/// Encryption at the server.
#[derive(Clone)]
pub enum Sse {
    /// As the bucket is set up.
    None,
    /// `SSE-S3`: keys of the store.
    S3,
    /// `SSE-KMS`.
    Kms {
        /// `kms_key_id`.
        key_id: String,
    },
    /// `SSE-C`: our key, 32 bytes, sent with every request.
    Customer {
        /// The key itself.
        key: [u8; 32],
    },
}

impl fmt::Debug for Sse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::S3 => "S3",
            Self::Kms { .. } => "Kms",
            Self::Customer { .. } => "Customer",
        })
    }
}

/// `http_config`.
#[derive(Debug, Clone)]
pub struct Http {
    /// `idle_conn_timeout`.
    pub idle_conn_timeout: Duration,
    /// `response_header_timeout`: after the request was sent.
    pub response_header_timeout: Duration,
    /// `max_idle_conns_per_host`.
    pub max_idle_conns_per_host: usize,
    /// `insecure_skip_verify`: any certificate will do.
    pub insecure_skip_verify: bool,
    /// `tls_config.ca_file`: trust these instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// `tls_config.cert_file` and `tls_config.key_file`.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// `tls_config.server_name`, or empty.
    pub server_name: String,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            idle_conn_timeout: Duration::from_secs(90),
            response_header_timeout: Duration::from_secs(120),
            max_idle_conns_per_host: 100,
            insecure_skip_verify: false,
            ca_file: None,
            client_cert: None,
            server_name: String::new(),
        }
    }
}
