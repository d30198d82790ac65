//! Chooses an endpoint of a service.

mod ewma;
