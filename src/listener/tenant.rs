//! Whose request it is: header -> tenant.
//!
//! As in Thanos Receive: the configured header, else `THANOS-TENANT`, else the default tenant; an
//! empty value counts as missing. Stricter than Thanos in two ways: a name must be a [`TenantId`],
//! and a header that occurs twice is refused, because two readers could take different ones.

use crate::listener::http::{Fault, Head};
use crate::listener::refusal::Refusal;
use crate::model::{TenantError, TenantId};

/// Thanos' own header, always looked at.
pub const THANOS_TENANT: &str = "THANOS-TENANT";

/// Where the tenant's name comes from.
#[derive(Debug, Clone)]
pub struct TenantSource {
    /// The first header looked at (`--receive.tenant-header`).
    pub header: String,
    /// The tenant of requests that name none (`--receive.default-tenant-id`).
    pub default: TenantId,
}

impl TenantSource {
    /// The tenant of a request.
    pub(crate) fn resolve(&self, head: &Head<'_>) -> Result<TenantId, Refusal> {
        for header in [self.header.as_str(), THANOS_TENANT] {
            let value = single(head, header)?.unwrap_or_default();
            if !value.is_empty() {
                return parse(value)
                    .map_err(|error| Refusal::Tenant { header: header.to_owned(), error });
            }
        }
        Ok(self.default.clone())
    }
}

/// A header that must be single, in the words of a refusal that leaves the connection alive: the
/// framing of the request is not in doubt.
pub(crate) fn single<'a>(head: &Head<'a>, name: &str) -> Result<Option<&'a [u8]>, Refusal> {
    head.header(name).map_err(|fault| match fault {
        Fault::HeaderTwice { name } => Refusal::HeaderTwice { name },
        other => Refusal::Http(other),
    })
}

fn parse(value: &[u8]) -> Result<TenantId, TenantError> {
    TenantId::new(std::str::from_utf8(value).map_err(|_| TenantError::NotUtf8)?)
}
