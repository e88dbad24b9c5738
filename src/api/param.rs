//! Parameters of a request: from its form and its URL, as Prometheus reads them.
//!
//! Values of the form come before those of the URL; unknown parameters are ignored. A time is
//! decimal seconds, rounded to milliseconds, or RFC 3339.
//!
//! A form may be long and the patterns in it dear to compile, so all of it is read on the control
//! pool.

use std::sync::Arc;

use axum::extract::{FromRequest, RawForm, Request};
use axum::http::{Method, Uri};
use bytes::Bytes;
use percent_encoding::percent_decode;

use crate::api::Shared;
use crate::api::answer::Failure;
use crate::model::{Matcher, Quoted, TimeSpan};
use crate::promql::parse_selectors;
use crate::query::MATCHERS_MAX;

/// Texts that clients send for the ends of all time, for RFC 3339 cannot write them.
const MIN_TIME: &str = "-292273086-05-16T16:47:06Z";
const MAX_TIME: &str = "292277025-08-18T07:12:54.999999999Z";

/// Most `match[]` in one request: each is a query of its own.
const SELECTORS_MAX: usize = 128;

/// What a request asks for.
#[derive(Debug, Clone)]
pub(super) struct Params {
    /// `start` and `end`; what is missing is open.
    pub(super) span: TimeSpan,
    /// 0 is none.
    pub(super) limit: usize,
    /// The `match[]` sets; a series is wanted if it fulfils all of any of them.
    pub(super) matchers: Vec<Arc<[Matcher]>>,
}

impl FromRequest<Shared> for Params {
    type Rejection = Failure;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Failure> {
        let uri = request.uri().clone();
        let mut form = Bytes::new();
        if request.method() == Method::POST {
            let body = RawForm::from_request(request, shared).await;
            form = body.map_err(|e| Failure::BadData(format!("error parsing form: {e}")))?.0;
        }
        shared.view.prepare(move || Pairs::read(&form, &uri)?.params()).await?
    }
}

/// All pairs of a request.
#[derive(Debug)]
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn read(form: &[u8], uri: &Uri) -> Result<Self, Failure> {
        let of_url = uri.query().unwrap_or_default().as_bytes();
        let parts = form.split(|&b| b == b'&').chain(of_url.split(|&b| b == b'&'));
        let pair = |part: &[u8]| {
            let (name, value) = match part.iter().position(|&b| b == b'=') {
                Some(at) => (&part[..at], &part[at + 1..]),
                None => (part, &[][..]),
            };
            Ok((unescaped(name)?, unescaped(value)?))
        };
        parts.filter(|part| !part.is_empty()).map(pair).collect::<Result<_, _>>().map(Self)
    }

    fn params(&self) -> Result<Params, Failure> {
        let (span, limit) = (self.span()?, self.limit()?);
        Ok(Params { span, limit, matchers: self.matchers()? })
    }

    fn one(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn span(&self) -> Result<TimeSpan, Failure> {
        let end_of = |name, open| match self.one(name) {
            None => Ok(open),
            Some(text) => time_ms(text).ok_or_else(|| {
                let why = format!(
                    "invalid time value for '{name}': cannot parse {text:?} to a valid timestamp"
                );
                Failure::parameter(name, why)
            }),
        };
        Ok(TimeSpan { min: end_of("start", i64::MIN)?, max: end_of("end", i64::MAX)? })
    }

    fn limit(&self) -> Result<usize, Failure> {
        let Some(text) = self.one("limit") else { return Ok(0) };
        match text.parse::<i64>() {
            Ok(limit) => usize::try_from(limit)
                .map_err(|_| Failure::parameter("limit", "limit must be non-negative")),
            Err(_) => {
                Err(Failure::parameter("limit", format!("cannot parse {text:?} as a number")))
            }
        }
    }

    fn matchers(&self) -> Result<Vec<Arc<[Matcher]>>, Failure> {
        let texts = self.0.iter().filter(|(n, _)| n == "match[]").map(|(_, text)| text);
        let refuse = |why: String| Err(Failure::parameter("match[]", why));
        let count = texts.clone().count();
        if count > SELECTORS_MAX {
            return refuse(format!(
                "{count} selectors are given; at most {SELECTORS_MAX} are taken"
            ));
        }
        let sets = parse_selectors(texts).map_err(|e| Failure::parameter("match[]", e))?;
        if let Some(set) = sets.iter().find(|set| set.len() > MATCHERS_MAX) {
            let count = set.len();
            return refuse(format!(
                "a selector has {count} matchers; at most {MATCHERS_MAX} are taken"
            ));
        }
        Ok(sets.into_iter().map(Into::into).collect())
    }
}

/// A name or value of a form. What is not UTF-8 becomes U+FFFD.
fn unescaped(text: &[u8]) -> Result<String, Failure> {
    let is_escape = |at: usize| {
        let digits = text.get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let mut percents = text.iter().enumerate().filter(|&(_, &byte)| byte == b'%');
    if let Some((at, _)) = percents.find(|&(at, _)| !is_escape(at)) {
        let wrong =
            String::from_utf8_lossy(text.get(at..text.len().min(at + 3)).unwrap_or_default());
        let why = format!("error parsing form values: invalid URL escape {}", Quoted(&wrong));
        return Err(Failure::BadData(why));
    }
    let spaced: Vec<u8> = text.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect();
    Ok(percent_decode(&spaced).decode_utf8_lossy().into_owned())
}

/// Milliseconds since the epoch.
fn time_ms(text: &str) -> Option<i64> {
    match text {
        MIN_TIME => return Some(i64::MIN),
        MAX_TIME => return Some(i64::MAX),
        _ => {}
    }
    if let Ok(seconds) = text.parse::<f64>() {
        // A float that no time has saturates in the cast; NaN and infinities are not times.
        return seconds.is_finite().then(|| (seconds * 1000.0).round() as i64);
    }
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// The label name of a path. Prometheus lets names that do not fit a URL be written `U__` and then
/// `_2e_` for `.` and `__` for `_`; what is not written so is the name itself.
pub(super) fn label_name(text: &str) -> Result<String, Failure> {
    let name = text.strip_prefix("U__").and_then(unescape).unwrap_or_else(|| text.to_string());
    if name.is_empty() {
        return Err(Failure::BadData(format!("invalid label name: {name:?}")));
    }
    Ok(name)
}

fn unescape(text: &str) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('_') {
        name.push_str(before);
        if let Some(after) = after.strip_prefix('_') {
            name.push('_');
            rest = after;
        } else {
            let (hex, after) = after.split_once('_')?;
            name.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
            rest = after;
        }
    }
    name.push_str(rest);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, want) in [
            ("0", Some(0)),
            ("1435781451.781", Some(1_435_781_451_781)),
            ("1.0004", Some(1000)),
            ("1.0005", Some(1001)),
            ("-1.5", Some(-1500)),
            ("1e3", Some(1_000_000)),
            ("2015-06-03T13:21:58.555Z", Some(1_433_337_718_555)),
            ("2015-06-03T14:21:58.555+01:00", Some(1_433_337_718_555)),
            (MIN_TIME, Some(i64::MIN)),
            (MAX_TIME, Some(i64::MAX)),
            ("1e300", Some(i64::MAX)),
            ("NaN", None),
            ("Inf", None),
            ("now", None),
            ("30m", None),
            ("2015-06-03", None),
        ] {
            assert_eq!(time_ms(text), want, "{text}");
        }
    }

    #[test]
    fn names() {
        for (text, want) in [
            ("job", "job"),
            ("U__http_2e_status", "http.status"),
            ("U__a__b", "a_b"),
            ("U___4e2d_", "中"),
            ("U__bad_zz_", "U__bad_zz_"),
            ("U__open_2e", "U__open_2e"),
            ("U__surrogate_d800_", "U__surrogate_d800_"),
            ("a__b", "a__b"),
        ] {
            assert_eq!(label_name(text).as_deref(), Ok(want), "{text}");
        }
        assert!(label_name("").is_err());
    }
}
