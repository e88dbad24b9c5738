//! The traps of the runtime that need no socket and no file of ours.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::*;
use crate::peer;
use crate::rt::clock::Moment;
use crate::rt::storage::{Storage as _, StorageFile as _};

/// In the environment of a child: it is to die of a panic.
const DYING: &str = "TIDEGATE_TEST_DYING";

/// Runs a root future on a core and waits for it.
fn on_a_core<T: Send + 'static, F: Future<Output = T> + 'static>(
    root: impl FnOnce() -> F + Send + 'static,
) -> T {
    let cpu = cpus().first().copied().unwrap_or(0);
    let core = Core::start("test", cpu, io_memory(1), root).expect("a core");
    core.join().expect("no panic")
}

/// Threads that take all of the processor the test's cores are on.
struct Crowd(Arc<AtomicBool>);

impl Crowd {
    fn on(cpu: usize, threads: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let over = over.clone();
            let spin = move || {
                core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            };
            drop(spawn_named("crowd", spin).expect("a thread"));
        }
        Self(over)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_core_begins_on_a_crowded_processor() {
    let cpu = cpus().first().copied().unwrap_or(0);
    let _crowd = Crowd::on(cpu, 3);
    for round in 0..200 {
        // Nobody else wakes it: without the pulse it may sleep for ever at each of these.
        let core = Core::start("crowded", cpu, io_memory(1), || async {
            for _ in 0..20 {
                sleep(Duration::from_millis(1)).await;
            }
        });
        let core = core.expect("a core");
        let begun = Moment::now();
        while !core.is_finished() {
            assert!(begun.elapsed() < Duration::from_secs(20), "round {round} sleeps");
            std::thread::sleep(Duration::from_millis(1));
        }
        core.join().expect("no panic");
    }
}

/// What the calling thread has had of its processor.
fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Within milliseconds of the core's own time, for other tests want its processor as well. With
/// glommio's own preempt timer the median is 200 ms.
#[test]
fn a_busy_core_hears_a_question_soon() {
    let (ask, mut asks) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<Duration>>(1);
    let cpu = cpus().first().copied().unwrap_or(0);
    let spent_ns = Arc::new(AtomicU64::new(0));
    let tell = spent_ns.clone();
    let core = Core::start("busy", cpu, io_memory(1), move || async move {
        let queues = Queues::new();
        let over = std::rc::Rc::new(std::cell::Cell::new(false));
        let busy = over.clone();
        spawn(async move {
            while !busy.get() {
                std::hint::black_box((0..10_000_u64).sum::<u64>());
                tell.store(own_time().as_nanos() as u64, Relaxed);
                pause().await;
            }
        });
        while let Some(reply) = asks.recv().await {
            queues.select(async move { reply.send(own_time()).expect("it waits") });
        }
        over.set(true);
    });
    let core = core.expect("a core");
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            let (reply, answer) = tokio::sync::oneshot::channel();
            let asked = Duration::from_nanos(spent_ns.load(Relaxed));
            ask.blocking_send(reply).expect("a core");
            answer.blocking_recv().expect("an answer").saturating_sub(asked)
        })
        .collect();
    drop(ask);
    core.join().expect("no panic");
    times.sort_unstable();
    println!("median {:?}, slowest {:?}", times[25], times[49]);
    assert!(times[25] < Duration::from_millis(10), "{times:?}");
}

#[test]
fn a_panic_costs_its_task_or_the_process() {
    if let Some(way) = std::env::var_os(DYING) {
        on_a_core(move || async move {
            if way == "task" {
                spawn(async { panic!("on purpose") });
            } else {
                spawn_caught(async { or_abort(|| panic!("on purpose")) });
            }
            sleep(Duration::from_secs(20)).await;
        });
        return;
    }
    let lived = on_a_core(|| async {
        spawn_caught(async { panic!("on purpose") });
        Queues::new().select(async { panic!("on purpose") });
        sleep(Duration::from_millis(20)).await;
        true
    });
    assert!(lived, "the core outlives them");
    // What a core cannot live without takes the process with it.
    let test = "rt::core::tests::a_panic_costs_its_task_or_the_process";
    for way in ["task", "work"] {
        let mut child = Command::new(std::env::current_exe().expect("a name"));
        let output = child.args([test, "--exact", "--nocapture"]).env(DYING, way).output();
        let output = output.expect("runs");
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(libc::SIGABRT), "{output:?}");
    }
}

#[test]
fn a_panic_in_a_blocking_call_is_an_error() {
    let (failed, then) = on_a_core(|| async {
        let failed = blocking::<()>(|| panic!("on purpose")).await;
        (failed, blocking(|| Ok(7)).await)
    });
    assert_eq!(failed.expect_err("it panicked").to_string(), "a blocking call panicked");
    assert_eq!(then.expect("the thread lives"), 7);
}

/// Writes through the ring for polled devices, after `first` was opened before all else. `None`
/// where no device is written directly: no ring polls the page cache.
fn polled_writes(first: impl AsyncFnOnce(&Disk, &Path) + Send + 'static) -> Option<u64> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_owned();
    std::fs::write(path.join("scratch"), vec![1; 64 * 1024]).expect("written");
    let scratch = path.join("scratch");
    let measured = on_a_core(move || async move { Disk::measure(&scratch).await });
    let measured = measured.expect("measured");
    let polled = on_a_core(move || async move {
        let disk = Disk::new(measured);
        first(&disk, &path).await;
        let file = disk.create(&path.join("file")).await.expect("created");
        for at in 0..8 {
            file.write_at(at * 4096, &[0; 4096]).await.expect("written");
        }
        glommio::executor().io_stats().poll_ring.file_writes().0
    });
    // What lies in memory has no device; newer kernels take direct writes to it nevertheless.
    let device = rustix::fs::stat(dir.path()).expect("it is there").st_dev;
    let is_direct = measured.direct && rustix::fs::major(device) != 0;
    let missing = io::Error::other("TMPDIR is elsewhere");
    let found = if is_direct { Ok(()) } else { Err(missing) };
    let what = "writes to a device without poll queues";
    peer::is_there(found, "a device with direct I/O", what).then_some(polled)
}

/// A core that polls a device without queues for it spins for as long as anything is written.
#[test]
fn a_device_without_poll_queues_is_not_polled() {
    let polled = polled_writes(async |disk: &Disk, dir: &Path| {
        disk.open_first(&dir.join("scratch")).await.expect("opened");
    });
    let Some(polled) = polled else { return };
    assert_eq!(polled, 0, "the written file was not opened first");
    let misled = polled_writes(async |disk: &Disk, dir: &Path| {
        drop(disk.create(&dir.join("empty")).await.expect("created"));
    });
    assert_eq!(misled, Some(8), "an empty first file misleads");
}

/// 12 MiB in pieces of a quarter take 120 ms at 100 MiB a second, wherever the clock's edges fall.
#[test]
fn work_in_the_background_keeps_to_its_rate() {
    let dir = tempfile::tempdir().expect("a folder");
    let scratch = dir.path().join("scratch");
    std::fs::write(&scratch, vec![1; 64 * 1024]).expect("written");
    let took = on_a_core(move || async move {
        let disk = Disk::new(Disk::measure(&scratch).await.expect("measured"));
        let begun = Moment::now();
        for _ in 0..48 {
            disk.pace(256 << 10).await;
        }
        begun.elapsed()
    });
    assert!(took >= Duration::from_millis(118), "{took:?}");
}

#[test]
fn a_root_without_sysfs_is_told() {
    let error = sysfs_is_there(Path::new("/nowhere/online")).expect_err("nothing is there");
    let text = error.to_string();
    assert!(text.starts_with("/nowhere/online cannot be read (No such file"), "{text}");
    assert!(probe().is_ok(), "here it is");
}
