//! Continues or begins a trace.
