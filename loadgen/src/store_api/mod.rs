//! Reads a load back through the Thanos StoreAPI, as a querier does.
//!
//! The messages are declared here by hand, from the contract, not taken from the receiver's crate:
//! a wrong field number there must not be repeated here. Beside the samples, the reader watches
//! what a querier's merge relies on: series in ascending order of labels, labels sorted, chunks in
//! order, and samples within the bounds their chunk names.

use crate::error::{Error, Result};
use crate::oracle::{Fidelity, Oracle};
use crate::xor;

/// The StoreAPI carries chunk bytes: everything survives.
pub(crate) const FIDELITY: Fidelity =
    Fidelity { keeps_nan_bits: true, keeps_stale: true, keeps_zero_sign: true };

/// Series per frame that we offer to take; what the querier offers.
const BATCH_SIZE: i64 = 64;

/// `thanos.SeriesRequest`, the fields used.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SeriesRequest {
    #[prost(int64, tag = "1")]
    pub(crate) min_time: i64,
    #[prost(int64, tag = "2")]
    pub(crate) max_time: i64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) matchers: Vec<LabelMatcher>,
    /// 1 is ABORT: half an answer is none.
    #[prost(int32, tag = "7")]
    pub(crate) partial_response_strategy: i32,
    #[prost(int64, tag = "16")]
    pub(crate) response_batch_size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LabelMatcher {
    /// 0 is equality.
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) value: String,
}

/// `thanos.SeriesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SeriesResponse {
    #[prost(oneof = "Frame", tags = "1, 2, 4")]
    pub(crate) frame: Option<Frame>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Frame {
    #[prost(message, tag = "1")]
    Series(Series),
    #[prost(string, tag = "2")]
    Warning(String),
    #[prost(message, tag = "4")]
    Batch(SeriesBatch),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SeriesBatch {
    #[prost(message, repeated, tag = "1")]
    pub(crate) series: Vec<Series>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Series {
    #[prost(message, repeated, tag = "1")]
    pub(crate) labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) chunks: Vec<AggrChunk>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Label {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AggrChunk {
    #[prost(int64, tag = "1")]
    pub(crate) min_time: i64,
    #[prost(int64, tag = "2")]
    pub(crate) max_time: i64,
    #[prost(message, optional, tag = "3")]
    pub(crate) raw: Option<Chunk>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Chunk {
    /// 0 is XOR.
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) data: Vec<u8>,
}

/// Reads everything of the load from the StoreAPI at `address` (`host:port`) into the oracle; with
/// the label and the name of a tenant, what is that tenant's.
pub(crate) fn read(
    address: &str,
    tenant: Option<&(String, String)>,
    oracle: &mut Oracle,
) -> Result<()> {
    let failed = |reason: String| Error::Peer { peer: format!("StoreAPI {address}"), reason };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    runtime.block_on(read_stream(address, tenant, oracle, &failed))
}

async fn read_stream(
    address: &str,
    tenant: Option<&(String, String)>,
    oracle: &mut Oracle,
    failed: &impl Fn(String) -> Error,
) -> Result<()> {
    use tonic::codegen::http::uri::PathAndQuery;
    let connected = match tonic::transport::Endpoint::from_shared(format!("http://{address}")) {
        Ok(endpoint) => endpoint.connect().await,
        Err(error) => Err(error),
    };
    let channel = connected.map_err(|error| failed(chain(&error)))?;
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| failed(chain(&error)))?;
    let (name, value) = oracle.selector();
    let load = (name.to_owned(), value);
    let equal = |(name, value)| LabelMatcher { kind: 0, name, value };
    let (min_time, max_time) = oracle.times();
    let request = SeriesRequest {
        min_time,
        max_time,
        matchers: [load].into_iter().chain(tenant.cloned()).map(equal).collect(),
        partial_response_strategy: 1,
        response_batch_size: BATCH_SIZE,
    };
    let codec = tonic_prost::ProstCodec::<SeriesRequest, SeriesResponse>::default();
    let path = PathAndQuery::from_static("/thanos.Store/Series");
    let answer = grpc.server_streaming(tonic::Request::new(request), path, codec).await;
    let mut stream = answer.map_err(|status| failed(status.to_string()))?.into_inner();
    let mut reader = Reader { oracle, times: min_time..=max_time, last: None, last_chunk: None };
    while let Some(message) = stream.message().await.map_err(|status| failed(status.to_string()))? {
        match message.frame {
            Some(Frame::Series(series)) => reader.take(series)?,
            Some(Frame::Batch(batch)) => {
                batch.series.into_iter().try_for_each(|series| reader.take(series))?;
            }
            Some(Frame::Warning(warning)) => {
                reader.oracle.object(format!("warning although asked to abort: {warning}"));
            }
            None => {}
        }
    }
    Ok(())
}

/// An error and its causes, for people.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

struct Reader<'a> {
    oracle: &'a mut Oracle,
    /// What was asked for. Chunks may hold more.
    times: std::ops::RangeInclusive<i64>,
    last: Option<Vec<(String, String)>>,
    last_chunk: Option<(i64, i64)>,
}

impl Reader<'_> {
    fn take(&mut self, series: Series) -> Result<()> {
        let labels: Vec<_> =
            series.labels.into_iter().map(|label| (label.name, label.value)).collect();
        if !labels.is_sorted_by(|a, b| a.0 < b.0) {
            self.oracle.object(format!("labels unsorted: {labels:?}"));
        }
        match &self.last {
            Some(last) if *last > labels => {
                self.oracle.object(format!("series out of order: {labels:?} after {last:?}"));
                self.last_chunk = None;
            }
            // A big series may come in several frames, and its chunks go on.
            Some(last) if *last == labels => {}
            _ => self.last_chunk = None,
        }
        for chunk in series.chunks {
            self.take_chunk(&labels, &chunk)?;
        }
        self.last = Some(labels);
        Ok(())
    }

    fn take_chunk(&mut self, labels: &[(String, String)], chunk: &AggrChunk) -> Result<()> {
        let Some(raw) = chunk.raw.as_ref().filter(|raw| raw.kind == 0) else {
            self.oracle.object(format!("{labels:?}: a chunk that is not raw XOR"));
            return Ok(());
        };
        let bounds = (chunk.min_time, chunk.max_time);
        if self.last_chunk.is_some_and(|last| last > bounds) {
            self.oracle.object(format!("{labels:?}: chunks out of order at {bounds:?}"));
        }
        self.last_chunk = Some(bounds);
        let mut samples = xor::decode(&raw.data)?;
        let ends = samples.first().zip(samples.last()).map(|(first, last)| (first.0, last.0));
        if ends.is_none_or(|ends| ends.0 < bounds.0 || ends.1 > bounds.1) {
            self.oracle.object(format!("{labels:?}: chunk {bounds:?} holds {ends:?}"));
        }
        samples.retain(|(time, _)| self.times.contains(time));
        self.oracle.take(labels, &samples);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
