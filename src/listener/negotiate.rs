//! Which message a body is: content type and content encoding -> version, or 415.
//!
//! | `Content-Type` | taken as |
//! |---|---|
//! | missing or empty | 1.0 |
//! | `application/x-protobuf` | 1.0 |
//! | the same with `;proto=prometheus.WriteRequest` | 1.0 |
//! | the same with `;proto=io.prometheus.write.v2.Request` | 2.0 |
//! | the same with another `proto`, or with a parameter that is not `name=value` | 415 |
//! | anything else | 415 |
//!
//! Blanks around the parts, the case of the media type and quotes around a value do not matter;
//! the first `proto` decides; other parameters are ignored. `Content-Encoding` is missing, empty or
//! `snappy`, else 415.
//!
//! ## Why
//!
//! The table is the one of Prometheus' own receiver, lenient where RFC 9110 is. The header
//! `X-Prometheus-Remote-Write-Version` decides nothing: Thanos trusts it over the content type, and
//! so reads a 2.0 body as an empty 1.0 message and loses it with a 200.

use crate::listener::answer::{Version, excerpt};
use crate::listener::refusal::Refusal;

/// How much of a foreign header value an answer repeats, in bytes.
const SHOWN_BYTES_MAX: usize = 100;

/// Decides the version of a body.
pub(crate) fn negotiate(
    content_type: Option<&[u8]>,
    content_encoding: Option<&[u8]>,
) -> Result<Version, Refusal> {
    let version = version_of(content_type.unwrap_or_default().trim_ascii())?;
    let encoding = content_encoding.unwrap_or_default().trim_ascii();
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"snappy") {
        return Err(Refusal::ContentEncodingUnknown { got: shown(encoding) });
    }
    Ok(version)
}

fn version_of(content_type: &[u8]) -> Result<Version, Refusal> {
    let unknown = || Refusal::ContentTypeUnknown { got: shown(content_type) };
    let mut parts = content_type.split(|&b| b == b';').map(<[u8]>::trim_ascii);
    let media = parts.next().unwrap_or_default();
    if content_type.is_empty() {
        return Ok(Version::V1);
    }
    if !media.eq_ignore_ascii_case(b"application/x-protobuf") {
        return Err(unknown());
    }
    for part in parts {
        let equals = part.iter().position(|&b| b == b'=').ok_or_else(unknown)?;
        let (name, value) = part.split_at(equals);
        if !name.eq_ignore_ascii_case(b"proto") {
            continue;
        }
        let value = value.strip_prefix(b"=").unwrap_or(value);
        let inner = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\""));
        let message = inner.unwrap_or(value);
        return [Version::V1, Version::V2]
            .into_iter()
            .find(|&version| message_of(version).as_bytes() == message)
            .ok_or_else(unknown);
    }
    Ok(Version::V1)
}

fn message_of(version: Version) -> &'static str {
    match version {
        Version::V1 => "prometheus.WriteRequest",
        Version::V2 => "io.prometheus.write.v2.Request",
    }
}

fn shown(value: &[u8]) -> String {
    excerpt(&String::from_utf8_lossy(value), SHOWN_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_decides_the_version() {
        const V1: &str = "application/x-protobuf;proto=prometheus.WriteRequest";
        const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
        for (content_type, want) in [
            ("", Some(Version::V1)),
            ("   ", Some(Version::V1)),
            ("application/x-protobuf", Some(Version::V1)),
            ("Application/X-Protobuf", Some(Version::V1)),
            (" application/x-protobuf ", Some(Version::V1)),
            ("application/x-protobuf;charset=utf-8", Some(Version::V1)),
            (V1, Some(Version::V1)),
            ("application/x-protobuf; proto=prometheus.WriteRequest", Some(Version::V1)),
            ("application/x-protobuf;PROTO=\"prometheus.WriteRequest\"", Some(Version::V1)),
            (V2, Some(Version::V2)),
            (
                "application/x-protobuf ; a=b; proto=io.prometheus.write.v2.Request",
                Some(Version::V2),
            ),
            ("application/x-protobuf;proto=prometheus.writerequest", None),
            ("application/x-protobuf;proto=", None),
            ("application/x-protobuf;proto", None),
            ("application/x-protobuf;", None),
            ("application/x-protobuf;a;proto=prometheus.WriteRequest", None),
            ("application/json", None),
            ("application/x-protobufx", None),
            ("text/plain;proto=prometheus.WriteRequest", None),
            (";proto=prometheus.WriteRequest", None),
        ] {
            assert_eq!(version_of(content_type.trim().as_bytes()).ok(), want, "{content_type:?}");
        }
    }

    #[test]
    fn only_snappy_passes() {
        for encoding in [None, Some(""), Some("snappy"), Some("Snappy")] {
            assert_eq!(negotiate(None, encoding.map(str::as_bytes)), Ok(Version::V1));
        }
        for encoding in ["zstd", "gzip", "identity", "snappy, snappy", "x-snappy-framed"] {
            let got = negotiate(None, Some(encoding.as_bytes()));
            assert_eq!(got, Err(Refusal::ContentEncodingUnknown { got: encoding.into() }));
        }
        let v2 = b"application/x-protobuf;proto=io.prometheus.write.v2.Request";
        assert_eq!(negotiate(Some(v2), Some(b"snappy")), Ok(Version::V2));
    }
}
