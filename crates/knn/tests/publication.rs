//! A model of the guarantee that a shared index gives, checked for every order in which threads can take their steps.
//!
//! The file under test is compiled into this one with the model checker's locks in place of the real ones.

mod sync {
    pub use loom::sync::{Arc, Mutex, MutexGuard, RwLock};
    pub use std::sync::PoisonError;
}

#[path = "../src/publication.rs"]
mod publication;

use loom::thread;
use publication::{Publication, Stated};
use sync::Arc;

/// Stands for an index: a write changes both numbers, one after the other.
#[derive(Debug, Default)]
struct Pair {
    first: usize,
    second: usize,
}

impl Stated for Pair {
    type State = (usize, usize);
    fn state(&self) -> (usize, usize) {
        (self.first, self.second)
    }
}

fn add_one(pair: &mut Pair) {
    pair.first += 1;
    // Whoever could look in between would see half of a write.
    thread::yield_now();
    pair.second += 1;
}

/// Checks every order of steps with up to three moments at which a thread is interrupted rather than waits: what goes
/// wrong in practice goes wrong with two (Musuvathi and Qadeer 2007), and all orders take hours.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn shared() -> Arc<Publication<Pair>> {
    Arc::new(Publication::new(Pair::default()))
}

/// The state, which must be one between two writes. Returns how many writes it has.
fn look(shared: &Publication<Pair>) -> usize {
    let (first, second) = *shared.state();
    assert_eq!(first, second, "half of a write");
    first
}

#[test]
fn readers_see_whole_writes_in_order() {
    for beside in [false, true] {
        check(move || {
            let shared = shared();
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        let before = look(&shared);
                        assert!(look(&shared) >= before, "a write came undone");
                    })
                })
                .collect();
            if beside {
                shared.write_beside(add_one);
            } else {
                shared.write(add_one);
            }
            assert_eq!(look(&shared), 1, "a state older than a write that had ended");
            for reader in readers {
                reader.join().unwrap();
            }
            assert_eq!(look(&shared), 1);
        });
    }
}

#[test]
fn writers_queue() {
    check(|| {
        let shared = shared();
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.write_beside(add_one);
                assert!(look(&shared) >= 1);
            })
        };
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let before = look(&shared);
                assert!(shared.read(|pair| pair.first) >= before);
            })
        };
        shared.write(add_one);
        assert!(look(&shared) >= 1);
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(look(&shared), 2);
    });
}

#[test]
fn a_state_held_by_a_reader_stays_as_it_was() {
    check(|| {
        let shared = shared();
        let held = shared.state();
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.write(add_one))
        };
        assert_eq!(*held, (0, 0));
        writer.join().unwrap();
        assert_eq!((*held, look(&shared)), ((0, 0), 1));
    });
}
