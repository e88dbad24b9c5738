//! The table of all keys of the objstore YAML, for the types that are supported.

use crate::config::table::Does;

/// Whose key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// `type: S3`.
    S3,
    /// `type: FILESYSTEM`.
    Filesystem,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Keys below.
    Section,
    /// Any text.
    Text,
    /// A text that is never printed.
    Secret,
    /// `true` or `false`.
    Bool,
    /// A whole number from 0.
    Count,
    /// A duration in Prometheus' syntax.
    Duration,
    /// Texts by name.
    Map,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// A key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The key after those above it: `config.http_config.tls_config.ca_file`.
    pub path: &'static str,
    /// Whose it is; `None` for all.
    pub of: Option<Provider>,
    /// What its value looks like.
    pub form: Form,
    /// Its default as one would write it; empty for none.
    pub default: &'static str,
    /// What Tidegate does with it.
    pub does: Does,
}

const fn acts(path: &'static str, form: Form, default: &'static str) -> Key {
    Key { path, of: Some(Provider::S3), form, default, does: Does::Acts }
}

const fn nothing(path: &'static str, form: Form, default: &'static str, why: &'static str) -> Key {
    Key { path, of: Some(Provider::S3), form, default, does: Does::Nothing(why) }
}

const fn refused(path: &'static str, form: Form, default: &'static str, why: &'static str) -> Key {
    Key { path, of: Some(Provider::S3), form, default, does: Does::Refused(why) }
}

const fn for_all(key: Key) -> Key {
    Key { of: None, ..key }
}

use Form::{Bool, Count, Duration, Map, OneOf, Secret, Section, Text};

/// Why some limits of Go's HTTP client do nothing.
const NO_SUCH_LIMIT: &str = "the client has no such limit";

/// All keys.
pub const KEYS: &[Key] = &[
    for_all(acts("type", Text, "")),
    for_all(acts("config", Section, "")),
    for_all(acts("prefix", Text, "")),
    for_all(refused("hedging_config", Map, "", "requests are not sent twice; leave the key out")),
    Key {
        path: "config.directory",
        of: Some(Provider::Filesystem),
        form: Text,
        default: "",
        does: Does::Acts,
    },
    acts("config.bucket", Text, ""),
    acts("config.endpoint", Text, ""),
    acts("config.region", Text, ""),
    nothing("config.disable_dualstack", Bool, "false", "the endpoint is used as it is written"),
    refused(
        "config.aws_sdk_auth",
        Bool,
        "false",
        "there is no AWS SDK here; leave the keys empty for credentials from the surroundings",
    ),
    acts("config.access_key", Text, ""),
    acts("config.secret_key", Secret, ""),
    acts("config.session_token", Secret, ""),
    acts("config.insecure", Bool, "false"),
    refused(
        "config.signature_version2",
        Bool,
        "false",
        "requests are signed with version 4 only; leave the key out",
    ),
    acts("config.put_user_metadata", Map, ""),
    refused(
        "config.list_objects_version",
        Text,
        "",
        "buckets are listed with version 2 only; leave the key out",
    ),
    acts("config.bucket_lookup_type", OneOf(&["auto", "virtual-hosted", "path"]), "auto"),
    nothing(
        "config.send_content_md5",
        Bool,
        "true",
        "every body is covered by the SHA-256 in its signature",
    ),
    acts("config.disable_multipart", Bool, "false"),
    acts("config.part_size", Count, "67108864"),
    refused(
        "config.sts_endpoint",
        Text,
        "",
        "another endpoint for tokens is not supported yet; leave the key out",
    ),
    acts("config.max_retries", Count, "0"),
    acts("config.trace", Section, ""),
    nothing("config.trace.enable", Bool, "false", "requests to the bucket are counted, not traced"),
    acts("config.http_config", Section, ""),
    acts("config.http_config.idle_conn_timeout", Duration, "1m30s"),
    acts("config.http_config.response_header_timeout", Duration, "2m"),
    acts("config.http_config.insecure_skip_verify", Bool, "false"),
    nothing(
        "config.http_config.tls_handshake_timeout",
        Duration,
        "10s",
        "the handshake is part of the time a connection may take",
    ),
    nothing(
        "config.http_config.expect_continue_timeout",
        Duration,
        "1s",
        "Expect: 100-continue is not used",
    ),
    nothing("config.http_config.max_idle_conns", Count, "100", NO_SUCH_LIMIT),
    acts("config.http_config.max_idle_conns_per_host", Count, "100"),
    nothing("config.http_config.max_conns_per_host", Count, "0", NO_SUCH_LIMIT),
    nothing(
        "config.http_config.disable_compression",
        Bool,
        "false",
        "bodies are never compressed on the way",
    ),
    acts("config.http_config.tls_config", Section, ""),
    acts("config.http_config.tls_config.ca_file", Text, ""),
    acts("config.http_config.tls_config.cert_file", Text, ""),
    acts("config.http_config.tls_config.key_file", Text, ""),
    acts("config.http_config.tls_config.server_name", Text, ""),
    acts("config.http_config.tls_config.insecure_skip_verify", Bool, "false"),
    acts("config.sse_config", Section, ""),
    acts("config.sse_config.type", OneOf(&["", "SSE-S3", "SSE-KMS", "SSE-C"]), ""),
    acts("config.sse_config.kms_key_id", Text, ""),
    refused(
        "config.sse_config.kms_encryption_context",
        Map,
        "",
        "a context for KMS is not sent yet; set the bucket's default encryption instead",
    ),
    acts("config.sse_config.encryption_key", Text, ""),
];
