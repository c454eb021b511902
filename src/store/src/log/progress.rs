//! How far a log has come, and who waits for it: each ticket is woken once, when its own batch is durable.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ids::Position;

/// What tickets wait for.
pub(super) struct Progress(Mutex<State>);

struct State {
    durable: Position,
    /// Why writes have stopped for good.
    stopped: Option<Arc<str>>,
    /// By the position waited for, and a number that sets those apart that wait for the same.
    waiting: BTreeMap<(Position, u64), oneshot::Sender<()>>,
    waited: u64,
}

impl State {
    /// How a wait for this position ends, if it is over.
    fn outcome(&self, position: Position) -> Option<Result<(), Arc<str>>> {
        if self.durable >= position {
            return Some(Ok(()));
        }
        self.stopped.clone().map(Err)
    }
}

impl Progress {
    pub(super) fn new(durable: Position) -> Self {
        Self(Mutex::new(State { durable, stopped: None, waiting: BTreeMap::new(), waited: 0 }))
    }

    pub(super) fn stopped(&self) -> Option<Arc<str>> {
        self.0.lock().stopped.clone()
    }

    /// Waits until everything up to `position` is durable; an error says why that will not come.
    pub(super) async fn wait_for(&self, position: Position) -> Result<(), Arc<str>> {
        loop {
            let woken = {
                let mut state = self.0.lock();
                if let Some(outcome) = state.outcome(position) {
                    return outcome;
                }
                let (waker, woken) = oneshot::channel();
                state.waited += 1;
                let number = state.waited;
                state.waiting.insert((position, number), waker);
                woken
            };
            // What is told is not told by this channel.
            drop(woken.await);
        }
    }

    /// Everything up to here is durable.
    pub(super) fn advance(&self, durable: Position) {
        let due = {
            let mut state = self.0.lock();
            state.durable = state.durable.max(durable);
            let later = state.waiting.split_off(&(durable.next(), 0));
            std::mem::replace(&mut state.waiting, later)
        };
        wake(due);
    }

    /// Stops for good; whether it was not stopped before. The first cause stays.
    pub(super) fn stop(&self, cause: &str) -> bool {
        let due = {
            let mut state = self.0.lock();
            if state.stopped.is_some() {
                return false;
            }
            state.stopped = Some(cause.into());
            std::mem::take(&mut state.waiting)
        };
        wake(due);
        true
    }
}

fn wake(due: BTreeMap<(Position, u64), oneshot::Sender<()>>) {
    for waker in due.into_values() {
        // Who does not wait any more need not be told.
        let _ = waker.send(());
    }
}
