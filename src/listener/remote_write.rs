//! Remote write over the data port: the service behind the connections.
//!
//! In this order, all before the body is read: path, method, tenant, content type and encoding,
//! and last the intake's own word: is there room for a body of this length. What the intake makes
//! of the body becomes an answer by the table of `listener::answer`.

use std::future::Future;

use crate::listener::answer::{Answer, Endpoint, Outcome, Reply, Version};
use crate::listener::conn::Service;
use crate::listener::http::Head;
use crate::listener::negotiate::negotiate;
use crate::listener::pool::Body;
use crate::listener::refusal::Refusal;
use crate::listener::requests::{Asked, InFlight, Kind, Requests};
use crate::listener::retry::Pauses;
use crate::listener::tenant::{TenantSource, single};
use crate::model::TenantId;
use crate::rt::clock::Moment;

/// What takes the bodies: decodes, routes, waits until all is durable.
pub trait Intake {
    /// Decides before the body is read: not ready, overloaded, or longer than the tenant may send.
    fn admit(&self, tenant: &TenantId, length: Option<u64>) -> Result<(), Refusal>;

    /// Stores a body. Returns only when all that counts as written is durable. The body's buffer
    /// is free again when `body` is dropped, which should be before the wait for the log.
    fn write(
        &self,
        tenant: TenantId,
        version: Version,
        body: Body<'_>,
    ) -> impl Future<Output = Outcome>;
}

/// Remote write as a [`Service`].
#[derive(Debug)]
pub struct RemoteWrite<I> {
    intake: I,
    tenants: TenantSource,
    pauses: Pauses,
    requests: Requests,
}

/// An admitted request.
#[derive(Debug)]
pub struct Admission {
    tenant: TenantId,
    version: Version,
    in_flight: InFlight,
}

impl<I: Intake> RemoteWrite<I> {
    /// A service over an intake.
    pub fn new(intake: I, tenants: TenantSource, pauses: Pauses) -> Self {
        Self { intake, tenants, pauses, requests: Requests::default() }
    }

    /// The counters.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    fn decide(&self, head: &Head<'_>) -> Result<Admission, Refusal> {
        endpoint_of(head.path).ok_or(Refusal::PathUnknown)?;
        if head.method != "POST" {
            return Err(Refusal::MethodNotAllowed);
        }
        let tenant = self.tenants.resolve(head)?;
        let version = version_of(head)?;
        self.intake.admit(&tenant, head.content_length())?;
        let in_flight = self.requests.begin(&tenant);
        Ok(Admission { tenant, version, in_flight })
    }

    fn reply(&self, head: Option<&Head<'_>>) -> Reply {
        Reply {
            version: head.and_then(|h| version_of(h).ok()),
            endpoint: head.and_then(|h| endpoint_of(h.path)),
            pause_s: self.pauses.pause_s(head.map_or(0, Head::retry_attempt)),
        }
    }
}

impl<I: Intake> Service for RemoteWrite<I> {
    type Admission = Admission;

    fn admit(&self, head: &Head<'_>) -> Result<Self::Admission, Refusal> {
        self.decide(head)
    }

    async fn call(
        &self,
        head: &Head<'_>,
        begun: Moment,
        admission: Self::Admission,
        body: Body<'_>,
    ) -> Answer {
        let Admission { tenant, version, in_flight } = admission;
        let body_bytes = body.len() as u64;
        let outcome = self.intake.write(tenant.clone(), version, body).await;
        drop(in_flight);
        let reply = Reply { version: Some(version), ..self.reply(Some(head)) };
        let answer = Answer::of(&outcome, reply);
        let tally = match &outcome {
            Outcome::Applied(tally) => Some(tally),
            Outcome::Refused(_) => None,
        };
        let kind = Kind::of(head, endpoint_of(head.path));
        let tenant = Some(tenant);
        let asked = Asked { tenant, kind, body_bytes, took: begun.elapsed(), tally };
        self.requests.answered(asked, &answer);
        answer
    }

    fn refuse(&self, head: Option<&Head<'_>>, begun: Moment, refusal: &Refusal) -> Answer {
        let answer = Answer::refused(refusal, self.reply(head));
        let asked = Asked {
            tenant: head.and_then(|head| self.tenants.resolve(head).ok()),
            kind: head.map_or(Kind::NONE, |head| Kind::of(head, endpoint_of(head.path))),
            body_bytes: head.and_then(Head::content_length).unwrap_or(0),
            took: begun.elapsed(),
            tally: None,
        };
        self.requests.answered(asked, &answer);
        answer
    }
}

/// Paths are compared byte by byte: nothing is decoded, no slash is added or removed.
fn endpoint_of(path: &str) -> Option<Endpoint> {
    match path {
        "/api/v1/receive" => Some(Endpoint::Receive),
        "/api/v1/write" => Some(Endpoint::Write),
        _ => None,
    }
}

fn version_of(head: &Head<'_>) -> Result<Version, Refusal> {
    negotiate(single(head, "Content-Type")?, single(head, "Content-Encoding")?)
}
