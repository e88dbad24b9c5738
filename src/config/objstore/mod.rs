//! The bucket: Thanos' objstore YAML, read strictly.
//!
//! As with flags, every key of Thanos' documentation stands in one [table](KEYS) and acts, does
//! nothing here and is named at start, or ends the start with the reason when it asks for something
//! else than its default. An unknown key ends the start: a silent typing error in a file of secrets
//! and limits is worse than none.
//!
//! ```yaml
//! type: S3                  # or FILESYSTEM, with config.directory
//! config:
//!   bucket: metrics
//!   endpoint: s3.eu-central-1.amazonaws.com
//! prefix: receive           # before every key, optional
//! ```
//!
//! Texts of errors name keys and places, and no value that could be a secret.

mod keys;
mod yaml;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::config::Secret;
use crate::config::table::Does;

pub use keys::{Form, KEYS, Key, Provider};

/// A bucket as configured: nothing has been asked of it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bucket {
    /// `type: S3`.
    S3(Box<S3>),
    /// `type: FILESYSTEM`, and the default.
    Filesystem {
        /// `config.directory`.
        directory: PathBuf,
        /// `prefix` of every key, without slashes at its ends; may be empty.
        prefix: String,
    },
}

/// `type: S3`: Amazon's, or a store that speaks like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// `bucket`.
    pub bucket: String,
    /// `endpoint`: host and port, without a scheme.
    pub endpoint: String,
    /// `region`; empty: to be taken from an Amazon endpoint, else `us-east-1`.
    pub region: String,
    /// `insecure`: plain HTTP.
    pub insecure: bool,
    /// `access_key`, `secret_key`, `session_token`, or where else they come from.
    pub credentials: Credentials,
    /// `bucket_lookup_type`.
    pub lookup: Lookup,
    /// `part_size` in bytes: larger objects are uploaded in parts of this size.
    pub part_size_bytes: u64,
    /// `disable_multipart`: no parts, whatever the size.
    pub disable_multipart: bool,
    /// `prefix` of every key, without slashes at its ends; may be empty.
    pub prefix: String,
    /// `sse_config`.
    pub sse: Sse,
    /// `put_user_metadata`: sent with every object.
    pub user_metadata: Vec<(String, String)>,
    /// `max_retries` of one request; 0 for the client's default.
    pub max_retries: usize,
    /// `http_config`.
    pub http: Http,
}

/// Who we are to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Written in the configuration.
    Keys {
        /// `access_key`.
        access_key: String,
        /// `secret_key`.
        secret_key: Secret,
        /// `session_token`.
        session_token: Option<Secret>,
    },
    /// No keys there: from the machine's surroundings (environment, web identity, metadata).
    Ambient,
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// `SSE-C`: our key, sent with every request.
    Customer {
        /// `encryption_key`: a file of 32 bytes.
        key_file: PathBuf,
    },
}

/// `http_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// `idle_conn_timeout`.
    pub idle_conn_timeout: Duration,
    /// `response_header_timeout`: after the request was sent.
    pub response_header_timeout: Duration,
    /// `max_idle_conns_per_host`.
    pub max_idle_conns_per_host: usize,
    /// `insecure_skip_verify`, also under `tls_config`: any certificate will do.
    pub insecure_skip_verify: bool,
    /// `tls_config.ca_file`: trust these instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// `tls_config.cert_file` and `tls_config.key_file`.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// `tls_config.server_name`; may be empty.
    pub server_name: String,
}

impl fmt::Display for Bucket {
    /// One line without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self {
            Self::S3(s3) => {
                let scheme = if s3.insecure { "http" } else { "https" };
                write!(f, "S3 bucket {} at {scheme}://{}", s3.bucket, s3.endpoint)?;
                &s3.prefix
            }
            Self::Filesystem { directory, prefix } => {
                write!(f, "folder {}", directory.display())?;
                prefix
            }
        };
        if prefix.is_empty() { Ok(()) } else { write!(f, ", below {prefix}") }
    }
}

/// The shape of the YAML, on one line.
const EXAMPLE: &str = "{type: FILESYSTEM, config: {directory: /var/lib/bucket}}, or \
                       {type: S3, config: {bucket: NAME, endpoint: HOST}}";

/// Why a YAML is not a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ObjstoreError {
    /// Nothing but blanks and comments.
    #[error("is empty; leave the flag out for the folder bucket in --tsdb.path")]
    Empty,
    /// Not YAML, or not of the right shape.
    #[error("is no YAML of a bucket: {text}; it looks like this: {EXAMPLE}")]
    Yaml {
        /// What the reader found, and where.
        text: String,
    },
    /// A key that Thanos does not have.
    #[error("unknown key {key} at line {line}, column {column}")]
    UnknownKey {
        /// The key with those above it.
        key: String,
        /// Where it stands.
        line: u64,
        /// Where in the line.
        column: u64,
    },
    /// No such type in Thanos.
    #[error("unknown type {kind:?}; supported are S3 and FILESYSTEM")]
    UnknownType {
        /// What stands there.
        kind: String,
    },
    /// A type that Thanos has.
    #[error(
        "type {kind} is not supported yet; supported are S3 (also of other vendors) and FILESYSTEM"
    )]
    RefusedType {
        /// The type.
        kind: &'static str,
    },
    /// A key that Tidegate would not obey.
    #[error("{key}: {reason}")]
    Refused {
        /// The key with those above it.
        key: &'static str,
        /// Why, and the way out.
        reason: &'static str,
    },
    /// A key without which there is no bucket.
    #[error("{key} is missing")]
    Missing {
        /// The key with those above it.
        key: &'static str,
    },
    /// A value of the wrong form.
    #[error("{key} {problem}")]
    Bad {
        /// The key with those above it.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Thanos replaces these.
    #[error(
        "holds {text}, but environment variables are not expanded; write the value, or let systemd \
         place a finished file (LoadCredential=)"
    )]
    Variable {
        /// The first one.
        text: String,
    },
}

/// Types of Thanos that are not supported here.
const OTHER_TYPES: [&str; 8] = ["GCS", "AZURE", "SWIFT", "COS", "ALIYUNOSS", "BOS", "OCI", "OBS"];

/// Smallest part that S3 accepts, but for the last.
const PART_SIZE_BYTES_MIN: u64 = 5 << 20;

/// Reads the YAML; also gives notes on keys that do nothing.
pub fn parse(text: &str) -> Result<(Bucket, Vec<String>), ObjstoreError> {
    if let Some(variable) = variable(text) {
        return Err(ObjstoreError::Variable { text: variable.into() });
    }
    let kind = yaml::kind(text)?.ok_or(ObjstoreError::Missing { key: "type" })?;
    // Case does not matter to Thanos.
    let provider = match kind.to_ascii_uppercase().as_str() {
        "S3" => Provider::S3,
        "FILESYSTEM" => Provider::Filesystem,
        other => {
            let known = OTHER_TYPES.iter().find(|kind| **kind == other);
            return Err(match known {
                Some(kind) => ObjstoreError::RefusedType { kind },
                None => ObjstoreError::UnknownType { kind: yaml::shown(&kind) },
            });
        }
    };
    let values = yaml::values(text, provider)?;
    let mut notes = Vec::new();
    for key in KEYS.iter().filter(|key| values.is_said(key.path)) {
        values.check(key)?;
        match key.does {
            Does::Acts => {}
            Does::Nothing(why) => notes.push(format!("{} does nothing here: {why}", key.path)),
            Does::Refused(_) if values.is_default(key) => {}
            Does::Refused(reason) => {
                return Err(ObjstoreError::Refused { key: key.path, reason });
            }
        }
    }
    check_blanks(&values)?;
    let bucket = match provider {
        Provider::S3 => Bucket::S3(Box::new(s3(&values)?)),
        Provider::Filesystem => Bucket::Filesystem {
            directory: required(&values, "config.directory")?.into(),
            prefix: prefix(&values)?,
        },
    };
    Ok((bucket, notes))
}

/// The first `$(NAME)`, which Thanos would replace from the environment.
fn variable(text: &str) -> Option<&str> {
    text.match_indices("$(").find_map(|(at, _)| {
        let name = text[at + 2..].bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let end = at + 2 + name.count();
        (end > at + 2 && text[end..].starts_with(')')).then(|| &text[at..=end])
    })
}

fn required(values: &yaml::Values, key: &'static str) -> Result<String, ObjstoreError> {
    match values.text(key) {
        "" => Err(ObjstoreError::Missing { key }),
        text => Ok(text.to_owned()),
    }
}

/// Texts that are printed at start have no blanks: with one, the line below was set too far in and
/// has become part of the value.
fn check_blanks(values: &yaml::Values) -> Result<(), ObjstoreError> {
    let printed = ["config.bucket", "config.endpoint", "config.region", "prefix"];
    match printed.into_iter().find(|key| values.text(key).contains(char::is_whitespace)) {
        Some(key) => {
            let problem = "holds a blank; is the line below it set too far in?".into();
            Err(ObjstoreError::Bad { key, problem })
        }
        None => Ok(()),
    }
}

fn prefix(values: &yaml::Values) -> Result<String, ObjstoreError> {
    let prefix = values.text("prefix").trim_matches('/');
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    if !prefix.is_empty() && prefix.split('/').any(bad) {
        let problem = "has an empty part, '.' or '..' between its slashes".into();
        return Err(ObjstoreError::Bad { key: "prefix", problem });
    }
    Ok(prefix.to_owned())
}

fn s3(values: &yaml::Values) -> Result<S3, ObjstoreError> {
    let endpoint = required(values, "config.endpoint")?;
    if endpoint.contains('/') {
        return Err(ObjstoreError::Bad {
            key: "config.endpoint",
            problem: "is host or host:port without a scheme; config.insecure: true means http"
                .into(),
        });
    }
    let part_size_bytes = values.count("config.part_size")?;
    if part_size_bytes < PART_SIZE_BYTES_MIN {
        return Err(ObjstoreError::Bad {
            key: "config.part_size",
            problem: format!("is {part_size_bytes} bytes; S3 wants {PART_SIZE_BYTES_MIN} or more"),
        });
    }
    Ok(S3 {
        bucket: required(values, "config.bucket")?,
        endpoint,
        region: values.text("config.region").into(),
        insecure: values.bool("config.insecure")?,
        credentials: credentials(values)?,
        lookup: match values.text("config.bucket_lookup_type") {
            "virtual-hosted" => Lookup::VirtualHosted,
            "path" => Lookup::Path,
            _ => Lookup::Auto,
        },
        part_size_bytes,
        disable_multipart: values.bool("config.disable_multipart")?,
        prefix: prefix(values)?,
        sse: sse(values)?,
        user_metadata: values.map("config.put_user_metadata").to_vec(),
        max_retries: usize::try_from(values.count("config.max_retries")?).unwrap_or(usize::MAX),
        http: http(values)?,
    })
}

fn credentials(values: &yaml::Values) -> Result<Credentials, ObjstoreError> {
    let [access_key, secret_key, session_token] =
        ["config.access_key", "config.secret_key", "config.session_token"]
            .map(|key| values.text(key));
    match (access_key, secret_key, session_token) {
        ("", "", "") => Ok(Credentials::Ambient),
        (_, "", _) => Err(ObjstoreError::Missing { key: "config.secret_key" }),
        ("", _, _) => Err(ObjstoreError::Missing { key: "config.access_key" }),
        _ => Ok(Credentials::Keys {
            access_key: access_key.into(),
            secret_key: Secret::new(secret_key),
            session_token: Some(session_token).filter(|t| !t.is_empty()).map(Secret::new),
        }),
    }
}

fn sse(values: &yaml::Values) -> Result<Sse, ObjstoreError> {
    let kind = values.text("config.sse_config.type");
    let (key_id, key_file) = ("config.sse_config.kms_key_id", "config.sse_config.encryption_key");
    for (key, of) in [(key_id, "SSE-KMS"), (key_file, "SSE-C")] {
        if !values.text(key).is_empty() && kind != of {
            let problem = format!("belongs to sse_config.type {of}");
            return Err(ObjstoreError::Bad { key, problem });
        }
    }
    Ok(match kind {
        "SSE-S3" => Sse::S3,
        "SSE-KMS" => Sse::Kms { key_id: required(values, key_id)? },
        "SSE-C" => Sse::Customer { key_file: required(values, key_file)?.into() },
        _ => Sse::None,
    })
}

fn http(values: &yaml::Values) -> Result<Http, ObjstoreError> {
    let path = |key| Some(values.text(key)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let (cert, key) =
        ("config.http_config.tls_config.cert_file", "config.http_config.tls_config.key_file");
    let client_cert = match (path(cert), path(key)) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, _) => return Err(ObjstoreError::Missing { key: cert }),
        (_, None) => return Err(ObjstoreError::Missing { key }),
    };
    let idle = values.count("config.http_config.max_idle_conns_per_host")?;
    Ok(Http {
        idle_conn_timeout: values.duration("config.http_config.idle_conn_timeout")?,
        response_header_timeout: values.duration("config.http_config.response_header_timeout")?,
        max_idle_conns_per_host: usize::try_from(idle).unwrap_or(usize::MAX),
        insecure_skip_verify: values.bool("config.http_config.insecure_skip_verify")?
            || values.bool("config.http_config.tls_config.insecure_skip_verify")?,
        ca_file: path("config.http_config.tls_config.ca_file"),
        client_cert,
        server_name: values.text("config.http_config.tls_config.server_name").into(),
    })
}

#[cfg(test)]
mod tests;
