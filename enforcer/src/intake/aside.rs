//! Long work on what one sensor sent, aside from the threads that answer all: large bodies are understood and long answers
//! written by one thread of its own, which gives way to everything else that wants the processor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use atalaya_wire::{Problem, ProblemCode};
use tokio::sync::oneshot;

/// How nice the thread is: where processors are short it has a tenth of what another thread has.
const NICENESS: i32 = 10;

type Work = Box<dyn FnOnce() + Send>;

/// The thread. It ends once this is dropped, after what it does just then.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    queue: mpsc::Sender<Work>,
}

// === impl Aside ===

impl Aside {
    /// Starts the thread.
    pub fn new() -> std::io::Result<Self> {
        let (queue, works) = mpsc::channel::<Work>();
        std::thread::Builder::new().name("aside".into()).spawn(move || {
            // Of this thread alone: to Linux each has a niceness of its own. Where all give way more, it does too.
            let thread = Some(rustix::thread::gettid());
            let given = rustix::process::getpriority_process(thread).unwrap_or(0);
            if let Err(error) = rustix::process::setpriority_process(thread, given.max(NICENESS)) {
                tracing::debug!(%error, "the thread for long work is as urgent as the others");
            }
            works.iter().for_each(|work| work());
        })?;
        Ok(Self { queue })
    }

    /// Does something on the thread, after what was asked for before. Each sensor waits for one at a time, which bounds
    /// how many wait.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (done, result) = oneshot::channel();
        let work = move || {
            // A panic is the end of this work, not of the thread.
            if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
                // Whoever asked may be gone.
                let _ = done.send(result);
            }
        };
        let stopping = || Problem::new(ProblemCode::Unavailable, "the enforcer is stopping");
        self.queue.send(Box::new(work)).map_err(|_| stopping())?;
        result.await.map_err(|_| stopping())
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;
    use rustix::thread::gettid;

    use super::*;

    #[tokio::test]
    async fn the_thread_gives_way_to_others_and_outlives_a_panic_of_its_work() {
        let aside = Aside::new().unwrap();
        let niceness = || getpriority_process(Some(gettid())).unwrap();
        let before = niceness();
        assert_eq!(aside.run(niceness).await.unwrap(), before.max(NICENESS));
        assert_eq!(niceness(), before, "only that thread is as nice");
        let lost = aside.run(|| panic!("as it is meant")).await;
        assert_eq!(lost.map(|()| 0).unwrap_err().code, ProblemCode::Unavailable);
        assert_eq!(aside.run(|| 7).await.unwrap(), 7);
    }
}
