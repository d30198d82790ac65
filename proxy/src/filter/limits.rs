//! What one connection and one request may ask of this proxy: policy's words over the configuration's.
//!
//! A connection keeps the limits that it began with; the limit of a body holds from the next request on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::Request;
use weft_policy::limits::Limits as Rule;

use crate::http::Limits;
use crate::http::body::Body;
use crate::reject::Reject;

/// The limits of a new inbound connection.
pub(crate) fn of_connection(configured: &Limits, rule: &Rule) -> Limits {
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Limits {
        header_bytes: rule.headers.map_or(configured.header_bytes, size),
        header_count: rule
            .header_count
            .map_or(configured.header_count, |number| size(number.into())),
        header_timeout: rule.header_timeout.unwrap_or(configured.header_timeout),
        idle_timeout: rule.idle_timeout.unwrap_or(configured.idle_timeout),
        streams: rule.streams.unwrap_or(configured.streams),
    }
}

/// Refuses a body that says it is too large, and cuts one that turns out to be.
///
/// # Errors
/// It is too large.
pub(crate) fn body(max: u64, request: &mut Request<Body>) -> Result<(), Reject> {
    let body = request.body_mut();
    if body.length().is_some_and(|length| length > max) {
        return Err(Reject::BodyTooLarge);
    }
    body.limit(max);
    Ok(())
}

/// Inbound connections of the whole proxy.
#[derive(Debug, Default)]
pub(crate) struct Connections(Arc<AtomicU32>);

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicU32>);

impl Connections {
    /// One more, unless there are `max`.
    pub(crate) fn enter(&self, max: Option<u32>) -> Option<Place> {
        let place = Place(Arc::clone(&self.0));
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        max.is_none_or(|max| before < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn policy_goes_over_the_configuration_where_it_says_something() {
        let rule = Rule {
            headers: Some(1024),
            idle_timeout: Some(Duration::from_secs(5)),
            ..Rule::default()
        };
        let limits = of_connection(&Limits::default(), &rule);
        assert_eq!(limits.header_bytes, 1024);
        assert_eq!(limits.idle_timeout, Duration::from_secs(5));
        assert_eq!(limits.header_count, Limits::default().header_count);
        assert_eq!(limits.streams, Limits::default().streams);
    }

    #[test]
    fn places_are_counted_also_while_nothing_limits_them() {
        let connections = Connections::default();
        let first = connections.enter(None).unwrap();
        assert!(connections.enter(Some(1)).is_none());
        let _second = connections.enter(Some(2)).unwrap();
        assert!(connections.enter(Some(2)).is_none());
        drop(first);
        assert!(connections.enter(Some(2)).is_some());
    }

    #[test]
    fn a_body_that_says_it_is_too_large_is_refused_at_once() {
        let request = |length: usize| Request::new(Body::from(bytes::Bytes::from(vec![0; length])));
        assert_eq!(body(5, &mut request(6)), Err(Reject::BodyTooLarge));
        assert_eq!(body(5, &mut request(5)), Ok(()));
        assert_eq!(body(0, &mut Request::new(Body::empty())), Ok(()));
    }
}
