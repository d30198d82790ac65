//! Signals and the drain order.
