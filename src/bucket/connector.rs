//! The HTTP client under `object_store`: hyper and rustls with ring, no more.
//!
//! ## Limits
//! No wait is without end: a connection has [`CONNECT_TIMEOUT`]; a request must be sent at
//! [`SEND_BYTES_PER_SECOND_MIN`] or faster and be answered within `response_header_timeout`; a
//! body must go on within [`STALL_TIMEOUT`].
//!
//! ## Why
//! `object_store` brings reqwest by default, and with it a second TLS library. Its retries need
//! to know whether a failed request may be repeated, so errors are sorted here as it does for
//! reqwest.

use std::error::Error;
use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{ConfigBuilderExt, FixedServerNameResolver, HttpsConnector};
use hyper_util::client::legacy::{Client, connect};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::time::{Sleep, sleep, timeout};

use crate::bucket::error::SettingsError;
use crate::config::objstore::Http;

/// Longest time to a TCP connection, per address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Slowest link that is still worth an upload.
const SEND_BYTES_PER_SECOND_MIN: u64 = 256 << 10;
/// Longest pause inside a response.
const STALL_TIMEOUT: Duration = Duration::from_mins(1);

/// Makes HTTP clients of one configuration.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    tls: ClientConfig,
    http: Http,
}

impl Connector {
    /// Reads certificates and keys.
    pub(super) fn new(http: &Http) -> Result<Self, SettingsError> {
        Ok(Self { tls: tls(http)?, http: http.clone() })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut tcp = connect::HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let builder = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(self.tls.clone())
            .https_or_http();
        let https = if self.http.server_name.is_empty() {
            builder.enable_http1().wrap_connector(tcp)
        } else {
            let name = ServerName::try_from(self.http.server_name.clone())
                .map_err(|e| object_store::Error::Generic { store: "S3", source: Box::new(e) })?;
            let resolver = FixedServerNameResolver::new(name);
            builder.with_server_name_resolver(resolver).enable_http1().wrap_connector(tcp)
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.http.idle_conn_timeout)
            .pool_max_idle_per_host(self.http.max_idle_conns_per_host)
            .build(https);
        let header_timeout = self.http.response_header_timeout;
        Ok(HttpClient::new(Service { client, header_timeout }))
    }
}

type HttpsClient = Client<HttpsConnector<connect::HttpConnector>, HttpRequestBody>;

#[derive(Debug)]
struct Service {
    client: HttpsClient,
    header_timeout: Duration,
}

impl HttpService for Service {
    // Spelled as the crate's `async_trait` expands it, to do without that macro here.
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let body_bytes = request.body().content_length() as u64;
            let to_send = Duration::from_secs(body_bytes / SEND_BYTES_PER_SECOND_MIN);
            let response = timeout(self.header_timeout + to_send, self.client.request(request))
                .await
                .map_err(|e| HttpError::new(HttpErrorKind::Timeout, e))?
                .map_err(sorted)?;
            Ok(response.map(|body| HttpResponseBody::new(Steady::new(body))))
        })
    }
}

/// Tells `object_store` which failures it may repeat the request after.
fn sorted(error: hyper_util::client::legacy::Error) -> HttpError {
    let mut kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Unknown };
    let mut below = error.source();
    while let (HttpErrorKind::Unknown, Some(error)) = (kind, below) {
        kind = kind_of(error);
        below = error.source();
    }
    HttpError::new(kind, error)
}

fn kind_of(error: &(dyn Error + 'static)) -> HttpErrorKind {
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        if error.is_closed() || error.is_incomplete_message() || error.is_body_write_aborted() {
            return HttpErrorKind::Request;
        }
        if error.is_timeout() {
            return HttpErrorKind::Timeout;
        }
    }
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::TimedOut) => HttpErrorKind::Timeout,
        Some(
            io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof,
        ) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    }
}

/// A response body that must not pause for longer than [`STALL_TIMEOUT`].
struct Steady {
    body: Incoming,
    patience: Pin<Box<Sleep>>,
}

impl Steady {
    fn new(body: Incoming) -> Self {
        Self { body, patience: Box::pin(sleep(STALL_TIMEOUT)) }
    }
}

impl Body for Steady {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.patience = Box::pin(sleep(STALL_TIMEOUT));
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|e| {
                        let kind = kind_of(&e);
                        HttpError::new(kind, e)
                    })
                }))
            }
            Poll::Pending => match self.patience.as_mut().poll(cx) {
                Poll::Ready(()) => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, "the response stalled");
                    Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, error))))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The system's certificates, or those of `ca_file` instead; those the crate carries on a
/// machine that has none.
fn tls(http: &Http) -> Result<ClientConfig, SettingsError> {
    let provider = Arc::new(crypto::ring::default_provider());
    let bad = |key: &'static str, e: &dyn Error| SettingsError::Bad { key, problem: e.to_string() };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("tls_config", &e))?;
    let builder = if http.insecure_skip_verify {
        let anyone = Arc::new(Anyone { provider });
        builder.dangerous().with_custom_certificate_verifier(anyone)
    } else if let Some(path) = &http.ca_file {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("tls_config.ca_file", path)? {
            roots.add(certificate).map_err(|e| bad("tls_config.ca_file", &e))?;
        }
        builder.with_root_certificates(roots)
    } else {
        match builder.clone().with_native_roots() {
            Ok(builder) => builder,
            Err(_) => builder.with_webpki_roots(),
        }
    };
    match &http.client_cert {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates("tls_config.cert_file", certificate)?;
            let pem = read("tls_config.key_file", key)?;
            let key =
                PrivateKeyDer::from_pem_slice(&pem).map_err(|e| bad("tls_config.key_file", &e))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| bad("tls_config.cert_file", &e))
        }
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, SettingsError> {
    fs::read(path).map_err(|source| SettingsError::File { key, path: path.to_owned(), source })
}

fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let pem = read(key, path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(SettingsError::Bad {
            key,
            problem: format!("no certificate in {}", path.display()),
        }),
        Err(e) => Err(SettingsError::Bad { key, problem: format!("{}: {e}", path.display()) }),
    }
}

/// `insecure_skip_verify`: takes any certificate. The signature is still checked, so at least
/// the peer holds the key of whatever it showed.
#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
