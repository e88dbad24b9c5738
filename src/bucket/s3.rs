//! A bucket at Amazon S3, or at a store that speaks like it.
//!
//! ## Promises
//! Every byte sent is covered by a SHA-256 that the server checks before it stores the object or
//! part (the payload hash of the signature), so an accepted request holds what we sent. A part is
//! read from disk when its turn comes: one part is in memory at a time. An upload in parts that
//! fails is aborted; one that a crash cuts off stays until the bucket's
//! `AbortIncompleteMultipartUpload` rule removes it, and is invisible until then.
//!
//! ## Why
//! A server may complete an upload in parts and lose its answer; asked again, it no longer knows
//! the upload. So after a failed completion the object is looked at: if it is there with its
//! size, it is ours, for a key is written with the same bytes only (a block never changes).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_lite::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, GetOptions, GetRange, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RetryConfig,
};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use ulid::Ulid;

use crate::bucket::connector::Connector;
use crate::bucket::error::{Error, Fault, Op, SettingsError};
use crate::bucket::{Object, Stored};
use crate::config::objstore::{Credentials, Lookup, S3, Sse};

/// Smallest part that S3 accepts, but for the last.
const PART_SIZE_BYTES_MIN: u64 = 5 << 20;
/// Retries of one request when `max_retries` is 0: what Thanos' client does then.
const RETRIES_DEFAULT: usize = 10;
/// Most parts of one upload.
const PARTS_MAX: u64 = 10_000;
/// Longest time in which one request is repeated; its signature ages meanwhile.
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest time to list a bucket: a server whose pages never end must not hold a task for ever.
const LIST_TIMEOUT: Duration = Duration::from_mins(10);
/// Longest time for cleaning up after a failed upload.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where Amazon's machines find their credentials.
const METADATA_SERVICE: &str = "169.254.169.254";

#[derive(Debug, Clone)]
pub(super) struct Store {
    client: Arc<AmazonS3>,
    prefix: String,
    part_size_bytes: u64,
    user_metadata: Attributes,
}

impl Store {
    /// Checks the settings; asks nothing of the server.
    pub(super) fn open(settings: &S3) -> Result<Self, SettingsError> {
        let bad = |key, problem: &str| SettingsError::Bad { key, problem: problem.into() };
        if settings.bucket.is_empty() {
            return Err(bad("bucket", "is missing"));
        }
        if settings.endpoint.is_empty() {
            return Err(bad("endpoint", "is missing"));
        }
        if settings.endpoint.contains('/') {
            return Err(bad("endpoint", "is host and port without a scheme; see `insecure`"));
        }
        if settings.part_size_bytes < PART_SIZE_BYTES_MIN {
            return Err(bad("part_size", "must be 5 MiB or more"));
        }
        let prefix = settings.prefix.trim_matches('/');
        Path::parse(prefix).map_err(|e| bad("prefix", &e.to_string()))?;
        let mut user_metadata = Attributes::new();
        for (name, value) in &settings.user_metadata {
            let attribute = match name.to_ascii_lowercase().as_str() {
                "x-amz-storage-class" => Attribute::StorageClass,
                other => Attribute::Metadata(other.to_owned().into()),
            };
            user_metadata.insert(attribute, value.clone().into());
        }
        Ok(Self {
            client: Arc::new(builder(settings)?.build()?),
            prefix: prefix.into(),
            part_size_bytes: if settings.disable_multipart {
                u64::MAX
            } else {
                settings.part_size_bytes
            },
            user_metadata,
        })
    }

    /// Writes a small object in one request.
    pub(super) async fn put(&self, key: &str, bytes: Bytes) -> Result<Stored, Error> {
        let size_bytes = bytes.len() as u64;
        self.put_payload(key, bytes.into(), size_bytes).await
    }

    async fn put_payload(
        &self,
        key: &str,
        payload: PutPayload,
        size_bytes: u64,
    ) -> Result<Stored, Error> {
        let options = PutOptions { attributes: self.user_metadata.clone(), ..Default::default() };
        let path = self.path(Op::Upload, key)?;
        let result = self.client.put_opts(&path, payload, options).await;
        let result = result.map_err(|e| failed(Op::Upload, key, e))?;
        Ok(Stored { size_bytes, tag: result.e_tag })
    }

    /// Writes a file: in one request up to the part size, in parts above.
    pub(super) async fn put_file(&self, key: &str, source: &FilePath) -> Result<Stored, Error> {
        let local = |e| Error::new(Op::Upload, key, Fault::Local, e);
        let source = source.to_owned();
        let (file, size_bytes) = blocking(move || {
            let file = File::open(source)?;
            let size_bytes = file.metadata()?.len();
            Ok((Arc::new(file), size_bytes))
        })
        .await
        .map_err(local)?;
        if size_bytes <= self.part_size_bytes {
            let bytes = read_part(&file, 0, size_bytes).await.map_err(local)?;
            return self.put_payload(key, bytes.into(), size_bytes).await;
        }
        let options =
            PutMultipartOptions { attributes: self.user_metadata.clone(), ..Default::default() };
        let path = self.path(Op::Upload, key)?;
        let upload = self.client.put_multipart_opts(&path, options).await;
        let mut upload = upload.map_err(|e| failed(Op::Upload, key, e))?;
        if let Err(error) = self.put_parts(key, &file, size_bytes, upload.as_mut()).await {
            abort(upload.as_mut(), key).await;
            return Err(error);
        }
        match upload.complete().await {
            Ok(PutResult { e_tag, .. }) => Ok(Stored { size_bytes, tag: e_tag }),
            Err(error) => match self.head(key).await {
                Ok(Some(stored)) if stored.size_bytes == size_bytes => Ok(stored),
                _ => {
                    abort(upload.as_mut(), key).await;
                    Err(failed(Op::Upload, key, error))
                }
            },
        }
    }

    async fn put_parts(
        &self,
        key: &str,
        file: &Arc<File>,
        size_bytes: u64,
        upload: &mut dyn MultipartUpload,
    ) -> Result<(), Error> {
        let part_bytes = self.part_size_bytes.max(size_bytes.div_ceil(PARTS_MAX));
        let mut offset = 0;
        while offset < size_bytes {
            let len = part_bytes.min(size_bytes - offset);
            let part = read_part(file, offset, len).await;
            let part = part.map_err(|e| Error::new(Op::Upload, key, Fault::Local, e))?;
            let sent = upload.put_part(part.into()).await;
            sent.map_err(|e| failed(Op::Upload, key, e))?;
            offset += len;
        }
        Ok(())
    }

    /// Reads an object, or a range of it. `size_bytes_max` bounds what is taken into memory.
    pub(super) async fn get(
        &self,
        key: &str,
        range: Option<(u64, u64)>,
        size_bytes_max: u64,
    ) -> Result<Bytes, Error> {
        let op = if range.is_some() { Op::GetRange } else { Op::Get };
        let wanted = range.map(|(offset, len)| GetRange::Bounded(offset..offset + len));
        let options = GetOptions { range: wanted, ..Default::default() };
        let path = self.path(op, key)?;
        let result = self.client.get_opts(&path, options).await.map_err(|e| failed(op, key, e))?;
        let size_bytes = result.range.end - result.range.start;
        if size_bytes > size_bytes_max {
            let text = format!("{size_bytes} bytes, at most {size_bytes_max} were expected");
            return Err(Error::new(op, key, Fault::Unexpected, text));
        }
        let bytes = result.bytes().await.map_err(|e| failed(op, key, e))?;
        if bytes.len() as u64 != size_bytes {
            let text = format!("{} bytes came, {size_bytes} were announced", bytes.len());
            return Err(Error::new(op, key, Fault::Unavailable, text));
        }
        Ok(bytes)
    }

    /// What the server knows of an object; nothing if there is none.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Stored>, Error> {
        let options = GetOptions { head: true, ..Default::default() };
        let path = self.path(Op::Attributes, key)?;
        match self.client.get_opts(&path, options).await {
            Ok(result) => {
                let ObjectMeta { size, e_tag, .. } = result.meta;
                Ok(Some(Stored { size_bytes: size, tag: e_tag }))
            }
            Err(error) => match failed(Op::Attributes, key, error) {
                Error { fault: Fault::NotFound, .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// The block directories. A server may list a name twice, or one whose objects are gone.
    pub(super) async fn blocks(&self) -> Result<BTreeSet<Ulid>, Error> {
        let root = self.root();
        let listing = timeout(LIST_TIMEOUT, self.client.list_with_delimiter(root.as_ref()))
            .await
            .map_err(|e| Error::new(Op::Iter, "", Fault::Unavailable, e))?
            .map_err(|e| failed(Op::Iter, "", e))?;
        let names = listing.common_prefixes.iter().filter_map(Path::filename);
        Ok(names.filter_map(|name| Ulid::from_string(name).ok()).collect())
    }

    /// The objects below a block.
    pub(super) async fn objects(&self, block: Ulid) -> Result<Vec<Object>, Error> {
        let dir = block.to_string();
        let path = self.path(Op::Iter, &dir)?;
        let mut listing = self.client.list(Some(&path));
        let mut objects = Vec::new();
        let all = async {
            while let Some(object) = listing.next().await {
                let ObjectMeta { location, size, .. } =
                    object.map_err(|e| failed(Op::Iter, &dir, e))?;
                let key = location.as_ref();
                let key = key.strip_prefix(self.prefix.as_str()).unwrap_or(key);
                let key = key.trim_start_matches('/').to_owned();
                objects.push(Object { key, size_bytes: size });
            }
            Ok(())
        };
        timeout(LIST_TIMEOUT, all)
            .await
            .map_err(|e| Error::new(Op::Iter, &dir, Fault::Unavailable, e))??;
        Ok(objects)
    }

    /// Asks for the first page of the listing: whether endpoint, bucket and credentials are right.
    pub(super) async fn check(&self) -> Result<(), Error> {
        let mut listing = self.client.list(self.root().as_ref());
        match timeout(LIST_TIMEOUT, listing.next()).await {
            Ok(None | Some(Ok(_))) => Ok(()),
            Ok(Some(Err(error))) => Err(failed(Op::Iter, "", error)),
            Err(error) => Err(Error::new(Op::Iter, "", Fault::Unavailable, error)),
        }
    }

    /// Deletes an object. One that is not there is deleted.
    pub(super) async fn delete(&self, key: &str) -> Result<(), Error> {
        let path = self.path(Op::Delete, key)?;
        let one = futures_lite::stream::once(Ok(path)).boxed();
        let mut deleted = self.client.delete_stream(one);
        match deleted.next().await {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => match failed(Op::Delete, key, error) {
                Error { fault: Fault::NotFound, .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    fn root(&self) -> Option<Path> {
        (!self.prefix.is_empty()).then(|| Path::from(self.prefix.as_str()))
    }

    fn path(&self, op: Op, key: &str) -> Result<Path, Error> {
        let joined = match self.prefix.as_str() {
            "" => Path::parse(key),
            prefix => Path::parse(format!("{prefix}/{key}")),
        };
        joined.map_err(|e| Error::new(op, key, Fault::Refused, e))
    }
}

/// An error of the store; with the reason if it was the search for credentials that failed.
fn failed(op: Op, key: &str, source: object_store::Error) -> Error {
    if source.to_string().contains(METADATA_SERVICE) {
        let text = format!(
            "no access_key is configured, there are no AWS_* variables, and the metadata service \
             of an EC2 machine gave no credentials: {source}"
        );
        return Error::new(op, key, Fault::Denied, text);
    }
    Error::from_store(op, key, source)
}

/// Best effort: what stays is invisible, and the bucket's lifecycle rule removes it.
async fn abort(upload: &mut dyn MultipartUpload, key: &str) {
    match timeout(ABORT_TIMEOUT, upload.abort()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(key, %error, "could not abort an upload in parts"),
        Err(_) => tracing::debug!(key, "could not abort an upload in parts in time"),
    }
}

async fn read_part(file: &Arc<File>, offset: u64, len: u64) -> io::Result<Bytes> {
    let file = Arc::clone(file);
    blocking(move || {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

fn builder(settings: &S3) -> Result<AmazonS3Builder, SettingsError> {
    let S3 { bucket, endpoint, .. } = settings;
    let scheme = if settings.insecure { "http" } else { "https" };
    let amazon = endpoint.ends_with(".amazonaws.com") || endpoint.ends_with(".amazonaws.com.cn");
    let in_host = match settings.lookup {
        Lookup::Auto => amazon,
        Lookup::VirtualHosted => true,
        Lookup::Path => false,
    };
    let host = if in_host { format!("{bucket}.{endpoint}") } else { endpoint.clone() };
    let url = format!("{scheme}://{host}");
    let region = match settings.region.as_str() {
        "" => region_of(endpoint).unwrap_or("us-east-1"),
        region => region,
    };
    let retries = if settings.max_retries == 0 { RETRIES_DEFAULT } else { settings.max_retries };
    let builder = match &settings.credentials {
        Credentials::Ambient => AmazonS3Builder::from_env().with_skip_signature(false),
        Credentials::Keys { access_key, secret_key, session_token } => {
            let builder = AmazonS3Builder::new()
                .with_access_key_id(access_key)
                .with_secret_access_key(secret_key.reveal());
            match session_token {
                None => builder,
                Some(token) => builder.with_token(token.reveal()),
            }
        }
    };
    let builder = builder
        .with_bucket_name(bucket)
        .with_region(region)
        .with_config(AmazonS3ConfigKey::S3Endpoint, &url)
        .with_endpoint(&url)
        .with_allow_http(settings.insecure)
        .with_virtual_hosted_style_request(in_host)
        .with_unsigned_payload(false)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(5),
                base: 2.0,
            },
            max_retries: retries,
            retry_timeout: RETRY_TIMEOUT,
        })
        .with_http_connector(Connector::new(&settings.http)?);
    Ok(match &settings.sse {
        Sse::None => builder,
        Sse::S3 => builder.with_config("aws_server_side_encryption".parse()?, "AES256"),
        Sse::Kms { key_id } => builder.with_sse_kms_encryption(key_id),
        Sse::Customer { key_file } => {
            let path = key_file.clone();
            let key = fs::read(key_file).map_err(|source| SettingsError::File {
                key: "encryption_key",
                path,
                source,
            })?;
            if key.len() != 32 {
                let problem = format!("{} has {} bytes, not 32", key_file.display(), key.len());
                return Err(SettingsError::Bad { key: "encryption_key", problem });
            }
            builder.with_ssec_encryption(BASE64_STANDARD.encode(key))
        }
    })
}

/// The region in the name of an Amazon endpoint: `s3.eu-west-1.amazonaws.com`.
fn region_of(endpoint: &str) -> Option<&str> {
    let (host, _) = endpoint.split_once(".amazonaws.com")?;
    let region = host.rsplit('.').next()?;
    let region = region.strip_prefix("s3-").unwrap_or(region);
    (region.split('-').count() >= 3).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, objstore::parse};

    fn problem(change: impl FnOnce(&mut S3)) -> Option<String> {
        let yaml = "type: S3\nconfig: {bucket: b, endpoint: e, access_key: k, secret_key: s}";
        let Ok((config::Bucket::S3(mut settings), _)) = parse(yaml) else { panic!("settings") };
        change(&mut settings);
        Store::open(&settings).err().map(|e| e.to_string())
    }

    #[test]
    fn settings_are_checked_before_anything_is_sent() {
        assert_eq!(problem(|_| ()), None);
        for (problem, want) in [
            (problem(|s| s.bucket.clear()), "bucket setting `bucket`: is missing"),
            (problem(|s| s.endpoint.clear()), "bucket setting `endpoint`: is missing"),
            (problem(|s| s.endpoint = "http://x".into()), "without a scheme"),
            (problem(|s| s.part_size_bytes = 1), "must be 5 MiB or more"),
            (problem(|s| s.prefix = "a//b".into()), "bucket setting `prefix`"),
            (problem(|s| s.http.ca_file = Some("/nowhere".into())), "cannot read /nowhere"),
            (
                problem(|s| s.http.ca_file = Some("Cargo.toml".into())),
                "no certificate in Cargo.toml",
            ),
            (problem(|s| s.sse = Sse::Customer { key_file: "/nowhere".into() }), "encryption_key"),
            (problem(|s| s.sse = Sse::Customer { key_file: "Cargo.toml".into() }), "not 32"),
        ] {
            let got = problem.expect("a problem");
            assert!(got.contains(want), "{got}");
        }
    }

    #[test]
    fn the_region_is_read_from_an_amazon_endpoint() {
        for (endpoint, want) in [
            ("s3.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("s3-us-west-2.amazonaws.com", Some("us-west-2")),
            ("s3.dualstack.ap-south-1.amazonaws.com", Some("ap-south-1")),
            ("s3.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("s3.amazonaws.com", None),
            ("minio:9000", None),
        ] {
            assert_eq!(region_of(endpoint), want, "{endpoint}");
        }
    }
}
