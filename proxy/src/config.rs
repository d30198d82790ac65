//! Configuration: environment -> `Config`, one line a knob.

pub mod env;
