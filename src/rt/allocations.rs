//! Counts what a thread allocates, so that a test can say how often a path does. Tests only.
//!
//! The count is the thread's own: tests beside do not disturb it. Memory that is moved to grow
//! counts like new memory; giving memory back does not count.
#![expect(unsafe_code, reason = "an allocator is unsafe by its nature; this one passes all on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Made without memory and dropped without work: an allocator may touch it at any time.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and says how often this thread allocated meanwhile.
pub(crate) fn counted<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = COUNT.get();
    let out = work();
    (COUNT.get() - before, out)
}

/// The system's allocator, counted.
struct Counting;

impl Counting {
    fn count() {
        COUNT.set(COUNT.get() + 1);
    }
}

// SAFETY: all is done by the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: what the caller promised is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: what the caller promised is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: what the caller promised is passed on.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: what the caller promised is passed on.
        unsafe { System.dealloc(old, layout) }
    }
}

#[test]
fn new_and_moved_memory_counts() {
    assert_eq!(counted(|| 1), (0, 1));
    let (count, mut bytes) = counted(|| Vec::<u8>::with_capacity(100));
    assert_eq!(count, 1);
    assert_eq!(counted(|| bytes.resize(100, 0)).0, 0, "there is room");
    assert_eq!(counted(|| bytes.push(0)).0, 1, "it moves");
    assert_eq!(counted(|| vec![0_u8; 100]).0, 1, "zeroed memory is memory");
    assert_eq!(counted(|| drop(bytes)).0, 0);
}

#[test]
fn other_threads_do_not_count() {
    let (count, ()) = counted(|| {
        std::thread::scope(|s| {
            let many = || (0..10_000).map(Box::new).collect::<Vec<Box<u32>>>().len();
            assert_eq!(s.spawn(many).join().expect("no panic"), 10_000);
        });
    });
    assert!(count < 100, "{count}: what starting a thread takes, and no more");
}
