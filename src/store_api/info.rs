//! `thanos.info.Info`: who we are and what we have.

use tidegate_proto::thanos;
use tidegate_proto::thanos_info::info_server;
use tidegate_proto::thanos_info::{InfoRequest, InfoResponse, StoreInfo, TsdbInfo};
use tonic::{Request, Response, Status};

use crate::model::Labels;
use crate::query::{TenantInfo, View};

/// What Tidegate says it is: a Querier shows and treats it as a Thanos Receive.
pub(super) const COMPONENT_TYPE: &str = "receive";

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Info {
    view: View,
}

impl Info {
    pub(super) fn new(view: View) -> Self {
        Self { view }
    }
}

#[tonic::async_trait]
impl info_server::Info for Info {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        self.view.ready().map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(Response::new(response(&self.view.info(), self.view.external().flags())))
    }
}

/// The message. Times go up to the end of time, as in Thanos Receive: heads grow after they were
/// asked. A tenant without samples yet has all of time, and so has the store without tenants, which
/// shows the labels from flags so that a Querier can still choose by them.
fn response(tenants: &[TenantInfo], flags: &Labels) -> InfoResponse {
    let min_of = |tenant: &TenantInfo| match tenant.min_t {
        i64::MAX => i64::MIN,
        min_t => min_t,
    };
    let known = |tenant: &TenantInfo| TsdbInfo {
        labels: Some(label_set(&tenant.labels)),
        min_time: min_of(tenant),
        max_time: i64::MAX,
    };
    let label_sets = match tenants {
        [] => vec![label_set(flags)],
        _ => tenants.iter().map(|tenant| label_set(&tenant.labels)).collect(),
    };
    InfoResponse {
        label_sets,
        component_type: COMPONENT_TYPE.into(),
        store: Some(StoreInfo {
            min_time: tenants.iter().map(min_of).min().unwrap_or(i64::MIN),
            max_time: i64::MAX,
            supports_sharding: true,
            supports_without_replica_labels: true,
            tsdb_infos: tenants.iter().map(known).collect(),
            supports_projections: false,
        }),
        ..InfoResponse::default()
    }
}

fn label_set(labels: &Labels) -> thanos::ZLabelSet {
    let label =
        |(name, value): (&str, &str)| thanos::Label { name: name.into(), value: value.into() };
    thanos::ZLabelSet { labels: labels.iter().map(label).collect() }
}
