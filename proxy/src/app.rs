//! Wiring: builds every part of the proxy and starts its threads.
