//! Removes the directories that ended attempts leave, beside the loop: a large tree takes seconds and
//! the loop has children to wait for. One thread at a time, started when there is work, gone afterwards.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io, thread};

use super::log::note;

/// Directories that wait; beyond that they stay for the daemon's own clean-up.
const WAITING_MAX: usize = 100_000;
/// Removing recurses, and a job may nest as deep as it likes. Only touched pages count as memory.
const STACK_BYTES: usize = 64 << 20;
/// `/`, and three names: a mistake must not cost `/home/someone`.
const COMPONENTS_MIN: usize = 4;

/// The queue of directories, with its thread.
#[derive(Default)]
pub(super) struct Cleaner {
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<PathBuf>,
    has_thread: bool,
}

impl Cleaner {
    /// Removes `directory` and everything in it, soon. Only absolute paths of three names or more.
    pub(super) fn remove(&self, directory: PathBuf) {
        if !directory.is_absolute() || directory.components().count() < COMPONENTS_MIN {
            note(format_args!("{} is not removed: it is too close to the root", directory.display()));
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.waiting.len() >= WAITING_MAX {
            return;
        }
        queue.waiting.push_back(directory);
        if !queue.has_thread {
            let shared = Arc::clone(&self.queue);
            let started = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || work(&shared));
            queue.has_thread = started.is_ok();
        }
    }
}

fn work(queue: &Mutex<Queue>) {
    loop {
        let directory = {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            match queue.waiting.pop_front() {
                Some(directory) => directory,
                None => {
                    queue.has_thread = false;
                    return;
                }
            }
        };
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                note(format_args!("{} is not removed: {error}", directory.display()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_go_and_what_is_near_the_root_stays() {
        let home = tempfile::tempdir().expect("made");
        let directory = home.path().join("a");
        fs::create_dir_all(directory.join("b")).expect("made");
        let cleaner = Cleaner::default();
        cleaner.remove(PathBuf::from("/tmp/none"));
        cleaner.remove(PathBuf::from("relative/a/b"));
        cleaner.remove(directory.clone());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while directory.exists() {
            assert!(std::time::Instant::now() < deadline, "not removed");
            thread::yield_now();
        }
        assert!(home.path().exists());
    }
}
