//! The table of answers, row by row.

use std::time::Duration;

use crate::listener::requests::{Asked, Kind};
use crate::listener::{
    Answer, Endpoint, Fact, Fault, Load, Outcome, Reason, Refusal, Reply, Requests, Status, Tally,
    Version, Written,
};
use crate::model::TenantError;
use crate::telemetry::{Metric, Snapshot};

fn reply(version: Version) -> Reply {
    Reply { version: Some(version), endpoint: Some(Endpoint::Receive), pause_s: 5 }
}

fn tally(facts: &[Fact]) -> Tally {
    let written = Written { samples: 10, histograms: 2, exemplars: 1 };
    let mut tally = Tally::of(Load::default(), written);
    for fact in facts {
        tally.refuse(fact.clone(), 3, || r#"{__name__="up", job="a"}"#.to_owned());
    }
    tally
}

fn encoded(answer: &Answer) -> String {
    let mut bytes = Vec::new();
    answer.encode(true, false, &mut bytes);
    String::from_utf8(bytes).expect("answers are text")
}

/// One of each fact, with its statuses in 1.0 and 2.0.
fn facts() -> Vec<(Fact, u16, u16)> {
    let (name, what) = ("a".to_owned(), "spans".to_owned());
    vec![
        (Fact::SampleOutOfOrder { t: 1, newest: 2 }, 409, 400),
        (Fact::SampleTooOld { t: 1, min: 2 }, 409, 400),
        (Fact::SampleOutOfBounds { t: 1, min: 2 }, 409, 400),
        (Fact::SampleTooFarInFuture { t: 3, max: 2 }, 409, 400),
        (Fact::SampleConflict { t: 1 }, 409, 400),
        (Fact::SeriesLimit { max: 1000 }, 429, 429),
        (Fact::LabelsMissing, 409, 400),
        (Fact::LabelNameEmpty, 409, 400),
        (Fact::LabelNameTwice { name: name.clone() }, 409, 400),
        (Fact::LabelNotUtf8 { name: name.clone() }, 400, 400),
        (Fact::LabelMalformed { what }, 400, 400),
        (Fact::LabelsTooMany { max: 30 }, 400, 400),
        (Fact::LabelNameTooLong { name: name.clone(), got: 3000, max: 2048 }, 400, 400),
        (Fact::LabelValueTooLong { name, got: 3000, max: 2048 }, 400, 400),
        (Fact::LabelSetTooLong { got: 3000, max: 2048 }, 400, 400),
        (Fact::SymbolRefsInvalid { what: "odd".to_owned() }, 400, 400),
        (Fact::MetricNameMissing, 400, 400),
        (Fact::SamplesMissing, 400, 400),
        (Fact::HistogramInvalid { what: "odd".to_owned() }, 400, 400),
        (Fact::HistogramTooWide { got: 3000, max: 2048 }, 400, 400),
        (Fact::HistogramTooLong { got: 3000, max: 2048 }, 400, 400),
        (Fact::ExemplarNotStored, 400, 400),
    ]
}

/// One of each refusal, with its status and id.
fn refusals() -> Vec<(Refusal, u16, &'static str)> {
    let text = || "x".to_owned();
    vec![
        (Refusal::Http(Fault::LineEnd), 400, "http-invalid"),
        (Refusal::Http(Fault::HeadTooSlow), 408, "request-too-slow"),
        (Refusal::Http(Fault::BodyTooLong { max: 1 }), 413, "body-too-long"),
        (Refusal::PathUnknown, 404, "path-unknown"),
        (Refusal::MethodNotAllowed, 405, "method-not-allowed"),
        (Refusal::HeaderTwice { name: text() }, 400, "header-twice"),
        (Refusal::Tenant { header: text(), error: TenantError::Dots }, 400, "tenant-invalid"),
        (Refusal::ContentTypeUnknown { got: text() }, 415, "content-type-unknown"),
        (Refusal::ContentEncodingUnknown { got: text() }, 415, "content-encoding-unknown"),
        (Refusal::SnappyInvalid { what: text() }, 400, "snappy-invalid"),
        (Refusal::DecodedTooLong { declared: 2, max: 1 }, 413, "decoded-too-long"),
        (Refusal::AboveLimit { what: "series", got: 2, max: 1 }, 413, "above-tenant-limit"),
        (Refusal::LabelsTooLong { max: 1 }, 413, "labels-too-long"),
        (Refusal::RecordsTooMany { what: text() }, 413, "records-too-many"),
        (Refusal::MessageInvalid { what: text() }, 400, "message-invalid"),
        (Refusal::Overloaded { what: "the queue".into() }, 503, "overloaded"),
        (Refusal::LogBehind, 503, "log-behind"),
        (Refusal::SeriesWait, 503, "series-wait"),
        (Refusal::NotReady { what: "replay" }, 503, "not-ready"),
        (Refusal::Draining, 503, "draining"),
        (Refusal::StorageFailed { what: text() }, 503, "storage-failed"),
        (Refusal::Panicked, 500, "internal"),
    ]
}

#[test]
fn success_is_200_on_thanos_path_and_204_elsewhere() {
    for (version, endpoint, status) in [
        (Version::V1, Endpoint::Receive, Status::Ok),
        (Version::V1, Endpoint::Write, Status::NoContent),
        (Version::V2, Endpoint::Receive, Status::NoContent),
        (Version::V2, Endpoint::Write, Status::NoContent),
    ] {
        let reply = Reply { version: Some(version), endpoint: Some(endpoint), pause_s: 5 };
        let answer = Answer::of(&Outcome::Applied(tally(&[])), reply);
        assert_eq!((answer.status, answer.text.as_str()), (status, ""), "{version:?} {endpoint:?}");
        let written = tally(&[]).written;
        assert_eq!(answer.written, (version == Version::V2).then_some(written));
        assert_eq!((answer.retry_after_s, answer.close), (None, false));
    }
}

#[test]
fn each_fact_has_its_status_in_both_versions() {
    let mut reasons: Vec<Reason> = facts().iter().map(|(fact, ..)| fact.reason()).collect();
    reasons.dedup();
    assert_eq!(reasons, Reason::ALL);
    assert!(reasons.iter().zip(0..).all(|(reason, at)| *reason as usize == at));
    for (fact, v1, v2) in facts() {
        let reason = fact.reason();
        for (version, status) in [(Version::V1, v1), (Version::V2, v2)] {
            let tally = tally(std::slice::from_ref(&fact));
            let answer = Answer::of(&Outcome::Applied(tally.clone()), reply(version));
            assert_eq!(answer.status.code(), status, "{fact}");
            assert_eq!(answer.written, (version == Version::V2).then_some(tally.written));
            assert_eq!(answer.retry_after_s.is_some(), status == 429);
            let id = reason.id();
            let want = format!(
                "3 of 16 samples refused, 13 stored: 3 {id}; \
                 first: {{__name__=\"up\", job=\"a\"}}: {fact} (err-tidegate-{id})"
            );
            assert_eq!(answer.text, want);
        }
    }
}

#[test]
fn the_strongest_fact_decides_and_is_the_example() {
    let (conflict, malformed) = (Fact::SampleConflict { t: 1 }, Fact::LabelsTooMany { max: 30 });
    for (facts, v1, v2) in [
        (vec![conflict.clone(), malformed.clone()], 400, 400),
        (vec![malformed.clone(), conflict.clone()], 400, 400),
    ] {
        for (version, status) in [(Version::V1, v1), (Version::V2, v2)] {
            let whole = Outcome::Applied(tally(&facts));
            assert_eq!(Answer::of(&whole, reply(version)).status.code(), status);
        }
    }
    let text =
        Answer::of(&Outcome::Applied(tally(&[conflict, malformed])), reply(Version::V1)).text;
    assert!(text.contains("3 sample-conflict, 3 labels-too-many; first: {__name__"), "{text}");
    assert!(text.ends_with("(err-tidegate-labels-too-many)"), "{text}");
}

#[test]
fn each_refusal_has_its_status_and_says_its_id() {
    for (refusal, status, id) in refusals() {
        for version in [None, Some(Version::V1), Some(Version::V2)] {
            let to = Reply { version, endpoint: None, pause_s: 9 };
            let answer = Answer::of(&Outcome::Refused(refusal.clone()), to);
            assert_eq!(answer.status.code(), status, "{refusal}");
            assert_eq!(answer.text, format!("{refusal} (err-tidegate-{id})"));
            assert_eq!(answer.retry_after_s, (status == 503).then_some(9));
            let zeros = (version == Some(Version::V2)).then(Written::default);
            assert_eq!(answer.written, zeros);
            let closes =
                matches!(refusal, Refusal::Http(_) | Refusal::Panicked | Refusal::Draining);
            assert_eq!(answer.close, closes);
        }
    }
}

#[test]
fn an_answer_and_the_metrics_say_the_same_words() {
    let shown = |outcome: &Outcome| {
        let requests = Requests::default();
        let answer = Answer::of(outcome, reply(Version::V1));
        let tally = match outcome {
            Outcome::Applied(tally) => Some(tally),
            Outcome::Refused(_) => None,
        };
        let (kind, took) = (Kind::NONE, Duration::ZERO);
        requests.answered(Asked { tenant: None, kind, body_bytes: 0, took, tally }, &answer);
        let mut all = Snapshot::default();
        futures_lite::future::block_on(requests.sample(&mut all, async || {}));
        let id = answer.text.rsplit_once("err-tidegate-").expect("an id").1;
        let id = id.trim_end_matches(')').to_owned();
        (id, answer.status, all)
    };
    let counted = |all: &Snapshot, metric, id: &str| {
        let of_it = all.total(metric, &[("reason", id)]) as u64;
        assert_eq!(of_it, all.total(metric, &[]) as u64, "{metric:?} {id}");
        of_it
    };
    for (fact, ..) in facts() {
        let (id, _, all) = shown(&Outcome::Applied(tally(std::slice::from_ref(&fact))));
        assert_eq!(counted(&all, Metric::RejectedSamples, &id), 3, "{fact}");
    }
    for (refusal, ..) in refusals() {
        let (id, status, all) = shown(&Outcome::Refused(refusal));
        assert_eq!(counted(&all, Metric::RefusedRequests, &id), 1);
        let turned_away = counted(&all, Metric::TurnedAwayRequests, &id);
        assert_eq!(turned_away, u64::from(status == Status::Unavailable), "{id}");
    }
}

#[test]
fn texts_are_one_bounded_line() {
    let evil = "\u{1b}[31m\r\nX: y\r\n\r\né".repeat(200);
    let mut all = tally(&facts().into_iter().map(|(fact, ..)| fact).collect::<Vec<_>>());
    all.refuse(Fact::LabelsTooMany { max: 1 }, 1, || evil.clone());
    let mut worst = Tally::default();
    worst.refuse(Fact::LabelMalformed { what: evil.clone() }, u64::MAX / 8, || evil.clone());
    for (fact, ..) in facts().into_iter().take(13) {
        worst.refuse(fact, 3, || evil.clone());
    }
    let refusal = Outcome::Refused(Refusal::MessageInvalid { what: evil });
    for outcome in [Outcome::Applied(all), Outcome::Applied(worst), refusal] {
        let answer = Answer::of(&outcome, reply(Version::V2));
        assert!(answer.text.len() <= 1023, "{}", answer.text.len());
        assert!(!answer.text.contains(char::is_control));
        assert_eq!(encoded(&answer).matches("\r\n\r\n").count(), 1);
    }
}

#[test]
fn answers_are_written_to_the_byte() {
    let fine = Answer::of(&Outcome::Applied(tally(&[])), reply(Version::V1));
    assert_eq!(
        encoded(&fine),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
    );
    let partial =
        Answer::of(&Outcome::Applied(tally(&[Fact::SampleConflict { t: 1 }])), reply(Version::V2));
    let text = &partial.text;
    assert_eq!(
        encoded(&partial),
        format!(
            "HTTP/1.1 400 Bad Request\r\n\
             X-Prometheus-Remote-Write-Samples-Written: 10\r\n\
             X-Prometheus-Remote-Write-Histograms-Written: 2\r\n\
             X-Prometheus-Remote-Write-Exemplars-Written: 1\r\n\
             Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Length: {}\r\nConnection: keep-alive\r\n\r\n{text}\n",
            text.len() + 1
        )
    );
    for (i, status) in Status::ALL.into_iter().enumerate() {
        assert_eq!(status as usize, i);
    }
}
