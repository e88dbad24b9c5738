//! External labels: what tells the series of this receiver from those of others.
//!
//! They are not stored with a series but belong to the whole block, and are added when data
//! leaves: in StoreAPI answers, in `meta.json`, in query results. Three sources: the labels of the
//! command line, the tenant, and, if asked for, the shard. Their names win over a series' own.

use crate::model::{LabelError, Labels, Matcher, TenantId};

/// Where external labels come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    labels: Labels,
    tenant_label: String,
    shard_label: Option<String>,
}

impl External {
    /// `labels` of the command line, the name of the tenant's label, and the shard's if blocks of
    /// each shard shall differ by one. Refuses empty names and one name for two of them.
    pub fn new(
        labels: Labels,
        tenant_label: impl Into<String>,
        shard_label: Option<String>,
    ) -> Result<Self, LabelError> {
        let external = Self { labels, tenant_label: tenant_label.into(), shard_label };
        let flags = external.labels.iter().map(|(name, _)| (name, "x"));
        Labels::new(flags.chain(external.own_names().map(|name| (name, "x"))))?;
        Ok(external)
    }

    /// The labels of the command line alone: what there is to say before there is a tenant.
    pub fn flags(&self) -> &Labels {
        &self.labels
    }

    /// The external labels of one tenant's data on one shard.
    pub fn of(&self, tenant: &TenantId, shard: u16) -> Labels {
        let values = [tenant.as_str().to_string(), shard.to_string()];
        let flags = self.labels.iter().map(|(name, value)| (name, value.to_string()));
        let Ok(labels) = Labels::new(flags.chain(self.own_names().zip(values))) else {
            unreachable!("the names were checked when this was made")
        };
        labels
    }

    /// The shard that external labels made by [`Self::of`] are of; `None` if they do not tell.
    pub fn shard_in(&self, labels: &Labels) -> Option<u16> {
        labels.get(self.shard_label.as_deref()?)?.parse().ok()
    }

    /// Parts the matchers on names of external labels, first, from the rest. The first ones are
    /// tested against [`Self::of`], the rest against the series.
    pub fn split(&self, matchers: &[Matcher]) -> (Vec<Matcher>, Vec<Matcher>) {
        let external = |matcher: &&Matcher| {
            let name = matcher.name();
            self.own_names().any(|own| own == name) || self.labels.get(name).is_some()
        };
        let (external, rest): (Vec<&Matcher>, _) = matchers.iter().partition(external);
        let owned = |part: Vec<&Matcher>| part.into_iter().cloned().collect();
        (owned(external), owned(rest))
    }

    /// The names whose values are ours to give: the tenant's, then the shard's.
    fn own_names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.tenant_label.as_str()).chain(self.shard_label.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MatchOp;

    fn external(shard: Option<&str>) -> External {
        let labels = Labels::new([("cluster", "eu"), ("replica", "0")]).expect("labels");
        External::new(labels, "tenant_id", shard.map(String::from)).expect("external labels")
    }

    #[test]
    fn every_tenant_and_shard_has_its_labels() {
        let tenant = TenantId::new("team-a").expect("a tenant");
        let set = |pairs: &[(&str, &str)]| Labels::new(pairs.iter().copied()).expect("labels");
        let plain = [("cluster", "eu"), ("replica", "0"), ("tenant_id", "team-a")];
        assert_eq!(external(None).of(&tenant, 3), set(&plain));
        let with_shard = [&plain[..], &[("shard", "3")]].concat();
        assert_eq!(external(Some("shard")).of(&tenant, 3), set(&with_shard));
        assert_eq!(external(Some("shard")).shard_in(&set(&with_shard)), Some(3));
        assert_eq!(external(Some("shard")).shard_in(&set(&plain)), None);
        assert_eq!(external(None).shard_in(&set(&with_shard)), None);
    }

    #[test]
    fn one_name_cannot_hold_two_values() {
        let labels = Labels::new([("tenant_id", "x")]).expect("labels");
        let twice = LabelError::DuplicateName { name: "tenant_id".into() };
        assert_eq!(External::new(labels, "tenant_id", None), Err(twice.clone()));
        let both = External::new(Labels::default(), "tenant_id", Some("tenant_id".into()));
        assert_eq!(both, Err(twice));
        let empty = External::new(Labels::default(), "", None);
        assert_eq!(empty, Err(LabelError::EmptyName { value: "x".into() }));
    }

    #[test]
    fn matchers_part_by_name() {
        let matcher = |name| Matcher::new(MatchOp::NotEqual, name, "x").expect("a matcher");
        let all = ["job", "replica", "shard", "tenant_id", "cluster"].map(matcher);
        let names = |part: &[Matcher]| {
            part.iter().map(|m| m.name().to_string()).collect::<Vec<_>>().join(" ")
        };
        let (first, rest) = external(Some("shard")).split(&all);
        assert_eq!(names(&first), "replica shard tenant_id cluster");
        assert_eq!(names(&rest), "job");
        let (first, rest) = external(None).split(&all);
        assert_eq!(names(&first), "replica tenant_id cluster");
        assert_eq!(names(&rest), "job shard");
    }
}
