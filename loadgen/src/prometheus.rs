//! Reads a load back over HTTP, from whatever speaks Prometheus.
//!
//! Two ways. *Remote read* carries samples as stored, bit for bit but
//! for the sign of a zero; Prometheus has it. Where it is
//! missing (VictoriaMetrics), a *range selector* as an instant query, `{cluster="..."}[15000ms]`,
//! returns the raw samples too; it loses the bits of a NaN, and stale markers altogether.
//! A range query would not do: it repeats the last sample for five minutes and so hides losses.
//!
//! Reads go window by window, so that no answer is above [`SAMPLES_PER_READ`] samples; windows end
//! between samples, so that open and closed borders mean the same.

use prost::Message as _;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::http::{self, Url};
use crate::oracle::{Fidelity, Oracle};
use crate::scenario::Scenario;

/// Samples in one answer, about.
const SAMPLES_PER_READ: i64 = 2_000_000;

/// What remote read keeps. Go's encoder leaves a `-0.0` out as if it were the default.
const REMOTE_READ: Fidelity =
    Fidelity { keeps_nan_bits: true, keeps_stale: true, keeps_zero_sign: false };

/// What a query keeps.
const QUERY: Fidelity =
    Fidelity { keeps_nan_bits: false, keeps_stale: false, keeps_zero_sign: true };

/// How to read from a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Method {
    RemoteRead,
    Query,
}

impl Method {
    /// What survives this way.
    pub(crate) fn fidelity(self) -> Fidelity {
        match self {
            Self::RemoteRead => REMOTE_READ,
            Self::Query => QUERY,
        }
    }

    /// Remote read where the target has it, else queries.
    pub(crate) fn of(url: &Url) -> Result<Self> {
        let empty = snappy(&ReadRequest { queries: Vec::new() })?;
        let answer = http::fetch(&read_url(url), "POST", READ_HEADERS, &empty)?;
        Ok(if answer.status == 200 { Self::RemoteRead } else { Self::Query })
    }
}

const READ_HEADERS: &str = "Content-Type: application/x-protobuf\r\n\
    Content-Encoding: snappy\r\nX-Prometheus-Remote-Read-Version: 0.1.0\r\n";

#[derive(Clone, PartialEq, prost::Message)]
struct ReadRequest {
    #[prost(message, repeated, tag = "1")]
    queries: Vec<Query>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Query {
    #[prost(int64, tag = "1")]
    start_timestamp_ms: i64,
    #[prost(int64, tag = "2")]
    end_timestamp_ms: i64,
    #[prost(message, repeated, tag = "3")]
    matchers: Vec<LabelMatcher>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LabelMatcher {
    /// 0 is equality.
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReadResponse {
    #[prost(message, repeated, tag = "1")]
    results: Vec<QueryResult>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct QueryResult {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    /// The value as the eight bytes it is: a double read as such could quieten a NaN.
    #[prost(fixed64, tag = "1")]
    bits: u64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// The JSON of a query's answer.
#[derive(Debug, Deserialize)]
struct QueryAnswer {
    data: QueryData,
}

#[derive(Debug, Deserialize)]
struct QueryData {
    result: Vec<QuerySeries>,
}

#[derive(Debug, Deserialize)]
struct QuerySeries {
    metric: std::collections::BTreeMap<String, String>,
    values: Vec<(f64, String)>,
}

/// Reads everything of the load from the server at `url` into the oracle; `tick` hears of the
/// share that is done.
pub(crate) fn read(
    url: &Url,
    method: Method,
    oracle: &mut Oracle,
    mut tick: impl FnMut(f64),
) -> Result<()> {
    let (first, last) = oracle.times();
    let Scenario { tenant_header, tenant, series, interval_ms, .. } = oracle.scenario().clone();
    let tenant = match tenant.as_str() {
        "" => String::new(),
        tenant => format!("{tenant_header}: {tenant}\r\n"),
    };
    let steps = (SAMPLES_PER_READ / i64::from(series)).max(1);
    let mut start = first;
    while start <= last {
        let end = (start + (steps - 1) * interval_ms).min(last);
        match method {
            Method::RemoteRead => remote_read(url, &tenant, start, end, oracle)?,
            Method::Query => query(url, &tenant, start, end, oracle)?,
        }
        start = end + interval_ms;
        tick((end - first + 1) as f64 / (last - first + 1) as f64);
    }
    Ok(())
}

fn read_url(url: &Url) -> Url {
    url.at(&format!("{}/api/v1/read", url.path.trim_end_matches('/')))
}

fn snappy(message: &ReadRequest) -> Result<Vec<u8>> {
    let raw = message.encode_to_vec();
    snap::raw::Encoder::new()
        .compress_vec(&raw)
        .map_err(|error| Error::Usage(format!("snappy: {error}")))
}

fn remote_read(url: &Url, tenant: &str, start: i64, end: i64, oracle: &mut Oracle) -> Result<()> {
    let (name, value) = oracle.selector();
    let request = ReadRequest {
        queries: vec![Query {
            start_timestamp_ms: start,
            end_timestamp_ms: end,
            matchers: vec![LabelMatcher { kind: 0, name: name.to_owned(), value }],
        }],
    };
    let headers = format!("{READ_HEADERS}{tenant}");
    let body = http::fetch(&read_url(url), "POST", &headers, &snappy(&request)?)
        .and_then(|answer| success(url, answer))?;
    let undecodable = |reason: String| Error::Decode { what: "remote read", reason };
    let raw = snap::raw::Decoder::new()
        .decompress_vec(&body)
        .map_err(|error| undecodable(error.to_string()))?;
    let answer =
        ReadResponse::decode(raw.as_slice()).map_err(|error| undecodable(error.to_string()))?;
    for series in answer.results.into_iter().flat_map(|result| result.timeseries) {
        let labels: Vec<_> =
            series.labels.into_iter().map(|label| (label.name, label.value)).collect();
        let samples: Vec<_> =
            series.samples.iter().map(|sample| (sample.timestamp, sample.bits)).collect();
        oracle.take(&labels, &samples);
    }
    Ok(())
}

fn query(url: &Url, tenant: &str, start: i64, end: i64, oracle: &mut Oracle) -> Result<()> {
    let (name, value) = oracle.selector();
    // From just before the first to just behind the last sample: no sample on a border.
    let (time, range) = (end + 1, end - start + 2);
    let path = format!(
        "{}/api/v1/query?query=%7B{name}%3D%22{value}%22%7D%5B{range}ms%5D&time={}.{:03}&nocache=1",
        url.path.trim_end_matches('/'),
        time / 1000,
        time % 1000
    );
    let body =
        http::fetch(&url.at(&path), "GET", tenant, &[]).and_then(|answer| success(url, answer))?;
    let undecodable = |reason: String| Error::Decode { what: "query answer", reason };
    let answer: QueryAnswer =
        serde_json::from_slice(&body).map_err(|error| undecodable(error.to_string()))?;
    for series in answer.data.result {
        let labels: Vec<_> = series.metric.into_iter().collect();
        let samples: Vec<_> = series
            .values
            .iter()
            .map(|(seconds, text)| Ok(((seconds * 1000.0).round() as i64, float(text)?)))
            .collect::<std::result::Result<_, _>>()
            .map_err(undecodable)?;
        oracle.take(&labels, &samples);
    }
    Ok(())
}

/// Bits of a value as the API writes it.
fn float(text: &str) -> std::result::Result<u64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a value"))?;
    Ok(value.to_bits())
}

fn success(url: &Url, answer: http::Answer) -> Result<Vec<u8>> {
    if answer.status == 200 {
        return Ok(answer.body);
    }
    let text: String = String::from_utf8_lossy(&answer.body).trim().chars().take(300).collect();
    let reason = format!("status {}: {text}", answer.status);
    Err(Error::Peer { peer: format!("http://{}{}", url.host, url.path), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_api_have_their_bits() {
        for value in [1.0, 0.1, -0.0, f64::INFINITY, f64::MIN_POSITIVE, 5e-324, f64::MAX] {
            let text = match value {
                f64::INFINITY => "+Inf".to_owned(),
                _ => value.to_string(),
            };
            assert_eq!(float(&text).unwrap(), value.to_bits(), "{text}");
        }
        assert!(f64::from_bits(float("NaN").unwrap()).is_nan());
        assert!(float("x").is_err());
    }

    #[test]
    fn a_signalling_nan_survives_the_protobuf() {
        let stale = crate::stream::STALE_NAN_BITS;
        let sample = Sample { bits: stale, timestamp: 1 };
        assert_eq!(Sample::decode(sample.encode_to_vec().as_slice()).unwrap().bits, stale);
    }
}
