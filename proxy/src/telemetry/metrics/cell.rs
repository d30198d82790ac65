//! Cells that one thread writes and any thread reads, and the families they are found in.
//!
//! A worker finds its own cell by hash without a lock; only the first sight of a series takes one. Cells of several workers
//! for the same series are summed when they are read.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashTable;
use parking_lot::Mutex;

/// A number that only one thread changes, so that no change needs a locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Cell(AtomicU64);

impl Cell {
    /// Must be called by one thread only.
    pub(in crate::telemetry) fn add(&self, amount: u64) {
        let sum = self.read().wrapping_add(amount);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// Must be called by the thread that adds.
    pub(in crate::telemetry) fn subtract(&self, amount: u64) {
        self.add(amount.wrapping_neg());
    }

    pub(in crate::telemetry) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something with cells that can be summed over workers.
pub(super) trait Sum {
    /// A reading that further cells can be added to.
    type Total: Default;

    fn add_to(&self, total: &mut Self::Total);
}

impl Sum for Cell {
    type Total = u64;

    fn add_to(&self, total: &mut u64) {
        *total = total.wrapping_add(self.read());
    }
}

/// Finds a series by what is at hand, before anything is cloned.
pub(super) trait Key {
    /// What a series is kept under.
    type Owned: Clone + Eq + Hash;

    /// Must agree for equal keys; need not look at all of it.
    fn quick_hash(&self, state: &RandomState) -> u64;
    fn is(&self, owned: &Self::Owned) -> bool;
    fn to_owned_key(&self) -> Self::Owned;
    /// Where it is counted once there are too many series.
    fn overflow(&self) -> Self::Owned;
}

/// All series of a family, with the cells of each worker.
#[derive(Debug)]
pub(super) struct Family<O, V> {
    series: Mutex<HashMap<O, Vec<Arc<V>>>>,
    limit: usize,
}

impl<O: Clone + Eq + Hash, V: Default + Sum> Family<O, V> {
    /// At most `limit` series and those for overflow.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            series: Mutex::default(),
            limit,
        })
    }

    /// A new cell for one worker; `false` when it is the one for overflow.
    fn cell(&self, key: &impl Key<Owned = O>) -> (Arc<V>, bool) {
        let mut series = self.series.lock();
        let owned = key.to_owned_key();
        let fits = series.len() < self.limit || series.contains_key(&owned);
        let cell = Arc::<V>::default();
        let place = if fits { owned } else { key.overflow() };
        series.entry(place).or_default().push(Arc::clone(&cell));
        (cell, fits)
    }

    /// The sums over all workers.
    pub(super) fn totals(&self) -> Vec<(O, V::Total)> {
        let copied: Vec<(O, Vec<Arc<V>>)> = {
            let series = self.series.lock();
            series
                .iter()
                .map(|(key, cells)| (key.clone(), cells.clone()))
                .collect()
        };
        let sum = |cells: Vec<Arc<V>>| {
            let mut total = V::Total::default();
            cells.iter().for_each(|cell| cell.add_to(&mut total));
            total
        };
        copied
            .into_iter()
            .map(|(key, cells)| (key, sum(cells)))
            .collect()
    }
}

/// A series that a worker has seen.
#[derive(Debug)]
struct Known<O, V> {
    hash: u64,
    owned: O,
    cell: Arc<V>,
}

/// One worker's view of a family; not `Send`, as its cells have one writer.
#[derive(Debug)]
pub(super) struct WorkerFamily<O, V> {
    family: Arc<Family<O, V>>,
    known: RefCell<HashTable<Rc<Known<O, V>>>>,
    /// Most often the next one too, which then costs no hash.
    last: RefCell<Option<Rc<Known<O, V>>>>,
    /// Where new series are counted once the family is full; the next worker may see another set of series before that.
    overflow: OnceCell<Arc<V>>,
    hasher: RandomState,
    _one_thread: PhantomData<Rc<()>>,
}

impl<O: Clone + Eq + Hash, V: Default + Sum> WorkerFamily<O, V> {
    pub(super) fn new(family: &Arc<Family<O, V>>) -> Self {
        Self {
            family: Arc::clone(family),
            known: RefCell::default(),
            last: RefCell::default(),
            overflow: OnceCell::new(),
            hasher: RandomState::new(),
            _one_thread: PhantomData,
        }
    }

    /// Changes the cells of `key`.
    pub(super) fn with(&self, key: &impl Key<Owned = O>, change: impl FnOnce(&V)) {
        if let Some(last) = &*self.last.borrow()
            && key.is(&last.owned)
        {
            return change(&last.cell);
        }
        change(&self.cell(key));
    }

    /// The cells of `key`, for who changes them often.
    pub(super) fn cell(&self, key: &impl Key<Owned = O>) -> Arc<V> {
        let hash = key.quick_hash(&self.hasher);
        let known = self.known.borrow();
        let found = known.find(hash, |one| key.is(&one.owned)).map(Rc::clone);
        drop(known);
        let Some(found) = found else {
            return self.first_seen(hash, key);
        };
        let cell = Arc::clone(&found.cell);
        *self.last.borrow_mut() = Some(found);
        cell
    }

    fn first_seen(&self, hash: u64, key: &impl Key<Owned = O>) -> Arc<V> {
        if let Some(overflow) = self.overflow.get() {
            return Arc::clone(overflow);
        }
        let (cell, fits) = self.family.cell(key);
        if fits {
            let entry = Known {
                hash,
                owned: key.to_owned_key(),
                cell: Arc::clone(&cell),
            };
            self.known
                .borrow_mut()
                .insert_unique(hash, Rc::new(entry), |one| one.hash);
            return cell;
        }
        Arc::clone(self.overflow.get_or_init(|| cell))
    }
}

/// Hashes a tuple of what is quick to hash.
pub(super) fn hash_of(state: &RandomState, parts: impl Hash) -> u64 {
    state.hash_one(parts)
}

/// Istio's buckets, which are Envoy's defaults, in thousandths: of a millisecond for durations, of a byte for sizes.
pub(super) const BOUNDS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// How often each range of values was seen; values are thousandths, as [`BOUNDS`].
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Not cumulative; the last one is for what is above all bounds.
    buckets: [Cell; BOUNDS.len() + 1],
    sum: Cell,
}

impl Histogram {
    /// Counts one value.
    pub(super) fn observe(&self, thousandths: u64) {
        // "le": the bound belongs to its bucket.
        let bucket = BOUNDS.partition_point(|bound| *bound < thousandths);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(1);
        }
        self.sum.add(thousandths);
    }
}

/// A histogram summed over workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HistogramTotal {
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    pub(super) sum: u64,
}

impl Sum for Histogram {
    type Total = HistogramTotal;

    fn add_to(&self, total: &mut HistogramTotal) {
        for (sum, bucket) in total.buckets.iter_mut().zip(&self.buckets) {
            *sum = sum.wrapping_add(bucket.read());
        }
        total.sum = total.sum.wrapping_add(self.sum.read());
    }
}
