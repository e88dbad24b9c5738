//! Walks every key of the table, and says every error as the operator reads it.

use std::fmt::Write;

use proptest::prelude::*;

use crate::config::objstore::{
    Bucket, Credentials, Form, KEYS, Key, Lookup, OTHER_TYPES, ObjstoreError, Provider, S3, Sse,
    parse,
};
use crate::config::table::Does;

/// Keys of Thanos' documentation for the supported types.
const THANOS: &str = "
    type config prefix hedging_config config.directory config.bucket config.endpoint config.region
    config.disable_dualstack config.aws_sdk_auth config.access_key config.secret_key
    config.session_token config.insecure config.signature_version2 config.put_user_metadata
    config.list_objects_version config.bucket_lookup_type config.send_content_md5
    config.disable_multipart config.part_size config.sts_endpoint config.max_retries config.trace
    config.trace.enable config.http_config config.http_config.idle_conn_timeout
    config.http_config.response_header_timeout config.http_config.insecure_skip_verify
    config.http_config.tls_handshake_timeout config.http_config.expect_continue_timeout
    config.http_config.max_idle_conns config.http_config.max_idle_conns_per_host
    config.http_config.max_conns_per_host config.http_config.tls_config
    config.http_config.tls_config.ca_file config.http_config.tls_config.cert_file
    config.http_config.tls_config.key_file config.http_config.tls_config.server_name
    config.http_config.tls_config.insecure_skip_verify config.http_config.disable_compression
    config.sse_config config.sse_config.type config.sse_config.kms_key_id
    config.sse_config.kms_encryption_context config.sse_config.encryption_key";

/// YAML in flow style that says the given keys.
fn yaml(kind: &str, said: &[(&str, &str)]) -> String {
    let mut text = format!("type: {kind}\n");
    let mut open: Vec<&str> = Vec::new();
    let mut sorted = said.to_vec();
    sorted.sort_unstable();
    for (path, value) in sorted {
        let (above, name) = path.rsplit_once('.').unwrap_or(("", path));
        let parts: Vec<&str> = above.split('.').filter(|part| !part.is_empty()).collect();
        let same = open.iter().zip(&parts).take_while(|(a, b)| a == b).count();
        open.truncate(same);
        for part in &parts[same..] {
            writeln!(text, "{}{part}:", "  ".repeat(open.len())).expect("a line");
            open.push(part);
        }
        writeln!(text, "{}{name}: {value}", "  ".repeat(open.len())).expect("a line");
    }
    text
}

/// The least that makes a bucket, and `more`; what is said there wins.
fn s3_with(more: &[(&str, &str)]) -> String {
    let mut said = vec![("config.bucket", "b"), ("config.endpoint", "e:9000")];
    said.retain(|(key, _)| more.iter().all(|(other, _)| other != key));
    said.extend(more);
    yaml("S3", &said)
}

fn s3(more: &[(&str, &str)]) -> (S3, Vec<String>) {
    let text = s3_with(more);
    match parse(&text) {
        Ok((Bucket::S3(s3), notes)) => (*s3, notes),
        other => panic!("{text}{other:?}"),
    }
}

fn error(text: &str) -> String {
    match parse(text) {
        Err(error) => error.to_string(),
        Ok(bucket) => panic!("{text} was accepted: {bucket:?}"),
    }
}

/// A good value that is not the default, with the keys it needs beside it.
fn other_value(key: &Key) -> Vec<(&'static str, &'static str)> {
    let value = match key.form {
        Form::Section => panic!("a section has no value"),
        Form::Map => "{X-Amz-Storage-Class: STANDARD_IA}",
        Form::Text | Form::Secret => "other",
        Form::Bool if key.default == "true" => "false",
        Form::Bool => "true",
        Form::Count => "67108865",
        Form::Duration => "7s",
        Form::OneOf(words) => words.last().expect("a word"),
    };
    let mut said = vec![(key.path, value)];
    let tls = ["config.http_config.tls_config.cert_file", "config.http_config.tls_config.key_file"];
    match key.path {
        "config.access_key" => said.push(("config.secret_key", "s")),
        "config.secret_key" => said.push(("config.access_key", "a")),
        "config.session_token" => {
            said.extend([("config.access_key", "a"), ("config.secret_key", "s")]);
        }
        "config.sse_config.type" => said.push(("config.sse_config.encryption_key", "f")),
        "config.sse_config.encryption_key" => said.push(("config.sse_config.type", "SSE-C")),
        "config.sse_config.kms_key_id" => said.push(("config.sse_config.type", "SSE-KMS")),
        path if path == tls[0] => said.push((tls[1], "k")),
        path if path == tls[1] => said.push((tls[0], "c")),
        _ => {}
    }
    said
}

#[test]
fn the_table_holds_all_keys_of_thanos() {
    let mut want: Vec<&str> = THANOS.split_whitespace().collect();
    let mut got: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
    want.sort_unstable();
    got.sort_unstable();
    assert_eq!(got, want);
}

#[test]
fn each_key_does_what_the_table_says() {
    let (plain, no_notes) = s3(&[]);
    assert!(no_notes.is_empty());
    let keys = KEYS.iter().filter(|key| {
        key.of != Some(Provider::Filesystem) && key.form != Form::Section && key.path != "type"
    });
    for key in keys {
        let said = other_value(key);
        match key.does {
            Does::Acts => {
                let (got, notes) = s3(&said);
                assert_ne!(got, plain, "{} changes nothing", key.path);
                assert!(notes.is_empty(), "{notes:?}");
            }
            Does::Nothing(why) => {
                let (got, notes) = s3(&said);
                assert_eq!(got, plain, "{} does something", key.path);
                assert_eq!(notes, [format!("{} does nothing here: {why}", key.path)]);
            }
            Does::Refused(reason) => {
                let got = error(&s3_with(&said));
                assert_eq!(got, format!("{}: {reason}", key.path));
                assert!(reason.contains(';'), "{}: no way out", key.path);
            }
        }
        if key.form != Form::Map && !key.default.is_empty() {
            assert_eq!(s3(&[(key.path, key.default)]).0, plain, "{} is the default", key.default);
        }
        if !["config.bucket", "config.endpoint"].contains(&key.path) {
            assert_eq!(s3(&[(key.path, "")]).0, plain, "{}: null says nothing", key.path);
        }
    }
}

#[test]
fn the_whole_of_s3_is_understood() {
    let text = "
type: s3
prefix: /a/b/
config:
  bucket: metrics
  endpoint: minio:9000
  region: eu-1
  insecure: yes
  access_key: 0123456789
  secret_key: 1e10
  session_token: ~
  bucket_lookup_type: path
  part_size: 10485760
  max_retries: 3
  put_user_metadata: {b: 2, a: x}
  sse_config: {type: SSE-KMS, kms_key_id: id}
  http_config:
    idle_conn_timeout: 90s
    tls_config: {ca_file: /ca, insecure_skip_verify: true}
";
    let (bucket, notes) = parse(text).expect("a bucket");
    assert_eq!(bucket.to_string(), "S3 bucket metrics at http://minio:9000, below a/b");
    assert!(notes.is_empty());
    let Bucket::S3(s3) = bucket else { panic!("S3") };
    let Credentials::Keys { access_key, secret_key, session_token } = &s3.credentials else {
        panic!("keys")
    };
    // Digits stay as they were written.
    assert_eq!((access_key.as_str(), secret_key.reveal()), ("0123456789", "1e10"));
    assert_eq!(session_token, &None);
    assert_eq!((s3.lookup, s3.part_size_bytes, s3.max_retries), (Lookup::Path, 10 << 20, 3));
    assert_eq!(s3.sse, Sse::Kms { key_id: "id".into() });
    let metadata = [("a".to_owned(), "x".to_owned()), ("b".to_owned(), "2".to_owned())];
    assert_eq!(s3.user_metadata, metadata);
    assert!(s3.http.insecure_skip_verify);
    assert_eq!(s3.http.ca_file, Some("/ca".into()));
    let json = r#"{"type": "FILESYSTEM", "config": {"directory": "/b"}}"#;
    assert_eq!(parse(json).expect("JSON is YAML").0.to_string(), "folder /b");
}

proptest! {
    /// Any text ends in a bucket or in an error, and neither prints the secret in it.
    #[test]
    fn no_text_breaks_it(
        before in "(type: S3\n)?(config:\n)?",
        key in "  (secret_key|session_token|bucket|http_config|trace|[a-z_]{1,8})",
        between in "(: |:|: \\[|: \\{|\n   |: \"|: '|: &a |: !!int |: \\|\n    )",
        after in "[\\]\\}\"'\n]{0,2}(  endpoint: e\n)?(  access_key: a\n)?.{0,8}",
    ) {
        let secret = key.contains("secret_key") || key.contains("session_token");
        let text = format!("{before}{key}{between}canary{after}");
        let said = match parse(&text) {
            Ok((bucket, notes)) => format!("{bucket} {bucket:?} {notes:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        prop_assert!(!secret || !said.contains("canary"), "{text:?}: {said}");
    }
}

#[test]
fn bad_yaml_is_told_what_is_wrong() {
    for kind in OTHER_TYPES {
        assert_eq!(
            error(&format!("type: {kind}\nconfig: {{bucket: b, service_account: x}}")),
            format!(
                "type {kind} is not supported yet; supported are S3 (also of other vendors) and \
                 FILESYSTEM"
            )
        );
    }
    for (text, want) in [
        ("", "is empty; leave the flag out for the folder bucket in --tsdb.path"),
        ("# nothing\n", "is empty; leave the flag out for the folder bucket in --tsdb.path"),
        ("config: {}", "type is missing"),
        ("type: FTP", "unknown type \"FTP\"; supported are S3 and FILESYSTEM"),
        ("type: S3", "config.endpoint is missing"),
        ("type: S3\nconfig: {endpoint: e}", "config.bucket is missing"),
        ("type: FILESYSTEM", "config.directory is missing"),
        ("type: S3\nconfg: {}", "unknown key confg at line 2, column 1"),
        ("type: S3\nconfig:\n  buckett: b", "unknown key config.buckett at line 3, column 3"),
        ("type: S3\nconfig: {directory: /b}", "unknown key config.directory at line 2, column 10"),
        (
            "type: S3\nconfig:\n  secret_key:canary: x",
            "unknown key config.secret_key... at line 3, column 3",
        ),
        ("type: FILESYSTEM\nconfig: {bucket: b}", "unknown key config.bucket at line 2, column 10"),
        (
            "type: S3\nconfig: {http_config: {tls_config: {ca: x}}}",
            "unknown key config.http_config.tls_config.ca at line 2, column 37",
        ),
        (
            "type: S3\nconfig: {secret_key: $(S3_KEY)}",
            "holds $(S3_KEY), but environment variables are not expanded; write the value, or let \
             systemd place a finished file (LoadCredential=)",
        ),
    ] {
        assert_eq!(error(text), want, "{text:?}");
    }
}

#[test]
fn bad_values_are_told_what_is_wrong() {
    for (key, value, want) in [
        ("config.insecure", "maybe", "\"maybe\" is not true or false"),
        ("config.part_size", "64MiB", "\"64MiB\" is not a whole number from 0"),
        ("config.part_size", "1024", "is 1024 bytes; S3 wants 5242880 or more"),
        ("config.max_retries", "-1", "\"-1\" is not a whole number from 0"),
        ("config.bucket_lookup_type", "dns", "\"dns\" is not one of: auto, virtual-hosted, path"),
        (
            "config.http_config.idle_conn_timeout",
            "90",
            "\"90\" has no unit after 90; units are y w d h m s ms",
        ),
        ("config.http_config.max_conns_per_host", "many", "\"many\" is not a whole number from 0"),
        (
            "config.endpoint",
            "https://e",
            "is host or host:port without a scheme; config.insecure: true means http",
        ),
        ("config.sse_config.type", "SSE", "\"SSE\" is not one of: SSE-S3, SSE-KMS, SSE-C"),
        ("config.sse_config.kms_key_id", "k", "belongs to sse_config.type SSE-KMS"),
        ("config.sse_config.encryption_key", "f", "belongs to sse_config.type SSE-C"),
        ("config.bucket", "b\n    c", "holds a blank; is the line below it set too far in?"),
        ("config.insecure", "x canary", "\"x...\" is not true or false"),
        ("prefix", "a/../b", "has an empty part, '.' or '..' between its slashes"),
    ] {
        assert_eq!(error(&s3_with(&[(key, value)])), format!("{key} {want}"));
    }
    for (key, other) in [
        ("config.access_key", "config.secret_key"),
        ("config.session_token", "config.secret_key"),
        ("config.secret_key", "config.access_key"),
        ("config.http_config.tls_config.key_file", "config.http_config.tls_config.cert_file"),
    ] {
        let got = parse(&s3_with(&[(key, "x")]));
        assert_eq!(got, Err(ObjstoreError::Missing { key: other }));
    }
    let twice = error("type: S3\nconfig: {bucket: a, bucket: b}");
    assert!(twice.contains("duplicate") && twice.contains("bucket"), "{twice}");
}
