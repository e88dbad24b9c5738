//! What each tenant may write: Thanos' limits file, read strictly.
//!
//! ```yaml
//! write:
//!   default:
//!     request: { size_bytes_limit: 0, series_limit: 0, samples_limit: 0 }
//!     head_series_limit: 1000000
//!   tenants:
//!     batcave:
//!       head_series_limit: 5000000
//! ```
//!
//! 0 or less is no limit. A tenant has the default's for what it does not say. `write.global` is
//! about the receiver as a whole and its meta-monitoring, which is not needed: series are counted
//! here. Its keys are accepted and named at start as doing nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;

use crate::model::{TenantError, TenantId};

/// What one tenant may write; none for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TenantLimits {
    /// `request.size_bytes_limit`: bytes of a request, as it comes and decoded.
    pub request_bytes_max: Option<u64>,
    /// `request.series_limit`: series of a request.
    pub request_series_max: Option<u64>,
    /// `request.samples_limit`: samples and histograms of a request.
    pub request_samples_max: Option<u64>,
    /// `head_series_limit`: series in the heads.
    pub head_series_max: Option<u64>,
}

impl fmt::Display for TenantLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.request_bytes_max, "bytes a request"),
            (self.request_series_max, "series a request"),
            (self.request_samples_max, "samples a request"),
            (self.head_series_max, "series in memory"),
        ];
        let mut said = all.iter().filter_map(|(limit, what)| limit.map(|limit| (limit, what)));
        let Some((limit, what)) = said.next() else { return f.write_str("no limits") };
        write!(f, "{limit} {what}")?;
        said.try_for_each(|(limit, what)| write!(f, ", {limit} {what}"))
    }
}

/// What all tenants may write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitsTable {
    default: TenantLimits,
    tenants: BTreeMap<TenantId, TenantLimits>,
}

impl LimitsTable {
    /// What a tenant may write.
    pub fn of(&self, tenant: &TenantId) -> TenantLimits {
        self.tenants.get(tenant).copied().unwrap_or(self.default)
    }

    /// What those may write that are not named.
    pub fn default_limits(&self) -> TenantLimits {
        self.default
    }

    /// Those that are named, and what they may write.
    pub fn tenants(&self) -> impl Iterator<Item = (&TenantId, TenantLimits)> {
        self.tenants.iter().map(|(tenant, limits)| (tenant, *limits))
    }
}

/// Why a limits file cannot be used.
#[derive(Debug, Error)]
pub enum TenantLimitsError {
    /// There is nothing in it, as while a file is being written.
    #[error("it is empty; \"write: {{}}\" lifts all limits")]
    Empty,
    /// It is no YAML, or not of this form.
    #[error("{0}")]
    Yaml(String),
    /// A key below `write.tenants` is no tenant.
    #[error("write.tenants: {name:?} is no tenant: {source}")]
    Tenant {
        /// The key.
        name: String,
        /// Why.
        source: TenantError,
    },
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    write: Option<WriteSection>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct WriteSection {
    global: Option<Global>,
    default: Option<Said>,
    tenants: Option<BTreeMap<String, Option<Said>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Global {
    max_concurrency: Option<IgnoredAny>,
    meta_monitoring_url: Option<IgnoredAny>,
    meta_monitoring_http_client: Option<IgnoredAny>,
    meta_monitoring_limit_query: Option<IgnoredAny>,
}

impl Global {
    fn is_said(&self) -> bool {
        let all = [
            &self.max_concurrency,
            &self.meta_monitoring_url,
            &self.meta_monitoring_http_client,
            &self.meta_monitoring_limit_query,
        ];
        all.into_iter().any(Option::is_some)
    }
}

/// What is said of a tenant, or of the default.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Said {
    request: Option<RequestSection>,
    head_series_limit: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RequestSection {
    size_bytes_limit: Option<i64>,
    series_limit: Option<i64>,
    samples_limit: Option<i64>,
}

impl Said {
    fn over(&self, default: TenantLimits) -> TenantLimits {
        let or = |said: Option<i64>, default| match said {
            None => default,
            Some(limit) => u64::try_from(limit).ok().filter(|&limit| limit > 0),
        };
        let nothing = RequestSection::default();
        let request = self.request.as_ref().unwrap_or(&nothing);
        TenantLimits {
            request_bytes_max: or(request.size_bytes_limit, default.request_bytes_max),
            request_series_max: or(request.series_limit, default.request_series_max),
            request_samples_max: or(request.samples_limit, default.request_samples_max),
            head_series_max: or(self.head_series_limit, default.head_series_max),
        }
    }
}

/// Reads a limits file; with notes on what does nothing here.
pub fn parse(yaml: &str) -> Result<(LimitsTable, Vec<String>), TenantLimitsError> {
    if yaml.trim().is_empty() {
        return Err(TenantLimitsError::Empty);
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let file: File = serde_saphyr::from_str_with_options(yaml, options)
        .map_err(|error| TenantLimitsError::Yaml(error.to_string()))?;
    let WriteSection { global, default, tenants } = file.write.unwrap_or_default();
    let default = default.unwrap_or_default().over(TenantLimits::default());
    let mut named = BTreeMap::new();
    for (name, said) in tenants.unwrap_or_default() {
        let limits = said.unwrap_or_default().over(default);
        let tenant = TenantId::new(&name)
            .map_err(|source| TenantLimitsError::Tenant { name: name.clone(), source })?;
        named.insert(tenant, limits);
    }
    let note = "write.global does nothing here: series are counted in the process, and requests \
                at once are bounded by their bytes";
    let notes = if global.is_some_and(|global| global.is_said()) {
        vec![note.to_owned()]
    } else {
        Vec::new()
    };
    Ok((LimitsTable { default, tenants: named }, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("a tenant")
    }

    /// The example of Thanos' documentation, with the names it has there.
    #[test]
    fn thanos_example_is_read() {
        let yaml = "
write:
  global:
    max_concurrency: 30
    meta_monitoring_url: \"http://localhost:9090\"
    meta_monitoring_limit_query: \"sum(prometheus_tsdb_head_series) by (tenant)\"
  default:
    request:
      size_bytes_limit: 1024
      series_limit: 1000
      samples_limit: 10
    head_series_limit: 1000
  tenants:
    acme:
      request:
        size_bytes_limit: 0
        series_limit: 0
        samples_limit: 0
      head_series_limit: 1000
    ajax:
      request:
        series_limit: 50000
        samples_limit: 500
";
        let (table, notes) = parse(yaml).expect("a limits file");
        assert_eq!(notes.len(), 1, "{notes:?}");
        let default = TenantLimits {
            request_bytes_max: Some(1024),
            request_series_max: Some(1000),
            request_samples_max: Some(10),
            head_series_max: Some(1000),
        };
        assert_eq!(table.of(&tenant("other")), default);
        let none = TenantLimits { head_series_max: Some(1000), ..TenantLimits::default() };
        assert_eq!(table.of(&tenant("acme")), none);
        let ajax = TenantLimits {
            request_series_max: Some(50_000),
            request_samples_max: Some(500),
            ..default
        };
        assert_eq!(table.of(&tenant("ajax")), ajax);
        assert_eq!(table.tenants().count(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for nothing in ["write: {}", "write:", "write: {default: , tenants: {a: }, global: }"] {
            let (table, notes) = parse(nothing).expect(nothing);
            assert_eq!((table.of(&tenant("a")), notes.len()), (TenantLimits::default(), 0));
        }
        let (table, _) =
            parse("write: {default: {head_series_limit: -1, request: }}").expect("none");
        assert_eq!(table.default_limits(), TenantLimits::default());
        for (yaml, says) in [
            ("wirte: {}", "wirte"),
            ("write: {default: {head_series_limt: 3}}", "head_series_limt"),
            (" \n", "lifts all limits"),
            ("write: {default: {head_series_limit: many}}", "line 1, column 38"),
            ("write: {tenants: {'..': {}}}", "\"..\" is no tenant"),
            ("write: {tenants: {a: {}, a: {}}}", "duplicate"),
            ("write: {global: {max_concurency: 3}}", "max_concurency"),
            ("write: [", ""),
        ] {
            let error = parse(yaml).expect_err(yaml).to_string();
            assert!(error.contains(says), "{yaml}: {error}");
            assert!(!error.contains('\n'), "{yaml}: {error}");
        }
    }
}
