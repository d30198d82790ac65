//! Supplies services and their endpoints.

mod dns;
mod file;
