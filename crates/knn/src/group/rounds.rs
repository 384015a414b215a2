//! Work in two rounds on the parts of several lanes, as one job: a lane's second round may begin once all its parts are
//! through the first, while other lanes are still in it. Threads that take parts in order find their lane ready, where two
//! jobs would let all of them wait for the slowest in between.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How often a thread looks again before it gives its core away.
const SPINS: usize = 2000;

/// How far the parts of each lane are.
pub(super) struct Rounds {
    /// Parts of each lane.
    parts: usize,
    lanes: Vec<LaneRounds>,
    /// True once a part has panicked: then nobody waits any more.
    failed: AtomicBool,
}

#[derive(Default)]
struct LaneRounds {
    first: AtomicUsize,
    second: AtomicUsize,
    ready: AtomicBool,
}

impl Rounds {
    pub fn new(lanes: usize, parts: usize) -> Self {
        let lanes = (0..lanes).map(|_| LaneRounds::default()).collect();
        Self { parts, lanes, failed: AtomicBool::new(false) }
    }

    /// The first round of a part of `lane`; the last one of the lane also does `then`, which makes the lane ready.
    pub fn first(&self, lane: usize, part: impl FnOnce(), then: impl FnOnce()) {
        let _failing = Failing(&self.failed);
        part();
        if self.lanes[lane].first.fetch_add(1, Ordering::AcqRel) + 1 == self.parts {
            then();
            self.lanes[lane].ready.store(true, Ordering::Release);
        }
    }

    /// The second round of a part of `lane`, whose first round other threads have begun; the last one of the lane also does
    /// `then`. Nothing is done if a part has panicked.
    pub fn second(&self, lane: usize, part: impl FnOnce(), then: impl FnOnce()) {
        let _failing = Failing(&self.failed);
        let mut spins = 0;
        while !self.lanes[lane].ready.load(Ordering::Acquire) {
            if self.failed.load(Ordering::Acquire) {
                return;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                // The thread we wait for may have lost its core: let it have ours.
                std::thread::yield_now();
            }
        }
        part();
        if self.lanes[lane].second.fetch_add(1, Ordering::AcqRel) + 1 == self.parts {
            then();
        }
    }
}

/// Says so if its scope is left by a panic.
struct Failing<'a>(&'a AtomicBool);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceformer_threads::ThreadPool;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;

    #[test]
    fn a_lane_is_ready_when_all_its_parts_are_through() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::new(threads);
            for (lanes, parts) in [(1, 1), (1, 4), (3, 2), (7, 3)] {
                let rounds = Rounds::new(lanes, parts);
                let (items, log) = (lanes * parts, Mutex::new(Vec::new()));
                let note = |what, lane| log.lock().unwrap().push((what, lane));
                pool.for_each(2 * items, |_, item| {
                    let lane = item % items / parts;
                    if item < items {
                        // The first part is the slowest.
                        let slow =
                            || std::thread::sleep(std::time::Duration::from_micros(if item == 0 { 300 } else { 0 }));
                        rounds.first(lane, || (slow(), note("first", lane)).1, || note("ready", lane));
                    } else {
                        rounds.second(lane, || note("second", lane), || note("done", lane));
                    }
                });
                let log = log.into_inner().unwrap();
                for lane in 0..lanes {
                    let of_lane: Vec<_> = log.iter().filter(|(_, l)| *l == lane).map(|(what, _)| *what).collect();
                    let mut want = vec!["first"; parts];
                    want.push("ready");
                    want.extend(vec!["second"; parts]);
                    want.push("done");
                    assert_eq!(of_lane, want, "{threads} threads, {lanes} lanes, {parts} parts");
                }
            }
        }
    }

    #[test]
    fn nobody_waits_for_a_part_that_panicked() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::new(threads);
            for failing in 0..12 {
                let rounds = Rounds::new(3, 2);
                let run = || {
                    pool.for_each(12, |_, item| {
                        let work = || assert!(item != failing, "item {item}");
                        if item < 6 {
                            rounds.first(item / 2, work, || {});
                        } else {
                            rounds.second((item - 6) / 2, work, || {});
                        }
                    });
                };
                let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
                assert_eq!(panic.downcast_ref::<String>().unwrap(), &format!("item {failing}"));
            }
        }
    }
}
