use super::*;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

#[test]
fn every_item_runs_once_on_a_known_worker() {
    for threads in [1, 2, 3, 8] {
        let pool = ThreadPool::new(threads);
        for items in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            pool.for_each(items, |worker, item| {
                assert!(worker < threads);
                counts[item].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn many_small_jobs_and_pauses() {
    let pool = ThreadPool::new(3);
    let total = AtomicUsize::new(0);
    for round in 0..2000 {
        pool.for_each(5, |_, _| {
            total.fetch_add(1, Ordering::Relaxed);
        });
        if round % 500 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    assert_eq!(total.load(Ordering::Relaxed), 10_000);
}

#[test]
fn two_callers_take_turns() {
    let pool = ThreadPool::new(2);
    let total = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    pool.for_each(10, |_, _| {
                        total.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 8000);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_survives() {
    let pool = ThreadPool::new(2);
    let result = catch_unwind(AssertUnwindSafe(|| {
        pool.for_each(100, |_, item| assert!(item != 50, "item fifty"));
    }));
    assert!(result.is_err());
    let count = AtomicUsize::new(0);
    pool.for_each(10, |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(count.load(Ordering::Relaxed), 10);
}

#[test]
fn nested_calls_run_inline() {
    let pool = ThreadPool::new(2);
    let count = AtomicUsize::new(0);
    pool.for_each(4, |_, _| {
        pool.for_each(3, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(count.load(Ordering::Relaxed), 12);
}

#[test]
fn a_job_does_not_wait_for_another() {
    let pool = ThreadPool::new(2);
    let (began, release) = (std::sync::Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        let long = pool.clone();
        let (began, release) = (&began, &release);
        scope.spawn(move || {
            long.for_each(2, |_, item| {
                if item == 0 {
                    began.wait();
                }
                while !release.load(Ordering::Acquire) {
                    thread::yield_now();
                }
            });
        });
        began.wait();
        let count = AtomicUsize::new(0);
        pool.for_each(100, |worker, item| {
            assert_eq!(worker, 0);
            assert_eq!(count.fetch_add(1, Ordering::Relaxed), item);
        });
        assert_eq!(count.into_inner(), 100);
        release.store(true, Ordering::Release);
    });
}

#[test]
fn every_item_of_jobs_at_the_same_time_is_done_once() {
    let pool = ThreadPool::new(3);
    thread::scope(|scope| {
        for _ in 0..4 {
            let pool = pool.clone();
            scope.spawn(move || {
                for _ in 0..200 {
                    let done: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
                    pool.for_each(50, |_, item| {
                        done[item].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(done.iter().all(|times| times.load(Ordering::Relaxed) == 1));
                }
            });
        }
    });
}

#[test]
fn what_is_looked_ahead_at_may_be_gone() {
    let pool = ThreadPool::new(3);
    let total = AtomicUsize::new(0);
    for round in 0..300 {
        let bytes = vec![1_u8; [0, 1, 10_000, 300_000][round % 4]];
        for worker in 0..5 {
            pool.look_ahead(worker, &bytes);
        }
        pool.for_each(3, |_, _| {
            total.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(total.into_inner(), 900);
}

#[test]
fn a_descriptor_gives_the_same_pool() {
    let pool = ThreadPool::new(2);
    // SAFETY: the descriptor comes from a pool of this process.
    let other = unsafe { ThreadPool::from_descriptor(pool.descriptor()) }.unwrap();
    assert_eq!(other.threads(), 2);
    other.look_ahead(1, &[7; 5000]);
    let count = AtomicUsize::new(0);
    other.for_each(100, |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(count.load(Ordering::Relaxed), 100);
    // SAFETY: a null address is refused before it is followed.
    let refused = unsafe { ThreadPool::from_descriptor(std::ptr::null()) };
    assert!(matches!(refused, Err(DescriptorError::NotAnAddress)));
}
