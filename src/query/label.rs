//! Label names and values: the union of what all sources have.

use std::sync::Arc;

use crate::query::block_labels::{Question, Union};
use crate::query::blocks::Served;
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
        let (mut heads, mut failed) = (Vec::with_capacity(answers.len()), Vec::new());
        for (shard, answer) in (0u16..).zip(answers) {
            let origin = Origin::Head(shard);
            match answer.await {
                Ok(Ok(texts)) => heads.push(texts),
                Ok(Err(why)) => failed.push(Error::Failed { origin, why }),
                Err(_) => failed.push(Error::Gone { origin }),
            }
        }
        // Dropped with this future: then nobody waits any more.
        let (asked, _asking) = oneshot::channel();
        let question = Question {
            // Not before all heads have answered: what they let go until then is in this list. What
            // a head serves as well adds nothing.
            blocks: Served::default().beside(&self.blocks.now(), request.span),
            readers: self.blocks.readers(),
            external: Arc::clone(&self.external),
            matchers: request.matchers,
            without: request.without,
            of: of.map(Into::into),
            asked,
        };
        let mut union = Union::new(request.limit, self.limits.buffered_bytes_max);
        let step = move || {
            let damage = question.answer(heads, &mut union)?;
            Ok::<_, Error>((union.end(), damage))
        };
        let ((texts, truncated), damage) = turn.step(step).await??;
        failed.extend(damage.map(|why| Error::Failed { origin: Origin::Blocks, why }));
        Ok(LabelList { texts, failed, truncated })
    }
}
