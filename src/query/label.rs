//! Label names and values: the union of what all sources have.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::query::block_labels::Question;
use crate::query::blocks::Served;
use crate::query::gate::Turn;
use crate::query::{Error, LabelsRequest, Origin, View};
use crate::rt::channel::oneshot;
use crate::shard::message::{Ask, LabelsAsk};

/// Names or values, and what could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelList {
    /// Sorted, each once.
    pub texts: Vec<String>,
    /// Sources that failed; what they alone have is missing.
    pub failed: Vec<Error>,
    /// Whether the limit left something out.
    pub truncated: bool,
}

impl View {
    /// Names of the labels of matching series, external ones among them if a series matches.
    pub async fn label_names(&self, request: LabelsRequest) -> Result<LabelList, Error> {
        self.counted(self.list(request, None).await)
    }

    /// Values of one label in matching series. An external label has its values only if a series
    /// matches, and none if it is removed by `without`.
    pub async fn label_values(
        &self,
        label: &str,
        request: LabelsRequest,
    ) -> Result<LabelList, Error> {
        self.counted(self.list(request, Some(label)).await)
    }

    fn counted(&self, list: Result<LabelList, Error>) -> Result<LabelList, Error> {
        match &list {
            Ok(list) => list.failed.iter().for_each(|error| self.probe.failed(error)),
            Err(error) => self.probe.failed(error),
        }
        list
    }

    async fn list(&self, request: LabelsRequest, of: Option<&str>) -> Result<LabelList, Error> {
        self.ready()?;
        if of.is_some_and(|label| request.without.iter().any(|w| w == label)) {
            return Ok(LabelList::default());
        }
        let turn = self.gate.pass().await?;
        let mut answers = Vec::with_capacity(self.shards.len());
        for asks in self.shards.iter() {
            let (reply, answer) = oneshot::channel();
            let ask = LabelsAsk {
                span: request.span,
                matchers: Arc::clone(&request.matchers),
                external: Arc::clone(&self.external),
                without: Arc::clone(&request.without),
                of: of.map(Into::into),
                reply,
            };
            // A closed channel shows as an answer that never comes.
            drop(asks.send(Ask::Labels(ask)).await);
            answers.push(answer);
        }
        let (mut union, mut failed) = (BTreeSet::new(), Vec::new());
        for (shard, answer) in (0u16..).zip(answers) {
            let origin = Origin::Head(shard);
            match answer.await {
                Ok(Ok(mut texts)) => union.append(&mut texts),
                Ok(Err(why)) => failed.push(Error::Failed { origin, why }),
                Err(_) => failed.push(Error::Gone { origin }),
            }
        }
        // Not before all heads have answered: what they let go until then is in this list.
        let (mut found, damage) = self.list_blocks(&turn, &request, of).await;
        union.append(&mut found);
        failed.extend(damage);
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let truncated = union.len() > limit;
        Ok(LabelList { texts: union.into_iter().take(limit).collect(), failed, truncated })
    }

    /// What the blocks have. What a head serves as well adds nothing.
    async fn list_blocks(
        &self,
        turn: &Turn,
        request: &LabelsRequest,
        of: Option<&str>,
    ) -> (BTreeSet<String>, Vec<Error>) {
        let blocks = Served::default().beside(&self.blocks.now(), request.span);
        if blocks.is_empty() {
            return (BTreeSet::new(), Vec::new());
        }
        // Dropped with this future: then nobody waits any more.
        let (asked, _asking) = oneshot::channel();
        let question = Question {
            blocks,
            readers: self.blocks.readers(),
            external: Arc::clone(&self.external),
            matchers: Arc::clone(&request.matchers),
            without: Arc::clone(&request.without),
            of: of.map(Into::into),
            asked,
        };
        let (found, why) = match turn.step(move || question.answer()).await {
            Ok((found, damage)) => (found, damage),
            Err(broken) => (BTreeSet::new(), Some(broken.to_string())),
        };
        let failed = why.map(|why| Error::Failed { origin: Origin::Blocks, why });
        (found, failed.into_iter().collect())
    }
}
