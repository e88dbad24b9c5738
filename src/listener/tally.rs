//! What became of the samples of one write request: how many are stored, how many are not, why.
//!
//! Of all facts only the counts and one example are kept: the first one of the class that decides
//! the answer, with the labels of its series, because that is what the sender's log can show.

use thiserror::Error;

/// Why a sample, or all samples of a series, were refused. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fact {
    /// Older than the newest sample of its series, with no out-of-order window.
    #[error(
        "sample at {t} is older than the newest of its series at {newest}, and out of order none \
         is taken; set --tsdb.out-of-order.time-window if senders cannot help it"
    )]
    SampleOutOfOrder {
        /// Its time.
        t: i64,
        /// The newest time of its series.
        newest: i64,
    },
    /// Older than the newest sample of its series, and than the out-of-order window.
    #[error(
        "sample at {t} is older than the newest of its series, and than {min}, where the window \
         for samples out of order begins; --tsdb.out-of-order.time-window sets how long it is"
    )]
    SampleTooOld {
        /// Its time.
        t: i64,
        /// First time taken out of order.
        min: i64,
    },
    /// Older than what is still taken of the tenant.
    #[error(
        "sample at {t} is older than {min}, the oldest time still taken of this tenant: what lies \
         before is cut to blocks, or past --tsdb.retention; check the sender's clock, and keep \
         retention longer than senders may lag behind"
    )]
    SampleOutOfBounds {
        /// Its time.
        t: i64,
        /// First time still taken.
        min: i64,
    },
    /// Newer than the clock allows.
    #[error(
        "sample at {t} is later than {max}, the farthest future allowed; check the sender's \
         clock, or set --tsdb.too-far-in-future.time-window"
    )]
    SampleTooFarInFuture {
        /// Its time.
        t: i64,
        /// Last time taken.
        max: i64,
    },
    /// Another value at the same time is stored already; that one stays.
    #[error("sample at {t} has another value than the one stored for that time, which stays")]
    SampleConflict {
        /// Its time.
        t: i64,
    },
    /// The series would be one more than its tenant may have.
    #[error(
        "its series is not known, and this tenant has the {max} series in memory that it may have; \
         send fewer series, or raise head_series_limit in the limits file"
    )]
    SeriesLimit {
        /// The limit.
        max: u64,
    },
    /// The series has no labels.
    #[error("series has no labels")]
    LabelsMissing,
    /// A label has no name.
    #[error("series has a label with an empty name")]
    LabelNameEmpty,
    /// Two labels share a name.
    #[error("label name {name:?} occurs more than once")]
    LabelNameTwice {
        /// The name.
        name: String,
    },
    /// A name or value is not UTF-8.
    #[error("label {name:?} is not valid UTF-8 in its name or value")]
    LabelNotUtf8 {
        /// Its name, as far as it is text.
        name: String,
    },
    /// A label is no message.
    #[error("a label of the series cannot be read: {what}")]
    LabelMalformed {
        /// What is wrong with it.
        what: String,
    },
    /// Too many labels.
    #[error("series has more than {max} labels; --receive.labels-per-series-max admits more")]
    LabelsTooMany {
        /// The limit.
        max: usize,
    },
    /// The name of a label is too long.
    #[error(
        "label name {name:?} has {got} bytes, at most {max} are allowed; \
         --receive.label-name-bytes-max admits more"
    )]
    LabelNameTooLong {
        /// The begin of it.
        name: String,
        /// Its bytes.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// The value of a label is too long.
    #[error(
        "the value of label {name:?} has {got} bytes, at most {max} are allowed; \
         --receive.label-value-bytes-max admits more"
    )]
    LabelValueTooLong {
        /// The name of the label.
        name: String,
        /// Bytes of the value.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// All labels of a series together are too long.
    #[error(
        "the labels of the series have {got} bytes together, at most {max} are allowed; \
         --receive.label-set-bytes-max admits more"
    )]
    LabelSetTooLong {
        /// Their bytes, as they are sent.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// References to symbols that are none, or one too few.
    #[error("a series refers to symbols wrongly: {what}")]
    SymbolRefsInvalid {
        /// What is wrong with them.
        what: String,
    },
    /// No `__name__`.
    #[error("series has no label __name__")]
    MetricNameMissing,
    /// Neither samples nor histograms.
    #[error("series has neither a sample nor a histogram")]
    SamplesMissing,
    /// A native histogram that Prometheus would not store either.
    #[error("native histogram is invalid: {what}")]
    HistogramInvalid {
        /// What is wrong with it.
        what: String,
    },
    /// A native histogram has too many buckets.
    #[error(
        "native histogram has {got} buckets and bounds, at most {max} are stored; choose a \
         coarser schema or native_histogram_bucket_limit"
    )]
    HistogramTooWide {
        /// How many.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// A native histogram is too long.
    #[error(
        "native histogram has {got} bytes, at most {max} are stored; choose a coarser schema or \
         native_histogram_bucket_limit"
    )]
    HistogramTooLong {
        /// Its bytes, as it is sent.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// An exemplar, which this version does not store.
    #[error(
        "exemplars are not stored by this version; set send_exemplars: false, the rest of the \
         request is stored"
    )]
    ExemplarNotStored,
}

/// [`Fact`] without its values, to count by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// [`Fact::SampleOutOfOrder`]
    SampleOutOfOrder,
    /// [`Fact::SampleTooOld`]
    SampleTooOld,
    /// [`Fact::SampleOutOfBounds`]
    SampleOutOfBounds,
    /// [`Fact::SampleTooFarInFuture`]
    SampleTooFarInFuture,
    /// [`Fact::SampleConflict`]
    SampleConflict,
    /// [`Fact::SeriesLimit`]
    SeriesLimit,
    /// [`Fact::LabelsMissing`]
    LabelsMissing,
    /// [`Fact::LabelNameEmpty`]
    LabelNameEmpty,
    /// [`Fact::LabelNameTwice`]
    LabelNameTwice,
    /// [`Fact::LabelNotUtf8`]
    LabelNotUtf8,
    /// [`Fact::LabelMalformed`]
    LabelMalformed,
    /// [`Fact::LabelsTooMany`]
    LabelsTooMany,
    /// [`Fact::LabelNameTooLong`], [`Fact::LabelValueTooLong`], [`Fact::LabelSetTooLong`]
    LabelTooLong,
    /// [`Fact::SymbolRefsInvalid`]
    SymbolRefsInvalid,
    /// [`Fact::MetricNameMissing`]
    MetricNameMissing,
    /// [`Fact::SamplesMissing`]
    SamplesMissing,
    /// [`Fact::HistogramInvalid`]
    HistogramInvalid,
    /// [`Fact::HistogramTooWide`], [`Fact::HistogramTooLong`]
    HistogramTooLong,
    /// [`Fact::ExemplarNotStored`]
    ExemplarNotStored,
}

/// What a reason means for the answer, the strongest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Against what is stored, or against label rules, as Thanos sees it: 409 in 1.0.
    Conflict,
    /// The sender writes nonsense: 400.
    Malformed,
    /// More than its tenant may have: 429. It may come again, so it goes before the others.
    Limit,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 19] = [
        Self::SampleOutOfOrder,
        Self::SampleTooOld,
        Self::SampleOutOfBounds,
        Self::SampleTooFarInFuture,
        Self::SampleConflict,
        Self::SeriesLimit,
        Self::LabelsMissing,
        Self::LabelNameEmpty,
        Self::LabelNameTwice,
        Self::LabelNotUtf8,
        Self::LabelMalformed,
        Self::LabelsTooMany,
        Self::LabelTooLong,
        Self::SymbolRefsInvalid,
        Self::MetricNameMissing,
        Self::SamplesMissing,
        Self::HistogramInvalid,
        Self::HistogramTooLong,
        Self::ExemplarNotStored,
    ];

    /// Its name in answers and metrics.
    pub fn id(self) -> &'static str {
        match self {
            Self::SampleOutOfOrder => "sample-out-of-order",
            Self::SampleTooOld => "sample-timestamp-too-old",
            Self::SampleOutOfBounds => "sample-out-of-bounds",
            Self::SampleTooFarInFuture => "sample-too-far-in-future",
            Self::SampleConflict => "sample-conflict",
            Self::SeriesLimit => "series-limit",
            Self::LabelsMissing => "labels-missing",
            Self::LabelNameEmpty => "label-name-empty",
            Self::LabelNameTwice => "label-name-twice",
            Self::LabelNotUtf8 => "label-not-utf8",
            Self::LabelMalformed => "label-malformed",
            Self::LabelsTooMany => "labels-too-many",
            Self::LabelTooLong => "label-too-long",
            Self::SymbolRefsInvalid => "symbol-refs-invalid",
            Self::MetricNameMissing => "metric-name-missing",
            Self::SamplesMissing => "samples-missing",
            Self::HistogramInvalid => "histogram-invalid",
            Self::HistogramTooLong => "histogram-too-long",
            Self::ExemplarNotStored => "exemplar-not-stored",
        }
    }

    /// Bad label sets that Thanos knows are conflicts, as there; what it lets through or loses
    /// in silence (lengths, UTF-8, histograms) is malformed, and so is what only 2.0 can say.
    pub(crate) fn class(self) -> Class {
        match self {
            Self::SampleOutOfOrder
            | Self::SampleTooOld
            | Self::SampleOutOfBounds
            | Self::SampleTooFarInFuture
            | Self::SampleConflict
            | Self::LabelsMissing
            | Self::LabelNameEmpty
            | Self::LabelNameTwice => Class::Conflict,
            Self::SeriesLimit => Class::Limit,
            Self::LabelNotUtf8
            | Self::LabelMalformed
            | Self::LabelsTooMany
            | Self::LabelTooLong
            | Self::SymbolRefsInvalid
            | Self::MetricNameMissing
            | Self::SamplesMissing
            | Self::HistogramInvalid
            | Self::HistogramTooLong
            | Self::ExemplarNotStored => Class::Malformed,
        }
    }
}

impl Fact {
    /// The reason it counts under.
    pub fn reason(&self) -> Reason {
        match self {
            Self::SampleOutOfOrder { .. } => Reason::SampleOutOfOrder,
            Self::SampleTooOld { .. } => Reason::SampleTooOld,
            Self::SampleOutOfBounds { .. } => Reason::SampleOutOfBounds,
            Self::SampleTooFarInFuture { .. } => Reason::SampleTooFarInFuture,
            Self::SampleConflict { .. } => Reason::SampleConflict,
            Self::SeriesLimit { .. } => Reason::SeriesLimit,
            Self::LabelsMissing => Reason::LabelsMissing,
            Self::LabelNameEmpty => Reason::LabelNameEmpty,
            Self::LabelNameTwice { .. } => Reason::LabelNameTwice,
            Self::LabelNotUtf8 { .. } => Reason::LabelNotUtf8,
            Self::LabelMalformed { .. } => Reason::LabelMalformed,
            Self::LabelsTooMany { .. } => Reason::LabelsTooMany,
            Self::LabelNameTooLong { .. }
            | Self::LabelValueTooLong { .. }
            | Self::LabelSetTooLong { .. } => Reason::LabelTooLong,
            Self::SymbolRefsInvalid { .. } => Reason::SymbolRefsInvalid,
            Self::MetricNameMissing => Reason::MetricNameMissing,
            Self::SamplesMissing => Reason::SamplesMissing,
            Self::HistogramInvalid { .. } => Reason::HistogramInvalid,
            Self::HistogramTooWide { .. } | Self::HistogramTooLong { .. } => {
                Reason::HistogramTooLong
            }
            Self::ExemplarNotStored => Reason::ExemplarNotStored,
        }
    }
}

/// How much of a request is stored, for the three headers of remote write 2.0. Exact duplicates
/// count as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Float samples.
    pub samples: u64,
    /// Native histograms.
    pub histograms: u64,
    /// Exemplars.
    pub exemplars: u64,
}

/// What a request holds, stored or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Series.
    pub series: u64,
    /// Float samples.
    pub samples: u64,
}

/// The account of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// What it held.
    pub load: Load,
    /// What is stored.
    pub written: Written,
    refused: [u64; Reason::ALL.len()],
    example: Option<Box<Example>>,
}

/// One refused series, to name in the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Example {
    pub(crate) fact: Fact,
    /// The labels as PromQL writes them.
    pub(crate) series: String,
}

impl Tally {
    /// An account with nothing refused yet.
    pub fn of(load: Load, written: Written) -> Self {
        Self { load, written, ..Self::default() }
    }

    /// Counts `count` samples, histograms or exemplars of one series as refused. `series` writes
    /// its labels and is called only if they will be shown.
    pub fn refuse(&mut self, fact: Fact, count: u64, series: impl FnOnce() -> String) {
        if let Some(refused) = self.refused.get_mut(fact.reason() as usize) {
            *refused += count;
        }
        if self.class() < Some(fact.reason().class()) {
            self.example = Some(Box::new(Example { fact, series: series() }));
        }
    }

    /// How many were refused for this reason.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused.get(reason as usize).copied().unwrap_or(0)
    }

    /// The reasons that occurred, with their counts.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = (Reason, u64)> {
        let all = Reason::ALL.into_iter();
        all.map(|reason| (reason, self.refused(reason))).filter(|&(_, count)| count > 0)
    }

    /// The strongest class of what was refused.
    pub(crate) fn class(&self) -> Option<Class> {
        self.example.as_ref().map(|example| example.fact.reason().class())
    }

    pub(crate) fn example(&self) -> Option<&Example> {
        self.example.as_deref()
    }
}
