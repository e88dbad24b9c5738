//! How much of requests lies in memory, over all connections.
//!
//! ## Promises
//! - What a request brings is counted as it arrives, and again when it is unpacked. It counts until
//!   its call has ended. All calls together have [`REQUESTS_BYTES_MAX`]; what goes beyond ends its
//!   own call alone.
//! - The first [`REQUEST_BYTES_FREE`] of a call are not counted, so that `Info`, health and usual
//!   questions pass whatever others hold.
//! - A counted request that is not whole after [`ARRIVAL_MAX`] is ended: nobody holds the budget by
//!   saying nothing.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::store_api::REQUESTS_BYTES_MAX;

/// What a call has without being counted. A question with some matchers is far smaller.
const REQUEST_BYTES_FREE: usize = 1024;
/// Longest time for a counted request to arrive.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);

/// Bytes there are for requests. Clones are the same bytes.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    free: Arc<Semaphore>,
    arrival_max: Duration,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(REQUESTS_BYTES_MAX)), arrival_max: ARRIVAL_MAX }
    }

    /// The body, counted as it comes.
    fn weigh(&self, body: Body, held: Held) -> Body {
        Body::new(Weighed { body, held, arrival_max: self.arrival_max, late: None })
    }
}

/// What one call holds of the budget; given back with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Held(Arc<Holding>);

#[derive(Debug)]
struct Holding {
    free: Arc<Semaphore>,
    bytes: AtomicUsize,
}

impl Held {
    pub(super) fn of(budget: &Budget) -> Self {
        Self(Arc::new(Holding { free: Arc::clone(&budget.free), bytes: AtomicUsize::new(0) }))
    }

    /// Counts `more` bytes, or refuses them. One task at a time counts for a call.
    pub(super) fn take(&self, more: usize) -> Result<(), Status> {
        let before = self.0.bytes.load(Relaxed);
        let after = before.saturating_add(more);
        let wanted = counted(after) - counted(before);
        let room = u32::try_from(wanted).ok().and_then(|n| self.0.free.try_acquire_many(n).ok());
        let Some(room) = room else {
            let text = format!(
                "requests in hand may have {REQUESTS_BYTES_MAX} bytes, all together, and this one \
                 does not fit; ask again later"
            );
            return Err(Status::resource_exhausted(text));
        };
        room.forget();
        self.0.bytes.store(after, Relaxed);
        Ok(())
    }

    fn is_counted(&self) -> bool {
        counted(self.0.bytes.load(Relaxed)) > 0
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.free.add_permits(counted(*self.bytes.get_mut()));
    }
}

fn counted(bytes: usize) -> usize {
    bytes.saturating_sub(REQUEST_BYTES_FREE)
}

/// Counts the body of a request. What holds it longer than its answer takes to begin finds the
/// [`Held`] among the request's extensions.
pub(super) async fn hold(State(budget): State<Budget>, request: Request, next: Next) -> Response {
    let held = Held::of(&budget);
    let mut request = request.map(|body| budget.weigh(body, held.clone()));
    request.extensions_mut().insert(held.clone());
    let response = next.run(request).await;
    drop(held);
    response
}

/// A body that is counted as it comes.
#[derive(Debug)]
struct Weighed {
    body: Body,
    held: Held,
    arrival_max: Duration,
    late: Option<Pin<Box<Sleep>>>,
}

impl hyper::body::Body for Weighed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        match hyper::body::Body::poll_frame(Pin::new(&mut this.body), context) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                Poll::Ready(Some(this.held.take(bytes).map(|()| frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(Some(Err(Status::from_error(error.into()))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if this.held.is_counted() => {
                let arrival_max = this.arrival_max;
                let late = this.late.get_or_insert_with(|| Box::pin(sleep(arrival_max)));
                late.as_mut().poll(context).map(|()| {
                    let text = format!("the request is not whole after {arrival_max:?}");
                    Some(Err(Status::deadline_exceeded(text)))
                })
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::stream::{self, StreamExt as _};
    use http_body_util::BodyExt as _;
    use tonic::Code;

    use super::*;
    use crate::rt::{beside, control};

    #[test]
    fn calls_share_the_bytes_and_give_them_back() {
        let budget = Budget::new();
        let (one, other) = (Held::of(&budget), Held::of(&budget));
        one.take(REQUEST_BYTES_FREE).expect("free");
        assert!(!one.is_counted());
        one.take(REQUESTS_BYTES_MAX - 1).expect("nearly all");
        other.take(REQUEST_BYTES_FREE + 1).expect("the last");
        let status = other.take(1).expect_err("nothing is left");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("67108864 bytes"), "{status}");
        Held::of(&budget).take(REQUEST_BYTES_FREE).expect("still free");
        let again = one.clone();
        drop(one);
        other.take(1).expect_err("a clone still holds them");
        drop(again);
        other.take(REQUESTS_BYTES_MAX - 1).expect("they came back");
        drop(other);
        assert_eq!(budget.free.available_permits(), REQUESTS_BYTES_MAX);
    }

    /// A body of so many bytes and no end.
    fn endless(bytes: usize) -> Body {
        let begin = stream::iter([Ok::<_, Status>(Bytes::from(vec![0; bytes]))]);
        Body::from_stream(begin.chain(stream::pending()))
    }

    #[test]
    fn what_is_counted_must_arrive_in_time() {
        control::run(async {
            let budget = Budget { arrival_max: Duration::from_millis(20), ..Budget::new() };
            let whole = |bytes| budget.weigh(endless(bytes), Held::of(&budget)).collect();
            let late = whole(REQUEST_BYTES_FREE + 1).await.expect_err("it never ends");
            assert!(late.to_string().contains("not whole after 20ms"), "{late}");
            assert_eq!(budget.free.available_permits(), REQUESTS_BYTES_MAX, "all is given back");
            let free = beside::timeout(Duration::from_millis(200), whole(REQUEST_BYTES_FREE));
            assert!(free.await.is_err(), "what is not counted may take its time");
        })
        .expect("a control thread");
    }
}
