//! The keeper: one task that takes in all changes, lets those that come together be told together, and flushes the model to the board.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use crate::board::Shared;
use crate::cluster::Change;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::writer::Word;

/// Takes in what the watches say and keeps the board.
pub struct Keeper {
    /// What is known.
    pub model: Model,
    /// The board.
    pub shared: Shared,
    /// What is counted.
    pub metrics: Metrics,
    /// Kinds that have not been read whole yet: nothing is told before.
    pub missing: HashSet<&'static str>,
    /// What is to be written back.
    pub words: mpsc::Sender<Word>,
}

/// What a watch says.
#[derive(Debug)]
pub enum News {
    /// Something changed.
    Change(Box<Change>),
    /// Everything of a kind is there.
    Synced(&'static str),
}

impl Keeper {
    /// Works until nobody is left who could tell.
    pub async fn run(mut self, mut told: mpsc::Receiver<News>) {
        while let Some(news) = told.recv().await {
            self.take(news);
            // What comes together is told together.
            let latest = Instant::now() + LONGEST_WAIT;
            while let Ok(Some(news)) =
                timeout_at(latest.min(Instant::now() + QUIET), told.recv()).await
            {
                self.take(news);
            }
            self.flush();
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Change(change) => self.model.apply(*change),
            News::Synced(kind) => {
                if self.missing.remove(kind) && self.missing.is_empty() {
                    info!("the cluster is read");
                }
            }
        }
    }

    fn flush(&mut self) {
        if !self.missing.is_empty() {
            return;
        }
        let (model, metrics) = (&mut self.model, &self.metrics);
        self.shared.write(|board| {
            model.flush(board);
            let addresses = board.len(crate::board::Kind::Address);
            metrics
                .addresses
                .set(i64::try_from(addresses).unwrap_or(i64::MAX));
        });
        self.metrics
            .problems
            .set(i64::try_from(self.model.problems()).unwrap_or(i64::MAX));
        for problem in self.model.take_problems() {
            warn!(object = %problem.source, problem = problem.text, "annotations refused, the last good ones stay");
            self.say(Word::Problem(problem));
        }
        for verdict in self.model.take_verdicts() {
            self.say(Word::Verdict(verdict));
        }
    }

    /// Endpoints must not wait for what is written.
    fn say(&self, word: Word) {
        if let Err(error) = self.words.try_send(word) {
            warn!(%error, "too much to write, something is left out");
        }
    }
}

/// Nothing came for so long: time to tell.
const QUIET: Duration = Duration::from_millis(20);
/// It never becomes quiet: tell nevertheless.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
