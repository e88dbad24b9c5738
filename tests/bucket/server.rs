//! A real S3 server on loopback, and the troubles of a network and a busy store before it.
//!
//! The server is s3s over a directory, and checks signatures. A [`Rule`] strikes each k-th request
//! of a kind, an [`Outage`] all of them; the journal says what the server has carried out.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tidegate::rt::control;
use tidegate::rt::thread::spawn_named;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

pub(crate) const ACCESS_KEY: &str = "AKIATIDEGATE";
pub(crate) const SECRET_KEY: &str = "a secret between two";

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Begin,
    Part,
    Complete,
    Abort,
    Head,
    Get,
    List,
    Delete,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answered with this status, not carried out.
    Status(u16),
    /// The connection closes at once.
    Closed,
    /// The connection closes after a part of the request's body.
    ClosedMidRequest,
    /// Carried out; the reply never comes.
    ReplyLost,
    /// Carried out; the reply breaks off half-way.
    ReplyTruncated,
    /// Carried out late.
    Slow(Duration),
    /// Not carried out; status 200 with an error in the body, as S3 does on completion.
    ErrorInside200,
    /// A HEAD that tells another size.
    WrongSize,
}

/// Strikes each `every`-th request of a kind, at most `times` times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) kind: Kind,
    pub(crate) every: u64,
    pub(crate) times: u64,
    pub(crate) fault: Fault,
}

/// What happens to all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Outage {
    /// They are carried out.
    #[default]
    None,
    /// Connections are taken and closed unanswered.
    Closes,
    /// Nobody listens.
    Refuses,
    /// Each is answered with this status.
    Answers(u16),
    /// None is answered until the outage is over, and then they are closed.
    Hangs,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<(Rule, u64, u64)>>,
    journal: Mutex<Vec<(Kind, String)>>,
    outage: watch::Sender<Outage>,
    struck: AtomicU64,
}

pub(crate) struct Server {
    address: SocketAddr,
    root: TempDir,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server with a bucket `blocks`.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same behind TLS, as `bucket.test`, with a certificate by `tls/authority.pem`.
    pub(crate) async fn start_tls() -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bucket/tls");
        let certificate = CertificateDer::from_pem_file(dir.join("server.pem"));
        let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.expect("a certificate")], key)
            .expect("a configuration");
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join("blocks")).expect("a bucket");
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root.path()).expect("a server"));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(serve(listener, tls, service, Arc::clone(&shared)));
        Self { address, root, shared, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory of the bucket.
    pub(crate) fn files(&self) -> std::path::PathBuf {
        self.root.path().join("blocks")
    }

    pub(crate) async fn strike(&self, kind: Kind, every: u64, times: u64, fault: Fault) {
        let rule = Rule { kind, every, times, fault };
        self.shared.rules.lock().await.push((rule, 0, 0));
    }

    /// Begins an outage, or ends it.
    pub(crate) fn set(&self, outage: Outage) {
        self.shared.outage.send_replace(outage);
    }

    /// How many requests were struck.
    pub(crate) fn struck(&self) -> u64 {
        self.shared.struck.load(Relaxed)
    }

    /// What was carried out, in order: kind and path.
    pub(crate) async fn journal(&self) -> Vec<(Kind, String)> {
        self.shared.journal.lock().await.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server with a runtime on a thread of its own, for tests that have none.
pub(crate) struct Beside {
    server: Option<Arc<Server>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Beside {
    pub(crate) fn start() -> Self {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = spawn_named("s3-server", move || {
            control::run(async {
                tell.send(Arc::new(Server::start().await)).expect("who started it");
                stopped.await.ok();
            })
            .expect("a runtime");
        });
        let thread = thread.expect("a thread");
        let server = told.recv().expect("a server");
        Self { server: Some(server), stop: Some(stop), thread: Some(thread) }
    }

    /// The program's settings for it. A server that hangs is waited for longer than a test lets it
    /// hang.
    pub(crate) fn config(&self, prefix: &str) -> String {
        format!(
            "{{type: S3, prefix: '{prefix}', config: {{bucket: blocks, endpoint: '{}', \
             insecure: true, access_key: {ACCESS_KEY}, secret_key: {SECRET_KEY}, \
             max_retries: 1, http_config: {{response_header_timeout: 5s}}}}}}",
            self.address()
        )
    }

    /// What was carried out, in order: kind and path.
    pub(crate) fn journal(&self) -> Vec<(Kind, String)> {
        futures_lite::future::block_on(Server::journal(self))
    }
}

impl std::ops::Deref for Beside {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.server.take());
        drop(self.stop.take());
        self.thread.take().map(|thread| thread.join().ok());
    }
}

async fn serve(
    mut listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: S3Service,
    shared: Arc<Shared>,
) {
    let mut outage = shared.outage.subscribe();
    loop {
        if *outage.borrow_and_update() == Outage::Refuses {
            listener = reopened(listener, &mut outage).await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = outage.changed() => continue,
        };
        let Ok((socket, _)) = accepted else { continue };
        let (tls, service, shared) = (tls.clone(), service.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            match tls {
                None => serve_connection(socket, service, shared).await,
                Some(tls) => match tls.accept(socket).await {
                    Ok(socket) => serve_connection(socket, service, shared).await,
                    Err(refused) => println!("TLS: {refused}"),
                },
            }
        });
    }
}

/// Listens no more, and again at the same address when the outage is over. Meanwhile the address
/// is held, so that nobody else gets it.
async fn reopened(listener: TcpListener, outage: &mut watch::Receiver<Outage>) -> TcpListener {
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(address).expect("our address");
    outage.wait_for(|outage| *outage != Outage::Refuses).await.expect("the server lives");
    socket.listen(1024).expect("our address")
}

async fn serve_connection(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    service: S3Service,
    shared: Arc<Shared>,
) {
    let answer = service_fn(move |request| {
        let (service, shared) = (service.clone(), Arc::clone(&shared));
        async move { answer(request, &service, &shared).await }
    });
    // An error here is a fault we made or a client that left.
    drop(http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await);
}

async fn answer(
    mut request: Request<Incoming>,
    service: &S3Service,
    shared: &Shared,
) -> Result<Response<Body>, io::Error> {
    let broken = |text: &str| io::Error::other(text.to_owned());
    let mut outage = shared.outage.subscribe();
    let now = *outage.borrow_and_update();
    match now {
        Outage::None => {}
        Outage::Answers(status) => return answered(request, status).await,
        Outage::Closes | Outage::Refuses => return Err(broken("down")),
        Outage::Hangs => {
            outage.changed().await.ok();
            return Err(broken("down"));
        }
    }
    let kind = kind_of(&request);
    let fault = fault_for(kind, shared).await;
    match fault {
        Some(Fault::Closed) => return Err(broken("closed")),
        Some(Fault::ClosedMidRequest) => {
            drop(request.body_mut().frame().await);
            return Err(broken("closed"));
        }
        Some(Fault::Status(status)) => return answered(request, status).await,
        Some(Fault::ErrorInside200) => {
            drop(request.into_body().collect().await);
            let xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InternalError\
                       </Code><Message>We encountered an internal error.</Message></Error>";
            return Ok(Response::new(full(xml.into())));
        }
        Some(Fault::Slow(pause)) => sleep(pause).await,
        _ => {}
    }
    let path = request.uri().path().to_owned();
    let response = service.call(request.map(s3s::Body::from)).await;
    let response = response.map_err(|e| broken(&format!("{e:?}")))?;
    if response.status().is_success() {
        shared.journal.lock().await.push((kind, path));
    }
    match fault {
        Some(Fault::ReplyLost) => Err(broken("reply lost")),
        Some(Fault::ReplyTruncated) => truncated(response).await,
        Some(Fault::WrongSize) => {
            let (mut parts, body) = response.into_parts();
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("7"));
            Ok(Response::from_parts(parts, any(body)))
        }
        _ => Ok(response.map(any)),
    }
}

async fn answered(request: Request<Incoming>, status: u16) -> Result<Response<Body>, io::Error> {
    drop(request.into_body().collect().await);
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
    Ok(response)
}

async fn truncated(response: Response<s3s::Body>) -> Result<Response<Body>, io::Error> {
    let (mut parts, body) = response.into_parts();
    let bytes = any(body).collect().await?.to_bytes();
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len().max(1)));
    let half = bytes.slice(..bytes.len() / 2);
    let broken = io::Error::other("truncated");
    let frames = [Ok(Frame::data(half)), Err(broken)];
    let body = StreamBody::new(futures_lite::stream::iter(frames)).boxed_unsync();
    Ok(Response::from_parts(parts, body))
}

fn any(body: s3s::Body) -> Body {
    body.map_err(|e| io::Error::other(e.to_string())).boxed_unsync()
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn kind_of(request: &Request<Incoming>) -> Kind {
    let query = request.uri().query().unwrap_or_default();
    let has = |key: &str| query.split('&').any(|pair| pair.split('=').next() == Some(key));
    match *request.method() {
        Method::PUT if has("partNumber") => Kind::Part,
        Method::PUT => Kind::Put,
        Method::POST if has("uploads") => Kind::Begin,
        Method::POST if has("delete") => Kind::Delete,
        Method::POST => Kind::Complete,
        Method::HEAD => Kind::Head,
        Method::DELETE if has("uploadId") => Kind::Abort,
        Method::DELETE => Kind::Delete,
        _ if has("list-type") => Kind::List,
        _ => Kind::Get,
    }
}

async fn fault_for(kind: Kind, shared: &Shared) -> Option<Fault> {
    for (rule, seen, struck) in shared.rules.lock().await.iter_mut() {
        if rule.kind != kind {
            continue;
        }
        *seen += 1;
        if *struck < rule.times && *seen % rule.every == 0 {
            *struck += 1;
            shared.struck.fetch_add(1, Relaxed);
            return Some(rule.fault);
        }
    }
    None
}
