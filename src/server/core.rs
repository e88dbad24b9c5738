//! The life of a core: open the door, replay, serve, drain.
//!
//! ## Order
//! The door opens first and answers 503 while the logs are replayed, so that senders wait instead
//! of failing. No core replays before all have found their logs: who serves begins new ones. Then
//! the router and the commit loop start, and the core reports itself ready. At
//! the end the door stops taking requests, those in progress are answered, and the core reports
//! itself drained. It goes on writing what other cores send and answering reads until control lets
//! go, which it does when all are drained: a request in progress at one core may need every shard.
//! Then the last group is committed; the head is not flushed, for the log has it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::config::LimitsTable;
use crate::listener::{Limits, Listener, Pauses, RemoteWrite, TenantSource, Timer};
use crate::model::TenantId;
use crate::route::{self, Message, Router};
use crate::rt::channel::{Barrier, mpsc, oneshot, watch};
use crate::rt::clock::{Clock, Moment};
use crate::rt::core::{self as rt_core, Accepted, Disk, Doors, Measured, Mesh, Port, Queues};
use crate::server::intake::{CoreIntake, Stage};
use crate::server::{probe, raised};
use crate::shard::blocks::remove_unfinished;
use crate::shard::message::Ask;
use crate::shard::recover::{self, OldSegment, Recovered, Report};
use crate::shard::write::TurnedAway;
use crate::shard::{self, Shard, old};
use crate::telemetry::Snapshot;

/// How long requests in progress may take at a stop.
const DRAIN: Duration = Duration::from_secs(6);
/// How long readers may keep memory from being freed before they are told to leave.
const READERS_PATIENCE: Duration = Duration::from_secs(30);
/// How long the last group may take, when all are drained.
const SETTLE: Duration = Duration::from_secs(1);
/// How often the end of a drain is looked for.
const DRAIN_STEP: Duration = Duration::from_millis(5);

/// All a core is started with.
pub(super) struct Start {
    pub(super) shard: shard::Settings,
    pub(super) route: route::Settings,
    pub(super) root: PathBuf,
    pub(super) measured: Measured,
    /// A written file, opened before any other.
    pub(super) written: PathBuf,
    pub(super) doors: Doors,
    pub(super) limits: Limits,
    /// What tenants may write, as of now.
    pub(super) of_tenants: watch::Receiver<Arc<LimitsTable>>,
    pub(super) tenants: TenantSource,
    pub(super) pause_seed: u64,
    pub(super) port: Port<Message>,
    pub(super) asks: mpsc::Receiver<Ask>,
    /// Raised when no more requests are taken.
    pub(super) drain: watch::Receiver<bool>,
    /// Dropped when no request of an own sender is in progress any more.
    pub(super) drained: oneshot::Sender<()>,
    /// Raised when all are drained and nobody asks any more: until then a core writes and reads.
    pub(super) leave: watch::Receiver<bool>,
    pub(super) clock: Clock,
    /// Where the cores meet when each has found its logs, and when each has replayed them.
    pub(super) found: Arc<Barrier>,
    pub(super) ready: oneshot::Sender<Report>,
    pub(super) snapshot: watch::Sender<Snapshot>,
}

#[derive(Debug)]
pub(super) struct CoreTimer;

impl Timer for CoreTimer {
    async fn sleep(&self, time: Duration) {
        rt_core::sleep(time).await;
    }
}

pub(super) type CoreListener = Rc<Listener<CoreTimer, RemoteWrite<CoreIntake>>>;

/// Runs a core until it is drained. An error is told by who joins it.
pub(super) async fn run(start: Start) -> Result<(), String> {
    let Start { doors, limits, tenants, drain, drained, leave, asks, .. } = start;
    let disk = Disk::new(start.measured);
    disk.open_first(&start.written).await.map_err(|e| format!("cannot open a file: {e}"))?;
    let own = usize::from(start.shard.shard);
    let intake = CoreIntake::new(start.of_tenants);
    let pauses = Pauses::new(start.pause_seed);
    let service = RemoteWrite::new(intake.clone(), tenants, pauses);
    let listener: CoreListener = Rc::new(Listener::new(limits, CoreTimer, service, drain.clone()));

    let mesh = open_door(own, start.port, doors, &intake, &listener).await;
    if own == 0 {
        let removed = remove_unfinished(&disk, &start.root).await;
        removed.map_err(|e| format!("cannot remove an unfinished block: {e}"))?;
    }
    let unread = |e| format!("cannot read the log of shard {own}: {e}");
    let logs = recover::find(&disk, &start.root, &start.shard).await.map_err(unread)?;
    start.found.wait().await;
    let recovered = recover::recover(disk, &start.root, &start.shard, logs).await;
    let recovered = recovered.map_err(unread)?;
    // Until all have counted the series they found, nobody makes another.
    start.found.wait().await;
    let Recovered { shard, log, series, spares, report, old } = recovered;
    let (shards, root) = (start.route.shards, start.root);
    let old = Old { disk, own, shards, root, segments: old, swept: false };
    let shard = Rc::new(shard);
    let router = Rc::new(Router::new(start.route, shard.clone(), mesh.clone()));
    commit(shard.clone(), log, series, start.clock);
    let queues = Queues::new();
    queues.flush(make_spares(own, spares));
    intake.enter(Stage::Serving(router));
    drop(start.ready.send(report));

    publish(start.snapshot, &intake, &listener, &shard);
    rt_core::spawn(answer(asks, shard.clone(), old, queues));
    raised(drain).await;
    within(DRAIN, || listener.connections() == 0 && shard.is_settled()).await;
    drop(drained);
    raised(leave).await;
    intake.enter(Stage::Draining);
    within(SETTLE, || shard.is_settled()).await;
    Ok(())
}

/// Connects the core to the others and begins to accept.
async fn open_door(
    own: usize,
    port: Port<Message>,
    doors: Doors,
    intake: &CoreIntake,
    listener: &CoreListener,
) -> Rc<Mesh<Message>> {
    let taker = (intake.clone(), listener.clone());
    let turned_away = Rc::new(RefCell::new(TurnedAway::default()));
    let mesh = port.connect(move |message| match message {
        Message::Batch(batch) => {
            let router = taker.0.router();
            if !turned_away.borrow_mut().turns_away(&batch, router.as_ref().err().copied())
                && let Ok(router) = router
            {
                router.deliver(*batch);
            }
        }
        Message::Connection(accepted) => serve(taker.1.clone(), accepted),
    });
    let mesh = Rc::new(mesh.await);
    let (door, hand) = (listener.clone(), mesh.clone());
    let hand_on = move |core, accepted| {
        if core == own {
            serve(door.clone(), accepted);
        } else if let Err(Message::Connection(back)) =
            hand.send(core, Message::Connection(accepted))
        {
            serve(door.clone(), back);
        }
    };
    let counted = listener.clone();
    doors.accept(hand_on, move || counted.probe().connections_refused.add(1));
    mesh
}

/// Keeps spare segments ready, for ever. What keeps it from that is told once.
async fn make_spares(own: usize, spares: Rc<shard::Spares<Disk>>) {
    let mut told = false;
    loop {
        match spares.prepare().await {
            Ok(()) => told = false,
            Err(error) if !told => {
                let what = "cannot make a spare log segment; it is tried on";
                tracing::warn!(shard = own, %error, "{what}");
                told = true;
            }
            Err(_) => {}
        }
        rt_core::sleep(Duration::from_secs(1)).await;
    }
}

/// Answers what control asks.
async fn answer(mut asks: mpsc::Receiver<Ask>, shard: Rc<Shard<Disk>>, old: Old, queues: Queues) {
    let old = Rc::new(RefCell::new(Some(old)));
    while let Some(ask) = asks.recv().await {
        let shard = shard.clone();
        match ask {
            Ask::Truncate { tenant, end_ms, reply } => {
                shard.truncate(&tenant, end_ms);
                reply.send(()).ok();
                let patience = || rt_core::sleep(READERS_PATIENCE);
                queues.flush(async move { shard.free(&tenant, patience).await });
            }
            Ask::DropOld { covered_below, reply } => {
                let old = old.clone();
                queues.flush(async move {
                    // Who comes meanwhile would take what is being dropped for gone.
                    let Some(mut mine) = old.take() else { return };
                    let left = mine.let_go(&shard, &covered_below).await;
                    old.replace(Some(mine));
                    drop(reply.send(left.map_err(|error| error.to_string())));
                });
            }
            Ask::Cut { .. } | Ask::Settle(_) | Ask::Flush(_) => {
                queues.flush(async move { shard.answer(ask).await });
            }
            question => queues.select(async move { shard.answer(question).await }),
        }
    }
}

/// The logs of earlier generations, as one core knows them.
struct Old {
    disk: Disk,
    own: usize,
    shards: u16,
    root: PathBuf,
    segments: Vec<OldSegment>,
    /// Whether what shards have left that are gone was looked for.
    swept: bool,
}

impl Old {
    /// Lets go of those whose samples are all in blocks. Every core knows all of them; core 0
    /// deletes, and each shard may recycle its own segments when none before them is left. Returns
    /// how many are left.
    async fn let_go(
        &mut self,
        shard: &Shard<Disk>,
        covered_below: &BTreeMap<TenantId, i64>,
    ) -> io::Result<usize> {
        let below = |tenant: &TenantId| covered_below.get(tenant).copied().unwrap_or(i64::MIN);
        let gone = old::removable(&self.disk, &self.segments, self.shards, below).await;
        if self.own == 0 {
            old::remove(&self.disk, &gone).await?;
        }
        let paths: Vec<PathBuf> = gone.iter().map(|segment| segment.path.clone()).collect();
        self.segments.retain(|segment| !paths.contains(&segment.path));
        if self.own == 0 && (!self.swept || !paths.is_empty()) {
            old::remove_deserted(&self.disk, &self.root, self.shards, &self.segments).await?;
            self.swept = true;
        }
        if self.segments.iter().all(|segment| usize::from(segment.shard) != self.own) {
            shard.old_segments_are_gone();
        }
        Ok(self.segments.len())
    }
}

fn serve(listener: CoreListener, accepted: Accepted) {
    rt_core::spawn_caught(async move {
        if let Some((stream, place)) = accepted.take() {
            listener.serve(stream).await;
            drop(place);
        }
    });
}

fn commit(
    shard: Rc<Shard<Disk>>,
    log: shard::Log<Disk>,
    series: shard::SeriesFile<Disk>,
    clock: Clock,
) {
    rt_core::spawn(async move {
        let error = shard.commit_loop(log, series, &clock).await;
        tracing::error!(
            shard = shard.number(),
            %error,
            "the log is dead: this shard answers 503 to every write until the next start"
        );
    });
}

/// Publishes the core's numbers every second.
fn publish(
    to: watch::Sender<Snapshot>,
    intake: &CoreIntake,
    listener: &CoreListener,
    shard: &Rc<Shard<Disk>>,
) {
    let (intake, listener, shard) = (intake.clone(), listener.clone(), shard.clone());
    rt_core::spawn(async move {
        let (mut rounds, mut limits) = (0, 0);
        loop {
            rounds += 1;
            shard.follow_series_limits(&mut limits).await;
            to.send_replace(probe::snapshot(rounds, &intake, &listener, &shard).await);
            rt_core::sleep(Duration::from_secs(1)).await;
        }
    });
}

/// Waits until something is so, at most so long.
async fn within(most: Duration, is_so: impl Fn() -> bool) {
    let begun = Moment::now();
    while !is_so() && begun.elapsed() < most {
        rt_core::sleep(DRAIN_STEP).await;
    }
}
