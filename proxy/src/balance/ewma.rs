//! Peak-EWMA latency estimate.
