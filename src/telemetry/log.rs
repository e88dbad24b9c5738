//! Log lines: what a line looks like, and how it gets out without making anybody wait.
//!
//! ## Format
//! One event is one line, with the same keys in both formats, as Thanos writes them:
//! ```text
//! ts=2026-11-20T10:00:00.123456Z level=warn component=ship msg="upload failed" tenant=a tries=3
//! {"ts":"2026-11-20T10:00:00.123456Z","level":"warn","component":"ship","msg":"upload failed",...}
//! ```
//! `component` is the first folder of the module that spoke. In logfmt a value with a space, a
//! quote, `=` or a control character is quoted and escaped, so a stranger's text cannot make a line
//! or a key of its own. For the journal a line of logfmt begins with its severity, `<4>` for a
//! warning, as sd-daemon(3) has it.
//!
//! ## Promises
//! - Whoever logs formats its line and puts it into a bounded channel; a full channel drops the
//!   line, counts it, and the writer says how many were dropped as soon as it can again. So a pipe
//!   that nobody reads costs lines, and never makes anybody wait: nor does a panic, see
//!   [`crate::telemetry::panics`].
//! - Lines leave whole and in order. A value is cut at [`VALUE_BYTES_MAX`], so what waits is
//!   bounded in bytes too.
//! - A line that cannot be written, to a full disk say, is counted with those dropped; the next one
//!   is tried again.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::telemetry::{Metric, Snapshot};

/// Lines that may wait for the writer.
const WAITING_LINES_MAX: usize = 4096;

/// Longest value in a line, in bytes; the rest is cut off.
const VALUE_BYTES_MAX: usize = 4096;
/// Pause before a full channel is tried again for the last words of the process, and how often it
/// is; the writer gets as long once more.
const AGAIN_AFTER: Duration = Duration::from_millis(5);
const TRIES: u32 = 100;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `key=value` pairs.
    Logfmt,
    /// JSON objects.
    Json,
    /// `key=value` pairs behind the severity that journald reads.
    Journald,
}

/// What has been logged. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Counters>);

/// Shared by all threads that log: a line costs far more than an atomic add.
#[derive(Debug, Default)]
struct Counters {
    error: AtomicU64,
    warn: AtomicU64,
    info: AtomicU64,
    debug: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    fn of(&self, level: Level) -> &AtomicU64 {
        match level {
            Level::ERROR => &self.0.error,
            Level::WARN => &self.0.warn,
            Level::INFO => &self.0.info,
            _ => &self.0.debug,
        }
    }

    fn drop_one(&self) {
        self.0.dropped.fetch_add(1, Relaxed);
    }

    /// Adds the counts to a scrape.
    pub fn sample(&self, snapshot: &mut Snapshot) {
        for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG] {
            let labels = vec![("level", level_name(level).to_string())];
            snapshot.count(Metric::LogLines, labels, self.of(level).load(Relaxed));
        }
        snapshot.count(Metric::LogLinesDropped, vec![], self.0.dropped.load(Relaxed));
    }
}

/// Where lines go: the sending end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lines {
    to: SyncSender<Message>,
    counts: Counts,
}

/// The receiving end, for [`write_lines`].
#[derive(Debug)]
pub struct Waiting {
    from: Receiver<Message>,
    counts: Counts,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Say when everything before is written.
    Flush(SyncSender<()>),
}

/// Both ends of the way of a line.
pub fn lines() -> (Lines, Waiting) {
    let (to, from) = sync_channel(WAITING_LINES_MAX);
    let counts = Counts::default();
    (Lines { to, counts: counts.clone() }, Waiting { from, counts })
}

/// A subscriber that sends events of at least `level` as lines; the server makes it the default.
pub fn subscriber(lines: Lines, level: Level, form: Form) -> impl Subscriber + Send + Sync {
    let counts = lines.counts.clone();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(lines)
        .event_format(LineFormat { form, counts })
        .finish()
}

/// Writes lines to `out` until all senders are gone. Runs on a thread of its own.
pub fn write_lines(waiting: &Waiting, form: Form, mut out: impl Write) {
    let mut said_dropped = 0;
    while let Ok(first) = waiting.from.recv() {
        waiting.write(first, &mut out);
        // All that waits goes out before the sink is flushed, but a flood has its turns as well.
        for _ in 1..WAITING_LINES_MAX {
            let Ok(next) = waiting.from.try_recv() else { break };
            waiting.write(next, &mut out);
        }
        let dropped = waiting.counts.0.dropped.load(Relaxed);
        if dropped > said_dropped {
            let line = dropped_line(form, dropped - said_dropped);
            // What cannot be said now is said with the next line.
            if out.write_all(line.as_bytes()).is_ok() {
                said_dropped = dropped;
            }
        }
        drop(out.flush());
    }
}

impl Waiting {
    fn write(&self, message: Message, out: &mut impl Write) {
        match message {
            Message::Line(line) => {
                if out.write_all(&line).is_err() {
                    self.counts.drop_one();
                }
            }
            Message::Flush(done) => {
                drop(out.flush());
                // Who asked may have stopped waiting.
                done.try_send(()).ok();
            }
        }
    }
}

impl Lines {
    /// What has been logged.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// Waits until everything logged before is written, but not for long: nobody may read what is
    /// written. Whether it was written. For the end of the process, never for a core that goes on.
    pub fn flush(&self) -> bool {
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        for _ in 0..TRIES {
            match self.to.try_send(message) {
                Ok(()) => return written.recv_timeout(TRIES * AGAIN_AFTER).is_ok(),
                Err(TrySendError::Full(back)) => message = back,
                Err(TrySendError::Disconnected(_)) => return false,
            }
            // Only a wait: nothing can have been written yet.
            written.recv_timeout(AGAIN_AFTER).ok();
        }
        false
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = OneLine<'a>;

    fn make_writer(&'a self) -> OneLine<'a> {
        OneLine { line: Vec::new(), lines: self }
    }
}

/// A line being written; sent when it is dropped.
#[derive(Debug)]
pub struct OneLine<'a> {
    line: Vec<u8>,
    lines: &'a Lines,
}

impl Write for OneLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for OneLine<'_> {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() && self.lines.to.try_send(Message::Line(line)).is_err() {
            self.lines.counts.drop_one();
        }
    }
}

/// Formats an event as one line.
#[derive(Debug, Clone)]
struct LineFormat {
    form: Form,
    counts: Counts,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        self.counts.of(*meta.level()).fetch_add(1, Relaxed);
        let mut fields = Fields::default();
        event.record(&mut fields);
        line(self.form, *meta.level(), component(meta.target()), fields, &mut out)
    }
}

/// Writes one line.
fn line(
    form: Form,
    level: Level,
    component: &str,
    fields: Fields,
    out: &mut Writer<'_>,
) -> fmt::Result {
    let mut ts = String::new();
    SystemTime.format_time(&mut Writer::new(&mut ts))?;
    let head = [
        ("ts", ts),
        ("level", level_name(level).to_string()),
        ("component", component.to_string()),
        ("msg", fields.message),
    ];
    let all = head.into_iter().chain(fields.rest);
    match form {
        Form::Logfmt => logfmt(all, out),
        Form::Json => json(all, out),
        Form::Journald => {
            write!(out, "<{}>", severity(level))?;
            logfmt(all, out)
        }
    }
}

/// What the writer says of lines that it never got or could not write.
fn dropped_line(form: Form, lines: u64) -> String {
    let (mut text, message) = (String::new(), "log lines dropped".into());
    let fields = Fields { message, rest: vec![("lines", lines.to_string())] };
    // Writing to a String cannot fail.
    line(form, Level::WARN, "telemetry", fields, &mut Writer::new(&mut text)).ok();
    text
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// As syslog numbers them.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// `tidegate::ship::job` is `ship`; a library is itself.
fn component(target: &str) -> &str {
    let inside = target.strip_prefix("tidegate::").unwrap_or(target);
    inside.split("::").next().unwrap_or(inside)
}

/// The fields of an event as texts.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, String)>,
}

impl Fields {
    fn put(&mut self, field: &Field, mut text: String) {
        text.truncate(text.floor_char_boundary(VALUE_BYTES_MAX));
        match field.name() {
            "message" => self.message = text,
            name => self.rest.push((name, text)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

fn logfmt(
    fields: impl Iterator<Item = (&'static str, String)>,
    out: &mut Writer<'_>,
) -> fmt::Result {
    for (i, (name, value)) in fields.enumerate() {
        let gap = if i == 0 { "" } else { " " };
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"\"=\\".contains(c);
        if !value.is_empty() && value.chars().all(plain) {
            write!(out, "{gap}{name}={value}")?;
        } else {
            write!(out, "{gap}{name}={value:?}")?;
        }
    }
    out.write_char('\n')
}

fn json(fields: impl Iterator<Item = (&'static str, String)>, out: &mut Writer<'_>) -> fmt::Result {
    let mut object = serde_json::Map::new();
    for (name, value) in fields {
        object.insert(name.into(), value.into());
    }
    writeln!(out, "{}", serde_json::Value::Object(object))
}

/// Lets one of many equal events through, and counts the others.
///
/// ```
/// # use tidegate::telemetry::log::Sampled;
/// let mut refused = Sampled::every_ms(10_000);
/// assert_eq!(refused.pass(0), Some(0));
/// assert_eq!((refused.pass(5_000), refused.pass(9_999)), (None, None));
/// assert_eq!(refused.pass(10_000), Some(2), "two were left out");
/// ```
#[derive(Debug, Clone)]
pub struct Sampled {
    every_ms: i64,
    next_ms: i64,
    left_out: u64,
}

impl Sampled {
    /// At most one event in this time.
    pub fn every_ms(every_ms: i64) -> Self {
        Self { every_ms, next_ms: i64::MIN, left_out: 0 }
    }

    /// Whether to log now, and then how many events were left out since the last time. `now_ms` is
    /// of any clock that does not run backwards.
    pub fn pass(&mut self, now_ms: i64) -> Option<u64> {
        if now_ms < self.next_ms {
            self.left_out += 1;
            return None;
        }
        self.next_ms = now_ms.saturating_add(self.every_ms);
        Some(std::mem::take(&mut self.left_out))
    }
}
