//! Records as the data path makes them, for tests.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, StatusCode, Version};
use tokio::time::Instant;
use weft_policy::spiffe::SpiffeId;

use super::record::{
    ConnectionFacts, DestinationFacts, Direction, End, RequestRecord, TcpRecord, TraceContext,
    Waits,
};
use crate::discovery::service::ServiceName;

/// A POST over HTTP/2 that took what the moment took; inbound calls come from `web`, outbound ones go to `users`.
pub(crate) fn request(direction: Direction) -> RequestRecord {
    RequestRecord {
        connection: Rc::new(connection(direction)),
        destination: Some(destination(direction)),
        trace: TraceContext {
            trace_id: [0xab; 16],
            span_id: [0xcd; 8],
            parent_id: Some([0xef; 8]),
            sampled: true,
        },
        method: Method::POST,
        uri: "http://orders.shop:8080/orders/7?token=secret"
            .parse()
            .unwrap(),
        host: Some(HeaderValue::from_static("orders.shop:8080")),
        user_agent: Some(HeaderValue::from_static("curl/8.14")),
        version: Version::HTTP_2,
        grpc: false,
        start: Instant::now(),
        started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        status: Some(StatusCode::OK),
        grpc_status: None,
        reject: None,
        route: None,
        attempts: 1,
        tries: Vec::new(),
        breaks_trace: false,
        request_bytes: 12,
        response_bytes: 3400,
        request_messages: 0,
        response_messages: 0,
        waits: Waits::default(),
        first_byte: Some(Duration::from_micros(1500)),
        upgraded: false,
        end: End::Complete,
    }
}

/// An opaque connection that has ended well.
pub(crate) fn tcp(direction: Direction) -> TcpRecord {
    let request = request(direction);
    TcpRecord {
        connection: request.connection,
        destination: request.destination,
        start: request.start,
        started: request.started,
        sent: 100,
        received: 2000,
        trace: request.trace,
        error: None,
    }
}

/// A service as discovery names it.
pub(crate) fn service(name: &str) -> Arc<ServiceName> {
    Arc::new(ServiceName {
        name: name.into(),
        namespace: "shop".into(),
        host: format!("{name}.shop.svc.cluster.local").into(),
        port: 8080,
    })
}

fn connection(direction: Direction) -> ConnectionFacts {
    let (peer, secure) = match direction {
        Direction::Inbound => (Some(id("web")), true),
        Direction::Outbound => (None, false),
    };
    ConnectionFacts {
        direction,
        client: "10.0.0.7:41000".parse().unwrap(),
        peer,
        secure,
    }
}

fn destination(direction: Direction) -> DestinationFacts {
    let (name, peer) = match direction {
        Direction::Inbound => ("orders", None),
        Direction::Outbound => ("users", Some(id("users"))),
    };
    DestinationFacts {
        service: service(name),
        endpoint: Some("10.0.0.9:8080".parse().unwrap()),
        secure: peer.is_some(),
        peer,
        workload: None,
    }
}

fn id(service_account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{service_account}")
        .parse()
        .unwrap()
}
