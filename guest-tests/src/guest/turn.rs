//! Whose turn it is to run guests in the lab, which has as many processors for them as [`PROCESSORS`] says.
//!
//! Guests that share a processor only make each other slower, and time limits meaningless; but a guest with one virtual
//! CPU leaves half of the lab idle, and most tests have such guests.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::cache::FileLock;
use crate::error::Result;
use crate::place;

/// The lab's processors that run guests.
const PROCESSORS: usize = 2;
/// How often a processor is looked for. A look costs the lab milliseconds.
const PAUSE: Duration = Duration::from_millis(100);

/// Processors of the lab that nobody else runs guests on while this lives. The kernel gives them back if the holder dies.
#[derive(Debug)]
pub struct Turn {
    _held: Vec<FileLock>,
}

impl Turn {
    /// Waits for processors for a guest with so many virtual CPUs: for one, or for all. Outside the lab there is no
    /// need, and no waiting.
    pub fn wait(cpus: u32) -> Result<Option<Turn>> {
        if !place::inside_lab() {
            return Ok(None);
        }
        let wanted = usize::try_from(cpus).unwrap_or(PROCESSORS).clamp(1, PROCESSORS);
        Turn::wait_in(&std::env::temp_dir().join("turns"), wanted).map(Some)
    }

    fn wait_in(dir: &Path, wanted: usize) -> Result<Turn> {
        // One at a time looks, so that who wants all processors gets them before those who come later.
        let _door = FileLock::wait(&dir.join("door.lock"))?;
        let mut held = Vec::new();
        loop {
            // An own lock is met again in the next round, and is not free.
            for number in 0..PROCESSORS {
                if held.len() < wanted {
                    held.extend(FileLock::try_take(&dir.join(format!("{number}.lock")))?);
                }
            }
            if held.len() == wanted {
                return Ok(Turn { _held: held });
            }
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn as_many_at_a_time_as_there_are_processors() {
        let dir = tempfile::tempdir().unwrap();
        let (used, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for wanted in [1, 2, 1, 1, 2, 1, 1] {
                let (dir, used, most) = (&dir, &used, &most);
                scope.spawn(move || {
                    let turn = Turn::wait_in(dir.path(), wanted).unwrap();
                    let now = used.fetch_add(wanted, Ordering::SeqCst) + wanted;
                    assert!(now <= PROCESSORS, "{now}");
                    most.fetch_max(now, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(30));
                    used.fetch_sub(wanted, Ordering::SeqCst);
                    drop(turn);
                });
            }
        });
        assert_eq!(most.into_inner(), PROCESSORS);
    }

    #[test]
    fn who_wants_all_is_not_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        let order = Mutex::new(Vec::new());
        let first = Turn::wait_in(dir.path(), 1).unwrap();
        thread::scope(|scope| {
            let take = |name, wanted| {
                let _turn = Turn::wait_in(dir.path(), wanted).unwrap();
                order.lock().unwrap().push(name);
            };
            scope.spawn(move || take("all", 2));
            // It holds the other processor as soon as it has passed the door.
            while FileLock::try_take(&dir.path().join("1.lock")).unwrap().is_some() {
                thread::sleep(Duration::from_millis(1));
            }
            scope.spawn(move || take("one", 1));
            thread::sleep(Duration::from_millis(30));
            assert!(order.lock().unwrap().is_empty());
            drop(first);
        });
        assert_eq!(order.into_inner().unwrap(), ["all", "one"]);
    }
}
