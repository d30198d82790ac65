//! Typed reads of the environment that collect all mistakes.
