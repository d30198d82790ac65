//! Filters, in the order they run.

pub(crate) mod trace;
