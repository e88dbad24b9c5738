//! What is stored, asked for the plain way: the oracle of selects and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use futures_lite::future::{self, block_on};
use prost::Message as _;
use tidegate_proto::thanos;

use crate::chunk::xor::Appender;
use crate::chunk::{Chunk, Encoding};
use crate::decode::region;
use crate::frame::{Sharding, in_shard};
use crate::model::{
    BLOCK_RANGE_MS, External, KeySecret, Labels, Matcher, Sample, TenantId, TimeSpan, sort_key,
};
use crate::rt::channel::{mpsc, oneshot};
use crate::rt::mesh::Home;
use crate::rt::twin::Twin;
use crate::shard::head::specimen;
use crate::shard::message::{Ask, HeadFrom, LabelsAsk, PART_BYTES, Part, Select};
use crate::shard::tests::world::{settings, start};
use crate::shard::write::{Batch, Item, Past};
use crate::shard::{Generation, Shard, slots};

/// Series by tenant and labels.
pub(super) type Stored = BTreeMap<(TenantId, Labels), Vec<Sample>>;
/// One chunk: times and bytes.
pub(super) type PlainChunk = (i64, i64, u8, Vec<u8>);
/// A series as it comes out.
pub(super) type Row = (Labels, Vec<PlainChunk>);

pub(super) fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::new(pairs.iter().copied()).expect("a label set")
}

pub(super) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a tenant")
}

/// A question for series.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) span: TimeSpan,
    pub(super) matchers: Vec<Matcher>,
    pub(super) external: External,
    pub(super) without: Vec<String>,
    pub(super) skip_chunks: bool,
    pub(super) limit: usize,
    pub(super) sharding: Option<Sharding>,
}

impl Question {
    pub(super) fn all() -> Self {
        let external = External::new(Labels::default(), "tenant_id", None);
        Self {
            span: TimeSpan::ALL,
            matchers: Vec::new(),
            external: external.expect("external labels"),
            without: Vec::new(),
            skip_chunks: false,
            limit: 0,
            sharding: None,
        }
    }

    pub(super) fn select(&self, room: usize) -> (Select, mpsc::Receiver<Part>) {
        let (reply, parts) = mpsc::channel(room);
        let select = Select {
            span: self.span,
            matchers: self.matchers.clone().into(),
            external: Arc::new(self.external.clone()),
            without: self.without.clone().into(),
            skip_chunks: self.skip_chunks,
            limit: self.limit,
            sharding: self.sharding.clone().map(Arc::new),
            reply,
        };
        (select, parts)
    }

    /// The final label set of a series, if it is wanted.
    fn wanted(&self, shard: u16, tenant: &TenantId, own: &Labels) -> Option<Labels> {
        let all = own.overlaid(&self.external.of(tenant, shard));
        if !self.matchers.iter().all(|m| m.matches(all.get(m.name()).unwrap_or_default())) {
            return None;
        }
        let kept = all.iter().filter(|(name, _)| !self.without.iter().any(|w| w == name));
        let kept = Labels::new(kept).expect("a part of a set");
        let pairs: Vec<(&str, &str)> = kept.iter().collect();
        let in_part = self.sharding.as_ref().is_none_or(|sharding| in_shard(&pairs, sharding));
        in_part.then_some(kept)
    }
}

/// Shards of one process, and what they were told.
pub(super) struct House {
    pub(super) shards: Vec<Rc<Shard<Twin>>>,
    pub(super) stored: Stored,
    /// From when on each tenant is served; all of time if it is not here.
    pub(super) floors: BTreeMap<TenantId, i64>,
}

impl House {
    pub(super) fn new(shards: u16, stored: Stored) -> Self {
        let twin = Twin::new(7);
        let generations = [Generation { number: 1, shards }];
        let open = |shard| block_on(start(&twin, &settings(shard, &generations))).shard;
        let shards = (0..shards).map(|shard| Rc::new(open(shard))).collect();
        let mut house = Self { shards, stored: Stored::new(), floors: BTreeMap::new() };
        for ((tenant, labels), samples) in stored {
            house.write(&tenant, &labels, &samples);
        }
        house
    }

    pub(super) fn owner(&self, tenant: &TenantId, labels: &Labels) -> u16 {
        let key = KeySecret::new([5; 32]).of(tenant).key(&region_of(labels));
        slots::owner(slots::slot(key), self.shards.len() as u16)
    }

    /// Writes samples of one series to its shard. They are in its head at once.
    pub(super) fn write(&mut self, tenant: &TenantId, labels: &Labels, samples: &[Sample]) {
        write(&self.shards[usize::from(self.owner(tenant, labels))], tenant, labels, samples);
        let series = self.stored.entry((tenant.clone(), labels.clone())).or_default();
        series.extend_from_slice(samples);
    }

    /// Says that what is older is served by blocks.
    pub(super) fn set_floor(&mut self, tenant: &TenantId, from_ms: i64) {
        self.floors.insert(tenant.clone(), from_ms);
        for shard in &self.shards {
            let head = &mut shard.state.borrow_mut().applier.head;
            if let Some(index) = head.find_tenant(tenant) {
                head.tenants[index as usize].served_from_ms = from_ms;
            }
        }
    }

    /// The wanted series of a shard with samples in the span, unsorted: its final labels, chunks.
    fn rows<'a>(&'a self, shard: u16, question: &'a Question) -> impl Iterator<Item = Row> + 'a {
        self.stored.iter().filter_map(move |((tenant, own), samples)| {
            if self.owner(tenant, own) != shard {
                return None;
            }
            let labels = question.wanted(shard, tenant, own)?;
            let from = self.floors.get(tenant).copied().unwrap_or(i64::MIN);
            let asked = question.span;
            let served = TimeSpan { min: asked.min.max(from), max: asked.max };
            let mut chunks = chunks(samples);
            chunks.retain(|c| served.overlaps(TimeSpan { min: c.0, max: c.1 }));
            (served.min <= served.max && !chunks.is_empty()).then_some((labels, chunks))
        })
    }

    /// What a shard must answer: rows in order; those of equal labels in any order.
    pub(super) fn want(&self, shard: u16, question: &Question) -> Vec<Row> {
        let mut rows: Vec<Row> = self.rows(shard, question).collect();
        rows.sort();
        let mut different = BTreeSet::new();
        rows.retain(|(labels, _)| {
            different.insert(labels.clone());
            question.limit == 0 || different.len() <= question.limit
        });
        if question.skip_chunks {
            for row in &mut rows {
                row.1.clear();
            }
        }
        rows
    }

    /// The names or values a shard must answer.
    pub(super) fn want_texts(
        &self,
        shard: u16,
        question: &Question,
        of: Option<&str>,
    ) -> BTreeSet<String> {
        let mut texts = BTreeSet::new();
        for (labels, _) in self.rows(shard, question) {
            match of {
                None => texts.extend(labels.iter().map(|(name, _)| name.to_owned())),
                Some(label) => texts.extend(labels.get(label).map(str::to_owned)),
            }
        }
        texts
    }

    /// Asks a shard; the whole answer, checked for what holds of every answer.
    pub(super) fn ask(&self, shard: u16, question: &Question) -> Vec<Row> {
        let (select, parts) = question.select(1);
        let answering = self.shards[usize::from(shard)].answer(Ask::Select(select));
        let ((), (from, mut rows)) = block_on(future::zip(answering, hear(parts)));
        for head in &from {
            let floor = self.floors.get(&head.tenant).copied();
            assert_eq!(head.from_ms, floor.unwrap_or(i64::MIN), "{}", head.tenant);
        }
        // Equal labels may come in any order.
        assert!(rows.is_sorted_by(|a, b| a.0 <= b.0), "in order");
        rows.sort();
        rows
    }

    /// Asks a shard for names or values.
    pub(super) fn ask_texts(
        &self,
        shard: u16,
        question: &Question,
        of: Option<&str>,
    ) -> BTreeSet<String> {
        let (reply, answer) = oneshot::channel();
        let ask = LabelsAsk {
            span: question.span,
            matchers: question.matchers.clone().into(),
            external: Arc::new(question.external.clone()),
            without: question.without.clone().into(),
            of: of.map(str::to_owned),
            reply,
        };
        block_on(self.shards[usize::from(shard)].answer(Ask::Labels(ask)));
        block_on(answer).expect("an answer").expect("texts")
    }
}

fn region_of(labels: &Labels) -> Vec<u8> {
    let mut region = Vec::new();
    region::encode(labels.iter(), &mut region);
    region
}

pub(super) fn write(shard: &Shard<Twin>, tenant: &TenantId, labels: &Labels, samples: &[Sample]) {
    let region = region_of(labels);
    let key = KeySecret::new([5; 32]).of(tenant).key(&region);
    let item = Item { key, region: 0..region.len() as u32, samples: 0..samples.len() as u32 };
    let (reply, _answer) = mpsc::unbounded_channel();
    let batch = Batch {
        tenant: tenant.clone(),
        items: vec![item],
        samples: samples.to_vec(),
        histograms: Vec::new(),
        bytes: Home::new(1).lend(region),
        max_t: i64::MAX,
        past: Past::ANY,
        reply,
    };
    assert!(shard.write(batch).is_empty(), "it stays here");
}

/// The chunks the head makes: at most 120 samples, none over the end of a range.
fn chunks(samples: &[Sample]) -> Vec<PlainChunk> {
    let range = |sample: &Sample| sample.t.div_euclid(BLOCK_RANGE_MS);
    let ranges = samples.chunk_by(|a, b| range(a) == range(b));
    let runs = ranges.flat_map(|range| range.chunks(120));
    runs.map(|run| {
        let mut tail = vec![0; 4096];
        let mut appender = Appender::new();
        for sample in run {
            appender.append(&mut tail, sample.t, sample.bits);
        }
        let len = appender.finish(&mut tail);
        (run[0].t, run[run.len() - 1].t, Encoding::Xor.byte(), tail[..len].to_vec())
    })
    .collect()
}

/// The samples of chunks; histograms as their numbers.
pub(super) fn samples(chunks: &[PlainChunk]) -> Vec<Sample> {
    let all = chunks.iter().flat_map(|&(min_t, max_t, encoding, ref bytes)| {
        let encoding = Encoding::from_byte(encoding).expect("an encoding");
        specimen::samples(Chunk { encoding, min_t, max_t, bytes })
    });
    all.map(|(sample, _)| sample).collect()
}

/// A frame as a row.
pub(super) fn row(body: &[u8]) -> Row {
    let series = thanos::Series::decode(body).expect("a thanos.Series");
    let pairs = series.labels.into_iter().map(|label| (label.name, label.value));
    let chunks = series.chunks.into_iter();
    let plain = chunks.map(|chunk| {
        let raw = chunk.raw.expect("raw");
        (chunk.min_time, chunk.max_time, raw.r#type as u8 + 1, raw.data.to_vec())
    });
    (Labels::new(pairs).expect("a label set"), plain.collect())
}

/// Hears a select to its end.
pub(super) async fn hear(mut parts: mpsc::Receiver<Part>) -> (Vec<HeadFrom>, Vec<Row>) {
    let Some(Part::Begin(from)) = parts.recv().await else { panic!("it does not begin") };
    let mut rows = Vec::new();
    loop {
        let frames = match parts.recv().await {
            Some(Part::Series(frames)) => frames,
            Some(Part::End) => break,
            other => panic!("{other:?}"),
        };
        let bytes: usize = frames.iter().map(|f| f.key.len() + f.body.len()).sum();
        assert!(!frames.is_empty() && (bytes <= PART_BYTES || frames.len() == 1), "{bytes} bytes");
        for frame in frames {
            let row = row(&frame.body);
            let mut key = Vec::new();
            sort_key(row.0.iter(), &mut key);
            assert_eq!(frame.key, key, "the key of its labels");
            rows.push(row);
        }
    }
    assert!(parts.recv().await.is_none(), "nothing follows the end");
    (from, rows)
}
