//! The states of the names that were asked for, as described in `cache`; pure but for the snapshot it publishes.

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::cache::entry::{Entry, State, retire};
use crate::discovery::cache::{Held, Id, Question, Waiting};
use crate::discovery::dns::{Answer, Failure};
use crate::discovery::name::Key;
use crate::discovery::service::{Service, ServiceName};
use crate::discovery::{LookupError, Shared};

/// A lookup that is to be made, and its answer to be brought to [`Names::answered`].
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) id: Id,
    pub(super) name: Arc<ServiceName>,
}

#[derive(Debug)]
pub(super) struct Names<'a> {
    entries: HashMap<Id, Entry>,
    /// When the state of a name ends, soonest first.
    due: BTreeSet<(Instant, Id)>,
    asked: usize,
    shared: &'a Shared,
}

impl<'a> Names<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            entries: HashMap::new(),
            due: BTreeSet::new(),
            asked: 0,
            shared,
        }
    }

    /// Answers `question` if that is possible, or has it wait for a lookup, returned if it must be started.
    pub(super) fn ask(&mut self, question: Question, now: Instant) -> Option<Lookup> {
        let Question { name, answer } = question;
        let id = Id::from(&Key::new(&name.host, name.port)?);
        let Some(entry) = self.entries.get_mut(&id) else {
            return self.ask_first(id, name, answer, now);
        };
        entry.last_used = now;
        match &mut entry.state {
            State::Asked { waiting } => {
                waiting.push(answer);
                None
            }
            State::Dormant => self.begin(id, vec![answer]),
            State::Fresh | State::Failed { .. } => {
                answer.tell(entry.outcome());
                None
            }
        }
    }

    fn ask_first(
        &mut self,
        id: Id,
        name: ServiceName,
        answer: Waiting,
        now: Instant,
    ) -> Option<Lookup> {
        if self.asked >= MAX_LOOKUPS || !self.make_room() {
            answer.tell(Err(LookupError::Overloaded { host: name.host }));
            return None;
        }
        self.entries.insert(id.clone(), Entry::new(name, now));
        self.begin(id, vec![answer])
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Ends the states that are over at `now`; returns the lookups that have to be started for it.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Lookup> {
        let mut lookups = Vec::new();
        while let Some((due, id)) = self.due.pop_first() {
            if due > now {
                self.due.insert((due, id));
                break;
            }
            lookups.extend(self.expire_one(id, now));
        }
        lookups
    }

    fn expire_one(&mut self, id: Id, now: Instant) -> Option<Lookup> {
        let used = self.take_used(&id);
        let entry = self.entries.get_mut(&id)?;
        entry.due = None;
        if used {
            entry.last_used = now;
        }
        let idle = now.saturating_duration_since(entry.last_used) >= MAX_IDLE;
        match (&entry.state, &entry.service) {
            (State::Dormant, _) | (_, None) => self.forget(&id),
            // While nobody answers, the last good answer stays in use, until the name has been idle for long.
            (State::Failed { .. }, Some(_)) if !idle => return self.begin(id, Vec::new()),
            (_, Some(_)) if used => return self.begin(id, Vec::new()),
            (_, Some(_)) => {
                self.unpublish(&id);
                self.enter(&id, State::Dormant, now + MAX_IDLE);
            }
        }
        None
    }

    /// Takes in what a lookup found, and tells those who wait.
    pub(super) fn answered(&mut self, id: &Id, found: Result<Answer, Failure>, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let State::Asked { waiting } = mem::replace(&mut entry.state, State::Dormant) else {
            return;
        };
        self.asked = self.asked.saturating_sub(1);
        let (state, until) = match found {
            Ok(answer) => entry.succeeded(&answer, now),
            Err(Failure::NotFound { ttl }) => entry.not_found(ttl, now),
            Err(Failure::Unanswered(source)) => {
                let host = Arc::clone(&entry.name.host);
                entry.unanswered(LookupError::Dns { host, source }, now)
            }
        };
        self.enter(id, state, until);
        let Some(entry) = self.entries.get(id) else {
            return;
        };
        let outcome = entry.outcome();
        match &entry.service {
            Some(service) => self.publish(id, &Arc::clone(service)),
            None => self.unpublish(id),
        }
        waiting
            .into_iter()
            .for_each(|waiting| waiting.tell(outcome.clone()));
    }

    fn begin(&mut self, id: Id, waiting: Vec<Waiting>) -> Option<Lookup> {
        let entry = self.entries.get_mut(&id)?;
        if let Some(due) = entry.due.take() {
            self.due.remove(&(due, id.clone()));
        }
        entry.state = State::Asked { waiting };
        self.asked += 1;
        Some(Lookup {
            name: Arc::clone(&entry.name),
            id,
        })
    }

    /// Puts the name into `state`, which ends at `until`.
    fn enter(&mut self, id: &Id, state: State, until: Instant) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.state = state;
        if let Some(due) = entry.due.replace(until) {
            self.due.remove(&(due, id.clone()));
        }
        self.due.insert((until, id.clone()));
    }

    fn forget(&mut self, id: &Id) {
        let Some(entry) = self.entries.remove(id) else {
            return;
        };
        if let Some(due) = entry.due {
            self.due.remove(&(due, id.clone()));
        }
        entry
            .service
            .iter()
            .for_each(|service| retire(&service.endpoints()));
        self.unpublish(id);
    }

    /// Makes room for one more name, at the cost of the one that is missed the least. `false` if all are being asked.
    fn make_room(&mut self) -> bool {
        if self.entries.len() < MAX_NAMES {
            return true;
        }
        let resting = self
            .entries
            .iter()
            .filter(|(_, entry)| !matches!(entry.state, State::Asked { .. }));
        let fresh = self.shared.resolved.load();
        let used = |id: &Id| {
            fresh
                .0
                .get(id)
                .is_some_and(|held| held.used.load(Ordering::Relaxed))
        };
        let least =
            resting.min_by_key(|(id, entry)| (entry.service.is_some(), used(id), entry.last_used));
        let Some(id) = least.map(|(id, _)| id.clone()) else {
            return false;
        };
        self.forget(&id);
        true
    }

    fn take_used(&self, id: &Id) -> bool {
        let fresh = self.shared.resolved.load();
        fresh
            .0
            .get(id)
            .is_some_and(|held| held.used.swap(false, Ordering::Relaxed))
    }

    fn publish(&self, id: &Id, service: &Arc<Service>) {
        let fresh = self.shared.resolved.load_full();
        if fresh
            .0
            .get(id)
            .is_some_and(|held| Arc::ptr_eq(&held.service, service))
        {
            return;
        }
        let mut next = (*fresh).clone();
        let held = Held {
            service: Arc::clone(service),
            used: AtomicBool::new(false),
        };
        next.0.insert(id.clone(), Arc::new(held));
        self.shared.store_resolved(next);
    }

    fn unpublish(&self, id: &Id) {
        let fresh = self.shared.resolved.load_full();
        if fresh.0.contains_key(id) {
            let mut next = (*fresh).clone();
            next.0.remove(id);
            self.shared.store_resolved(next);
        }
    }
}

/// Names that are held; those that are missed the least go first.
const MAX_NAMES: usize = 1024;

/// Lookups that may run when a new name is asked for.
const MAX_LOOKUPS: usize = 128;

/// Time without use after which the last good answer is forgotten, and its endpoints are retired.
const MAX_IDLE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests;
