//! Label names and values of the series that match.
//!
//! A name or value that is known already is not looked for again: for names, series of a shape that
//! was seen are passed over; for values, series with a value that was seen. So the matchers look at
//! few series, and the walk is short for the usual question without matchers.
//!
//! External labels count only when a series matches, as in Thanos.

use std::collections::BTreeSet;

use crate::model::TimeSpan;
use crate::rt::storage::Storage;
use crate::shard::Shard;
use crate::shard::answer::{ASKED_STEPS, Chosen, SLICE_STEPS, Stop, Walk};
use crate::shard::budget::Account;
use crate::shard::head::read::{Column, Matching};
use crate::shard::head::{Head, SeriesIndex};
use crate::shard::message::LabelsAsk;

/// Steps of keeping a text.
const TEXT_STEPS: usize = 10;
/// What a text costs in memory beside its bytes.
const TEXT_BYTES: usize = 48;

impl<S: Storage> Shard<S> {
    /// Answers a question for names or values.
    pub(crate) async fn labels(&self, ask: LabelsAsk) {
        let answer = match self.texts(&ask).await {
            Ok(texts) => Ok(texts),
            Err(Stop::Failed(why)) => Err(why),
            Err(Stop::Unwanted) => return,
        };
        drop(ask.reply.send(answer));
    }

    async fn texts(&self, ask: &LabelsAsk) -> Result<BTreeSet<String>, Stop> {
        let removed = |name: &str| ask.without.iter().any(|without| without == name);
        if ask.of.as_deref().is_some_and(removed) {
            return Ok(BTreeSet::new());
        }
        let (on_external, rest) = ask.external.split(&ask.matchers);
        let unwanted = || ask.reply.is_closed();
        let reading = self.begin_reading();
        let tenants =
            self.choose(&reading, &ask.external, &on_external, ask.span, unwanted).await?;
        let mut gathering = Gathering {
            of: ask.of.as_deref().map(Column::new),
            matching: Matching::new(&rest),
            seen: Vec::new(),
            texts: BTreeSet::new(),
            account: self.budget.account(),
        };
        for tenant in &tenants {
            let Some(span) = tenant.span else { continue };
            let external = ask.of.as_deref().and_then(|label| tenant.labels.get(label));
            let mut here = Here { tenant, span, external, hit: false };
            let mut walk = Walk::over(tenant);
            loop {
                let more = {
                    let state = self.state.borrow();
                    let head = &state.applier.head;
                    walk.slice(head, |index| gathering.visit(head, &mut here, index))?
                };
                reading.pause(unwanted()).await?;
                if !more || (here.hit && external.is_some()) {
                    break;
                }
            }
        }
        let mut texts = gathering.texts;
        texts.retain(|text| ask.of.is_some() || !removed(text));
        Ok(texts)
    }
}

/// The tenant that is being walked.
struct Here<'a> {
    tenant: &'a Chosen,
    span: TimeSpan,
    /// The value of the wanted label, if that is an external one.
    external: Option<&'a str>,
    /// Whether a series has matched.
    hit: bool,
}

/// What was found so far.
struct Gathering<'a> {
    /// The label whose values are wanted; none if names are.
    of: Option<Column<'a>>,
    matching: Matching<'a>,
    /// By number: the symbols of values that were found, or the shapes whose names were.
    seen: Vec<bool>,
    texts: BTreeSet<String>,
    account: Account<'a>,
}

impl Gathering<'_> {
    /// Looks at a series; the steps it took.
    fn visit(
        &mut self,
        head: &Head,
        here: &mut Here<'_>,
        index: SeriesIndex,
    ) -> Result<usize, Stop> {
        let number = match &mut self.of {
            Some(_) if here.external.is_some() => None,
            Some(column) => match column.value(head, index) {
                Some(value) => Some(value),
                None => return Ok(0),
            },
            None => Some(head.label_ids(index).0),
        };
        let seen = number.is_some_and(|number| self.seen.get(number as usize) == Some(&true));
        // External names are the same for all tenants, so a shape that was seen has brought them.
        if seen {
            return Ok(0);
        }
        let found = self.matching.holds(head, index) && head.has_samples(index, here.span);
        let asked = self.matching.take_asked() * ASKED_STEPS;
        if !found {
            return Ok(asked);
        }
        let first = !std::mem::replace(&mut here.hit, true);
        if let Some(number) = number {
            self.mark(number);
        }
        match (&self.of, here.external, number) {
            (Some(_), Some(value), _) => {
                self.keep(value)?;
                Ok(SLICE_STEPS)
            }
            (Some(_), None, Some(value)) => {
                self.keep(head.symbols.text(value))?;
                Ok(asked + TEXT_STEPS)
            }
            _ => {
                let external = here.tenant.labels.iter().filter(|_| first);
                for (name, _) in head.labels(index).chain(external) {
                    self.keep(name)?;
                }
                Ok(asked + TEXT_STEPS * head.labels(index).len())
            }
        }
    }

    fn mark(&mut self, number: u32) {
        let at = number as usize;
        if self.seen.len() <= at {
            self.seen.resize(at + 1, false);
        }
        self.seen[at] = true;
    }

    fn keep(&mut self, text: &str) -> Result<(), Stop> {
        if !self.texts.contains(text) {
            self.account.take(text.len() + TEXT_BYTES)?;
            self.texts.insert(text.to_owned());
        }
        Ok(())
    }
}
