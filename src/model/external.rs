//! External labels: the labels of a whole store, not of a series.
//!
//! Every series, block and `Info` answer of a tenant carries them. They tell a Querier which store
//! data came from, and matchers on them choose stores, not series.

use super::{Labels, Matcher, TenantId};

/// What makes the external labels: those from flags, and the names under which the tenant and (if
/// wanted) the shard appear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// The labels from flags.
    pub labels: Labels,
    /// Name of the label that holds the tenant.
    pub tenant_label: String,
    /// Name of the label that holds the shard's number; none by default.
    pub shard_label: Option<String>,
}

impl External {
    /// The external labels of a tenant's data in one shard. Tenant and shard win over flags.
    pub fn of(&self, tenant: &TenantId, shard: u16) -> Labels {
        let shard_text = shard.to_string();
        let mut pairs: Vec<(&str, &str)> = vec![(&self.tenant_label, tenant.as_str())];
        if let Some(name) = self.shard_label.as_deref().filter(|n| *n != self.tenant_label) {
            pairs.push((name, &shard_text));
        }
        // The names are checked at start: not empty, and there are at most two different ones.
        let own = Labels::new(pairs).unwrap_or_default();
        self.labels.overlaid(&own)
    }

    /// Splits matchers into those on external names, which choose stores, and the rest, which
    /// choose series.
    pub fn split(&self, matchers: &[Matcher]) -> (Vec<Matcher>, Vec<Matcher>) {
        matchers.iter().cloned().partition(|m| self.has(m.name()))
    }

    /// Whether `name` is the name of an external label.
    fn has(&self, name: &str) -> bool {
        self.labels.get(name).is_some()
            || self.tenant_label == name
            || self.shard_label.as_deref() == Some(name)
    }
}
