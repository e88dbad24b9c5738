//! A twin of the shards: a few series in memory that answer every ask the slow and plain way.
//!
//! It is the oracle too: [`select`] gives what a view over all shards must give, by filtering and
//! sorting owned label sets, with nothing of the real path but the chunk codec.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::chunk::xor::Appender;
use crate::chunk::{Chunk, Encoding};
use crate::frame::{self, Frame, in_shard};
use crate::model::{External, Labels, Matcher, Sample, TenantId, TimeSpan, sort_key};
use crate::query::{Blocks, KnownStats, Limits, NotReady, SelectRequest, View, follow};
use crate::rt::beside;
use crate::rt::channel::{mpsc, watch};
use crate::shard::message::{Ask, HeadFrom, LabelsAsk, Part, Select, Stats, TenantStats};

/// Samples of one chunk of the twin: few, so that small tests have many chunks.
const CHUNK_SAMPLES: usize = 3;

/// A stored series.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) tenant: TenantId,
    pub(crate) labels: Labels,
    pub(crate) samples: Vec<Sample>,
}

/// A label set.
pub(crate) fn label_set(pairs: &[(&str, &str)]) -> Labels {
    Labels::new(pairs.iter().copied()).expect("a label set")
}

/// External labels beside the tenant's.
pub(crate) fn external(pairs: &[(&str, &str)]) -> External {
    External::new(label_set(pairs), "tenant_id", None).expect("external labels")
}

/// A series with a sample at each of these times, whose value is its time.
pub(crate) fn series(tenant: &str, pairs: &[(&str, &str)], times: Range<i64>) -> Series {
    Series {
        tenant: TenantId::new(tenant).expect("a tenant"),
        labels: label_set(pairs),
        samples: times.map(|t| Sample::new(t, t as f64)).collect(),
    }
}

/// What shall go wrong in a shard's selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Says `Failed` instead of `Begin`.
    NoBegin,
    /// Says `Failed` after this many frames.
    FailAfter(usize),
    /// Drops the channel after this many frames.
    VanishAfter(usize),
    /// Sends its frames in reverse.
    Disorder,
}

/// The head of one shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) series: Vec<Series>,
    pub(crate) fault: Fault,
    /// Frames per part.
    pub(crate) part_frames: usize,
    /// From when it says to serve its tenants.
    pub(crate) from_ms: i64,
}

/// Counts frames that the twins have handed out, to see how far ahead they run.
pub(crate) type Sent = Arc<AtomicUsize>;

/// One chunk of a series as plain data: times and payload.
pub(crate) type PlainChunk = (i64, i64, Vec<u8>);

/// The chunks of samples that touch `span`.
pub(crate) fn chunks(samples: &[Sample], span: TimeSpan) -> Vec<PlainChunk> {
    let encoded = samples.chunks(CHUNK_SAMPLES).map(|run| {
        let mut tail = [0; 256];
        let mut appender = Appender::new();
        for sample in run {
            appender.append(&mut tail, sample.t, sample.bits);
        }
        let len = appender.finish(&mut tail);
        (run[0].t, run[run.len() - 1].t, tail[..len].to_vec())
    });
    encoded.filter(|c| span.overlaps(TimeSpan { min: c.0, max: c.1 })).collect()
}

/// The final label set of a series if it is wanted.
fn wanted(
    series: &Series,
    shard: u16,
    external: &External,
    matchers: &[Matcher],
    without: &[String],
) -> Option<Labels> {
    let all = series.labels.overlaid(&external.of(&series.tenant, shard));
    if !matchers.iter().all(|m| m.matches(all.get(m.name()).unwrap_or_default())) {
        return None;
    }
    let kept = all.iter().filter(|(n, _)| !without.iter().any(|w| w == n));
    Some(Labels::new(kept).expect("a part of a set is a set"))
}

/// What a select over these heads must give: final label sets in order, each with all its chunks.
pub(crate) fn select(
    heads: &[Head],
    external: &External,
    request: &SelectRequest,
) -> Vec<(Labels, Vec<PlainChunk>)> {
    let mut found: BTreeMap<Labels, Vec<PlainChunk>> = BTreeMap::new();
    for (shard, head) in (0..).zip(heads) {
        for series in &head.series {
            let labels = wanted(series, shard, external, &request.matchers, &request.without);
            let Some(labels) = labels else { continue };
            let pairs: Vec<_> = labels.iter().collect();
            let chunks = chunks(&series.samples, request.span);
            if request.sharding.as_ref().is_some_and(|s| !in_shard(&pairs, s)) || chunks.is_empty()
            {
                continue;
            }
            let all = found.entry(labels).or_default();
            if !request.skip_chunks {
                all.extend(chunks);
            }
        }
    }
    let limit = if request.limit == 0 { usize::MAX } else { request.limit };
    found.into_iter().take(limit).collect()
}

/// The label names or values these heads must give.
pub(crate) fn labels(
    heads: &[Head],
    external: &External,
    matchers: &[Matcher],
    without: &[String],
    of: Option<&str>,
) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (shard, head) in (0..).zip(heads) {
        for series in &head.series {
            let Some(labels) = wanted(series, shard, external, matchers, without) else { continue };
            match of {
                None => found.extend(labels.iter().map(|(n, _)| n.to_string())),
                Some(label) => found.extend(labels.get(label).map(ToString::to_string)),
            }
        }
    }
    found
}

impl Head {
    fn frames(&self, shard: u16, ask: &Select) -> Vec<Frame> {
        let request = SelectRequest {
            span: ask.span,
            matchers: Arc::clone(&ask.matchers),
            without: Arc::clone(&ask.without),
            skip_chunks: ask.skip_chunks,
            limit: ask.limit,
            sharding: ask.sharding.clone(),
        };
        // The oracle over this shard alone: the empty heads before it keep its number.
        let mut heads = vec![Self::default(); usize::from(shard)];
        heads.push(self.clone());
        let mut frames = Vec::new();
        for (labels, chunks) in select(&heads, &ask.external, &request) {
            let pairs: Vec<_> = labels.iter().collect();
            let mut key = Vec::new();
            sort_key(pairs.iter().copied(), &mut key);
            let encoding = Encoding::Xor;
            let chunks = chunks.iter().map(|(min_t, max_t, bytes)| Chunk {
                encoding,
                min_t: *min_t,
                max_t: *max_t,
                bytes,
            });
            frame::encode(&pairs, &Bytes::from(key), chunks, &mut frames);
        }
        frames
    }

    async fn answer(&self, shard: u16, ask: Select, sent: &Sent) {
        if self.fault == Fault::NoBegin {
            drop(ask.reply.send(Part::Failed("the disk is on fire".into())).await);
            return;
        }
        let tenants: BTreeSet<TenantId> = self.series.iter().map(|s| s.tenant.clone()).collect();
        let from = tenants.into_iter().map(|tenant| HeadFrom { tenant, from_ms: self.from_ms });
        let mut said = ask.reply.send(Part::Begin(from.collect())).await;
        let mut frames = self.frames(shard, &ask);
        match self.fault {
            Fault::FailAfter(n) | Fault::VanishAfter(n) => frames.truncate(n),
            Fault::Disorder => frames.reverse(),
            Fault::None | Fault::NoBegin => {}
        }
        for part in frames.chunks(self.part_frames.max(1)) {
            if said.is_err() {
                return;
            }
            said = ask.reply.send(Part::Series(part.to_vec())).await;
            sent.fetch_add(part.len(), Ordering::Relaxed);
        }
        match self.fault {
            Fault::FailAfter(_) => {
                drop(ask.reply.send(Part::Failed("the disk is on fire".into())).await);
            }
            Fault::VanishAfter(_) => {}
            _ => drop(ask.reply.send(Part::End).await),
        }
    }

    fn labels(&self, shard: u16, ask: &LabelsAsk) -> BTreeSet<String> {
        let mut heads = vec![Self::default(); usize::from(shard)];
        heads.push(self.clone());
        labels(&heads, &ask.external, &ask.matchers, &ask.without, ask.of.as_deref())
    }

    fn stats(&self) -> Stats {
        let mut tenants: BTreeMap<TenantId, TenantStats> = BTreeMap::new();
        for series in &self.series {
            let stats = tenants.entry(series.tenant.clone()).or_insert_with(|| TenantStats {
                tenant: series.tenant.clone(),
                series: 0,
                min_t: i64::MAX,
                max_t: i64::MIN,
                chunks: 0,
                samples_appended: 0,
            });
            stats.series += 1;
            stats.samples_appended += series.samples.len() as u64;
            for sample in &series.samples {
                stats.min_t = stats.min_t.min(sample.t);
                stats.max_t = stats.max_t.max(sample.t);
            }
        }
        Stats { tenants: tenants.into_values().collect() }
    }
}

/// What a test holds of a view over twins.
pub(crate) struct Twins {
    pub(crate) view: View,
    pub(crate) blocks: Blocks,
    pub(crate) ready: watch::Sender<Result<(), NotReady>>,
    pub(crate) sent: Sent,
}

/// A view over these heads, each answered by a task. Its stats are known when it returns.
pub(crate) async fn view(heads: Vec<Head>, external: External, limits: Limits) -> Twins {
    let sent = Sent::default();
    let mut shards = Vec::new();
    for (shard, head) in (0u16..).zip(heads) {
        let (asks, mut inbox) = mpsc::channel(4);
        shards.push(asks);
        let (head, sent) = (Arc::new(head), Arc::clone(&sent));
        beside::spawn(async move {
            while let Some(ask) = inbox.recv().await {
                match ask {
                    Ask::Select(ask) => {
                        let (head, sent) = (Arc::clone(&head), Arc::clone(&sent));
                        beside::spawn(async move { head.answer(shard, ask, &sent).await });
                    }
                    Ask::Labels(ask) => {
                        let answer = if head.fault == Fault::NoBegin {
                            Err("the disk is on fire".into())
                        } else {
                            Ok(head.labels(shard, &ask))
                        };
                        drop(ask.reply.send(answer));
                    }
                    Ask::Stats(reply) => drop(reply.send(head.stats())),
                    other => panic!("a view does not ask {other:?}"),
                }
            }
        });
    }
    let (ready, ready_now) = watch::channel(Ok(()));
    let (known, mut stats) = watch::channel(KnownStats::default());
    beside::spawn(follow(shards.clone(), Arc::new(known)));
    let all_known = |all: &KnownStats| all.len() == shards.len() && all.iter().all(Option::is_some);
    stats.wait_for(all_known).await.expect("stats are followed");
    let blocks = Blocks::default();
    let view = View::new(shards, blocks.clone(), Arc::new(external), ready_now, stats, limits);
    Twins { view, blocks, ready, sent }
}
