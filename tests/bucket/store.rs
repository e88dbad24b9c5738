//! The operations of a bucket, the same for each kind, and the errors of S3.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tidegate::bucket::{Bucket, Fault as Why, Object, Op};
use tidegate::config::objstore::S3;
use tidegate::telemetry::Metric;
use tokio::task::JoinSet;
use ulid::Ulid;

use crate::bucket::block::noise;
use crate::bucket::server::{Fault, Kind, Server};
use crate::bucket::{directory_bucket, keys, open, s3_bucket, s3_settings};

async fn operations(bucket: &Bucket) {
    let (a, b) = (Ulid::from_parts(1, 1), Ulid::from_parts(2, 2));
    let tmp = tempfile::tempdir().expect("a directory");
    let source = tmp.path().join("source");
    fs::write(&source, b"chunks of bytes").expect("a file");

    bucket.check().await.expect("check");
    assert_eq!(bucket.blocks().await.expect("blocks"), BTreeSet::new());
    let key = format!("{a}/chunks/000001");
    assert_eq!(bucket.head(&key).await.expect("head"), None);
    assert!(!bucket.exists(&key).await.expect("exists"));
    let error = bucket.get(&key, 99).await.expect_err("no object");
    assert_eq!((error.fault, error.op, error.key.as_str()), (Why::NotFound, Op::Get, key.as_str()));
    assert!(!error.worth_retry());

    let stored = bucket.put_file(&key, &source).await.expect("put");
    let seen = bucket.head(&key).await.expect("head").expect("an object");
    assert_eq!(stored.size_bytes, 15);
    assert!(stored.agrees(&seen), "{stored:?} {seen:?}");
    bucket.put(&format!("{a}/meta.json"), "{}".into()).await.expect("put");
    bucket.put(&format!("{b}/index"), "i".into()).await.expect("put");
    bucket.put("debug/metas/x.json", "{}".into()).await.expect("put");
    assert!(bucket.exists(&key).await.expect("exists"));
    assert_eq!(&bucket.get(&key, 15).await.expect("get")[..], b"chunks of bytes");
    assert_eq!(bucket.get(&key, 14).await.expect_err("too large").fault, Why::Unexpected);
    assert_eq!(&bucket.get_range(&key, 7, 2).await.expect("range")[..], b"of");
    assert_eq!(bucket.blocks().await.expect("blocks"), BTreeSet::from([a, b]));
    let mut objects = bucket.objects(a).await.expect("objects");
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    let meta = Object { key: format!("{a}/meta.json"), size_bytes: 2 };
    assert_eq!(objects, [Object { key: key.clone(), size_bytes: 15 }, meta]);

    bucket.delete(&key).await.expect("delete");
    bucket.delete(&key).await.expect("delete again");
    assert_eq!(bucket.head(&key).await.expect("head"), None);
    assert_eq!(counted(bucket, Metric::BucketOperations, "upload"), 4);
    assert_eq!(counted(bucket, Metric::BucketOperationDuration, "upload"), 4);
    assert_eq!(counted(bucket, Metric::BucketTransferredBytes, "upload"), 4);
    assert_eq!(counted(bucket, Metric::BucketOperationFailures, "upload"), 0);
    // Absence is an answer.
    assert_ne!(counted(bucket, Metric::BucketOperations, "attributes"), 0);
    assert_eq!(counted(bucket, Metric::BucketOperationFailures, "attributes"), 0);
}

/// How often `operation` was counted.
fn counted(bucket: &Bucket, metric: Metric, operation: &str) -> u64 {
    let labels = [("bucket", bucket.name()), ("operation", operation)];
    bucket.counters().total(metric, &labels) as u64
}

#[tokio::test]
async fn a_directory_does_all_operations() {
    let tmp = tempfile::tempdir().expect("a directory");
    operations(&directory_bucket(tmp.path())).await;
}

#[tokio::test]
async fn s3_does_all_operations_with_and_without_a_prefix() {
    for prefix in ["", "team/a b"] {
        let server = Server::start().await;
        let mut settings = s3_settings(&server);
        settings.prefix = prefix.into();
        operations(&open(settings)).await;
        assert!(server.files().join(prefix).join("debug").exists(), "{prefix:?}");
    }
}

#[tokio::test]
async fn wrong_settings_are_told_apart_and_say_the_way_out() {
    let server = Server::start().await;
    let with = |change: fn(&mut S3)| {
        let mut settings = s3_settings(&server);
        change(&mut settings);
        open(settings)
    };
    let wrong_secret = with(|s| s.credentials = keys("wrong"));
    let error = wrong_secret.check().await.expect_err("a refusal");
    assert_eq!((error.fault, error.worth_retry()), (Why::Denied, false));
    let text = error.to_string();
    assert!(text.starts_with("bucket iter: access denied"), "{text}");
    assert!(text.contains("SignatureDoesNotMatch"), "{text}");
    assert!(text.ends_with("check access_key, secret_key and the bucket's policy"), "{text}");
    assert!(!text.contains("wrong"), "no secrets: {text}");
    let error = wrong_secret.put("k", "v".into()).await.expect_err("a refusal");
    assert_eq!(error.fault, Why::Denied);
    let error = wrong_secret.head("k").await.expect_err("a refusal");
    assert_eq!(error.fault, Why::Denied, "HEAD has no body to explain itself");

    let no_bucket = with(|s| s.bucket = "nobody".into());
    let error = no_bucket.check().await.expect_err("a refusal");
    assert_eq!(error.fault, Why::NoBucket, "{error}");

    let no_server = with(|s| s.endpoint = "127.0.0.1:1".into());
    let error = no_server.check().await.expect_err("no server");
    assert_eq!((error.fault, error.worth_retry()), (Why::Unavailable, true), "{error}");

    let tls_to_plain = with(|s| s.insecure = false);
    let error = tls_to_plain.check().await.expect_err("no TLS there");
    assert_eq!(error.fault, Why::Unavailable, "{error}");
}

#[tokio::test]
async fn sixty_four_mebibytes_go_in_parts_and_come_back() {
    let server = Server::start().await;
    let bucket = s3_bucket(&server);
    let tmp = tempfile::tempdir().expect("a directory");
    let source = tmp.path().join("000001");
    let bytes = noise(1, 64 << 20);
    fs::write(&source, &bytes).expect("a file");
    let stored = bucket.put_file("b/chunks/000001", &source).await.expect("put");
    assert_eq!(stored.size_bytes, 64 << 20);
    let seen = bucket.head("b/chunks/000001").await.expect("head").expect("an object");
    assert!(stored.agrees(&seen), "{stored:?} {seen:?}");
    let got = bucket.get("b/chunks/000001", 64 << 20).await.expect("get");
    assert!(got == bytes, "the bytes differ");
    let parts = server.journal().await.iter().filter(|(k, _)| *k == Kind::Part).count();
    assert_eq!(parts, 13, "64 MiB in parts of 5 MiB");
}

/// Each fault strikes the first request of a kind; the one retry below must do.
#[tokio::test]
async fn passing_faults_are_ridden_out_below() {
    let tmp = tempfile::tempdir().expect("a directory");
    let source = tmp.path().join("000001");
    fs::write(&source, noise(2, 11 << 20)).expect("a file");
    let mut cases = JoinSet::new();
    for (kind, fault) in [
        (Kind::Part, Fault::Status(503)),
        (Kind::Part, Fault::Closed),
        (Kind::Part, Fault::ClosedMidRequest),
        (Kind::Part, Fault::ReplyLost),
        (Kind::Begin, Fault::Status(500)),
        (Kind::Complete, Fault::Status(503)),
        (Kind::Complete, Fault::Closed),
        (Kind::Complete, Fault::ErrorInside200),
        (Kind::Complete, Fault::ReplyLost),
        (Kind::Complete, Fault::ReplyTruncated),
        (Kind::Get, Fault::Status(503)),
        (Kind::Get, Fault::Closed),
        (Kind::Get, Fault::ReplyTruncated),
        (Kind::Head, Fault::Status(503)),
        (Kind::List, Fault::Status(503)),
        (Kind::List, Fault::Closed),
        (Kind::Put, Fault::Status(429)),
        (Kind::Put, Fault::ClosedMidRequest),
    ] {
        let source = source.clone();
        cases.spawn(async move { ride_out(kind, fault, &source).await });
    }
    cases.join_all().await;
}

async fn ride_out(kind: Kind, fault: Fault, source: &Path) {
    let server = Server::start().await;
    let bucket = s3_bucket(&server);
    server.strike(kind, 1, 1, fault).await;
    let context = format!("{kind:?} {fault:?}");
    let key = format!("{}/chunks/000001", Ulid::from_parts(1, 1));
    bucket.put_file(&key, source).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    bucket.put("small", "one".into()).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    let got = bucket.get(&key, 11 << 20).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(got == fs::read(source).expect("the file"), "{context}: the bytes differ");
    let head = bucket.head(&key).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(head.map(|s| s.size_bytes), Some(11 << 20), "{context}");
    let blocks = bucket.blocks().await.unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(blocks.len(), 1, "{context}");
    assert_eq!(server.struck(), 1, "{context}");
}

#[tokio::test]
async fn tls_trusts_whom_it_is_told_to_trust() {
    let server = Server::start_tls().await;
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bucket/tls/authority.pem");
    let with = |ca: Option<&str>, name: &str, skip: bool| {
        let mut settings = s3_settings(&server);
        settings.insecure = false;
        settings.http.ca_file = ca.map(Into::into);
        settings.http.server_name = name.into();
        settings.http.insecure_skip_verify = skip;
        open(settings)
    };
    for (ca, name, skip, want) in [
        (Some(authority), "bucket.test", false, None),
        (None, "", true, None),
        (None, "bucket.test", false, Some("UnknownIssuer")),
        (Some(authority), "", false, Some("not valid for name")),
        (Some(authority), "other.test", false, Some("not valid for name")),
    ] {
        let bucket = with(ca, name, skip);
        let result = bucket.put("key", "value".into()).await;
        match want {
            None => assert_eq!(result.expect("a put").size_bytes, 5),
            Some(want) => {
                let error = result.expect_err("no trust");
                assert_eq!(error.fault, Why::Unavailable);
                assert!(error.to_string().contains(want), "{want}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn lasting_faults_are_errors_and_a_failed_upload_is_aborted() {
    let tmp = tempfile::tempdir().expect("a directory");
    let source = tmp.path().join("000001");
    fs::write(&source, noise(3, 11 << 20)).expect("a file");
    for (kind, fault, want) in [
        (Kind::Part, Fault::Status(503), Why::Unavailable),
        (Kind::Part, Fault::Status(429), Why::Throttled),
        (Kind::Part, Fault::Status(403), Why::Denied),
        (Kind::Part, Fault::Status(400), Why::Refused),
        (Kind::Part, Fault::Status(301), Why::Moved),
        (Kind::Complete, Fault::ErrorInside200, Why::Unavailable),
    ] {
        let server = Server::start().await;
        let bucket = s3_bucket(&server);
        server.strike(kind, 1, u64::MAX, fault).await;
        let error = bucket.put_file("b/chunks/000001", &source).await.expect_err("a failure");
        assert_eq!(error.fault, want, "{kind:?} {fault:?}: {error}");
        let journal = server.journal().await;
        assert_eq!(journal.last().map(|(k, _)| *k), Some(Kind::Abort), "{kind:?} {fault:?}");
        assert_eq!(bucket.head("b/chunks/000001").await.expect("head"), None);
        assert_eq!(counted(&bucket, Metric::BucketOperationFailures, "upload"), 1);
    }
}
