//! What the sessions, the tasks and the handle of one router have in common.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::event::Event;
use crate::state::{Settings, State};

/// With this many events waiting, sessions wait for the watcher.
const MAX_EVENTS: usize = 16 * 1024;

/// The longest sleep of the task that takes out lapsed entries: the system's clock may be set.
const LONGEST_NAP: Duration = Duration::from_hours(1);

pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) clock: Clock,
    state: Mutex<State>,
    /// Something changed in tables or counts.
    pub(crate) changed: Notify,
    /// Told when stalled sessions shall go on.
    pub(crate) resumed: watch::Sender<()>,
    /// An entry lapses earlier than the lapse task thinks.
    lapse_moved: Notify,
    events_wait: Notify,
    watcher: Option<tokio::sync::Mutex<mpsc::Sender<Event>>>,
    generation: Mutex<Generation>,
}

/// The sessions since the last reboot.
pub(crate) struct Generation {
    pub(crate) gone: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Generation {
    fn new() -> Self {
        Self { gone: CancellationToken::new(), tasks: TaskTracker::new() }
    }
}

impl Shared {
    pub(crate) fn new(
        settings: Settings,
        clock: Clock,
        state: State,
        watcher: Option<mpsc::Sender<Event>>,
    ) -> Self {
        Self {
            settings: Arc::new(settings),
            clock,
            state: Mutex::new(state),
            changed: Notify::new(),
            resumed: watch::Sender::new(()),
            lapse_moved: Notify::new(),
            events_wait: Notify::new(),
            watcher: watcher.map(tokio::sync::Mutex::new),
            generation: Mutex::new(Generation::new()),
        }
    }

    /// The state. A panic elsewhere does not spoil it further than it is.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the state back after changes and wakes whom they concern.
    pub(crate) fn commit(&self, state: MutexGuard<'_, State>) {
        let earlier = match (state.next_lapse(), state.lapse_awaited) {
            (Some(next), Some(awaited)) => next < awaited,
            (next, None) => next.is_some(),
            (None, Some(_)) => false,
        };
        let events = state.events.as_ref().is_some_and(|events| !events.is_empty());
        drop(state);
        if earlier {
            self.lapse_moved.notify_one();
        }
        if events {
            self.events_wait.notify_one();
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn generation(&self) -> MutexGuard<'_, Generation> {
        self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a reboot does but for the sessions.
    pub(crate) fn reboot(&self) {
        let mut state = self.lock();
        state.reboot(self.clock.now());
        self.commit(state);
    }

    /// Drops every session and returns their tasks, to be awaited by whoever is not one of them.
    pub(crate) fn drop_sessions(&self) -> TaskTracker {
        let old = std::mem::replace(&mut *self.generation(), Generation::new());
        old.gone.cancel();
        old.tasks.close();
        old.tasks
    }

    /// Takes out entries at the moment they lapse, until `end` is cancelled.
    pub(crate) async fn keep_lapsing(&self, end: CancellationToken) {
        let mut moves = self.clock.moves();
        loop {
            let now = self.clock.now();
            let next = {
                let mut state = self.lock();
                state.lapse(now);
                let next = state.next_lapse();
                state.lapse_awaited = next;
                self.commit(state);
                next
            };
            let nap = next.map_or(LONGEST_NAP, |next| {
                Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO).min(LONGEST_NAP)
            });
            tokio::select! {
                () = end.cancelled() => return,
                () = self.lapse_moved.notified() => {}
                _ = moves.changed() => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    /// Hands events to the watcher as they come, until `end` is cancelled.
    pub(crate) async fn keep_telling(&self, end: CancellationToken) {
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = self.events_wait.notified() => self.drain_events().await,
            }
        }
    }

    /// Waits for a slow watcher, so that waiting events stay few and none is lost.
    pub(crate) async fn drain_events_if_many(&self) {
        if self.watcher.is_none() {
            return;
        }
        let many = self.lock().events.as_ref().is_some_and(|events| events.len() > MAX_EVENTS);
        if many {
            self.drain_events().await;
        }
    }

    async fn drain_events(&self) {
        let Some(watcher) = &self.watcher else { return };
        // Held while sending, so that events arrive in their order.
        let watcher = watcher.lock().await;
        let events = self.lock().events.as_mut().map(std::mem::take).unwrap_or_default();
        for event in events {
            if watcher.send(event).await.is_err() {
                // Nobody watches any more.
                self.lock().events = None;
                return;
            }
        }
    }
}
