//! Opening a select: ask the shards, hear all of them, then take the blocks.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::query::block_select;
use crate::query::blocks::Served;
use crate::query::merge::{Merge, Source};
use crate::query::{Error, Limits, Origin, SelectRequest, SeriesStream, View};
use crate::rt::channel::mpsc;
use crate::shard::message::{Ask, HeadFrom, Part, Select};

/// Parts that a source may be ahead: one being merged, one ready, one under way.
const PARTS_AHEAD: usize = 2;

impl View {
    /// Starts a select. Sources that fail show up in the stream, see [`SeriesStream::next`].
    pub async fn select(&self, request: SelectRequest) -> Result<SeriesStream, Error> {
        self.open(request).await.inspect_err(|error| self.probe.failed(error))
    }

    async fn open(&self, request: SelectRequest) -> Result<SeriesStream, Error> {
        self.ready()?;
        let turn = self.gate.pass().await?;
        let mut failed = VecDeque::new();
        let mut sources = Vec::with_capacity(self.shards.len());
        let mut served = Served::default();
        for (shard, mut parts) in self.ask_heads(&request, &mut failed).await {
            let origin = Origin::Head(shard);
            match begin(origin, &mut parts).await {
                Ok(from) => {
                    served.note(shard, from);
                    sources.push(Source::new(origin, parts));
                }
                Err(error) => failed.push_back(error),
            }
        }
        // Not before all heads are pinned: what they let go until then is in this list.
        let blocks = served.beside(&self.blocks.now(), request.span);
        if !blocks.is_empty() {
            let (reply, parts) = mpsc::channel(PARTS_AHEAD);
            let select = self.message(&request, reply);
            block_select::start(blocks, self.blocks.readers(), select, self.limits, turn.clone());
            sources.insert(0, Source::new(Origin::Blocks, parts));
        }
        let Limits { buffered_bytes_max, stalled_after, .. } = self.limits;
        let merge = Merge::new(sources, failed, request.limit, buffered_bytes_max, turn);
        Ok(SeriesStream::new(merge, stalled_after, Arc::clone(&self.probe)))
    }

    /// Sends the select to every shard.
    async fn ask_heads(
        &self,
        request: &SelectRequest,
        failed: &mut VecDeque<Error>,
    ) -> Vec<(u16, mpsc::Receiver<Part>)> {
        let mut heads = Vec::with_capacity(self.shards.len());
        for (shard, asks) in (0u16..).zip(self.shards.iter()) {
            let (reply, parts) = mpsc::channel(PARTS_AHEAD);
            let select = self.message(request, reply);
            match asks.send(Ask::Select(select)).await {
                Ok(()) => heads.push((shard, parts)),
                Err(_) => failed.push_back(Error::Gone { origin: Origin::Head(shard) }),
            }
        }
        heads
    }

    fn message(&self, request: &SelectRequest, reply: mpsc::Sender<Part>) -> Select {
        Select {
            span: request.span,
            matchers: Arc::clone(&request.matchers),
            external: Arc::clone(&self.external),
            without: Arc::clone(&request.without),
            skip_chunks: request.skip_chunks,
            limit: one_more(request.limit),
            sharding: request.sharding.clone(),
            reply,
        }
    }
}

/// What a source is asked for: one more than the reader may have, or nobody knows that more is
/// there. 0 stays no limit.
fn one_more(limit: usize) -> usize {
    if limit == 0 { 0 } else { limit.saturating_add(1) }
}

/// The first word of a source.
async fn begin(origin: Origin, parts: &mut mpsc::Receiver<Part>) -> Result<Vec<HeadFrom>, Error> {
    match parts.recv().await {
        Some(Part::Begin(from)) => Ok(from),
        Some(Part::Failed(why)) => Err(Error::Failed { origin, why }),
        Some(Part::Series(_) | Part::End) => {
            Err(Error::Failed { origin, why: "its answer does not begin with Begin".into() })
        }
        None => Err(Error::Gone { origin }),
    }
}
