//! One request's story, from its head to the last byte of its answer; told to telemetry when it is dropped.
//!
//! A guard, so that no way out of the request path can forget to tell it.

use std::rc::Rc;
use std::time::SystemTime;

use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, Request, Response, Version};
use tokio::time::{Duration, Instant};

use crate::balance::{Outcome, Picked};
use crate::cx::Cx;
use crate::filter::{Passed, trace};
use crate::http::body::{Body, Counted};
use crate::http::grpc;
use crate::http::grpc::messages::Messages;
use crate::reject::{Caller, Reject};
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::record::{
    DestinationFacts, Direction, End, RequestRecord, RouteFacts, TraceContext, Waits,
};
use crate::telemetry::tries::Tries;

/// The record of one request while it runs.
pub(crate) struct Exchange {
    record: RequestRecord,
    telemetry: Rc<WorkerTelemetry>,
    /// `None` where the request has no body.
    request_bytes: Option<Rc<Counted>>,
    /// Of the answer; `None` where it is no gRPC call.
    messages: Option<Messages>,
    /// Counts as pending on its endpoint until the answer is complete.
    picked: Option<Picked>,
    passed: Passed,
    /// Our app is to continue its trace.
    continued: bool,
}

impl Exchange {
    /// Begins the record, and continues or begins the trace in the request's headers.
    pub(crate) fn begin(cx: &Cx, request: &mut Request<Body>) -> Box<Self> {
        let grpc = request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers());
        let messages = grpc.then(Messages::default);
        let request_bytes = request.body_mut().count(messages);
        let trace = trace::continue_or_begin(request.headers_mut(), &cx.worker.sampler);
        let chain = cx.worker.telemetry.chain();
        let direction = cx.facts.direction;
        let continued = direction == Direction::Inbound && trace.parent_id.is_some();
        if continued {
            chain.serves();
        }
        let begins = direction == Direction::Outbound && trace.parent_id.is_none();
        let breaks_trace = begins && chain.is_broken();
        let headers = request.headers();
        let record = RequestRecord {
            connection: Rc::clone(&cx.facts),
            destination: None,
            trace,
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: headers.get(HOST).cloned(),
            user_agent: headers.get(USER_AGENT).cloned(),
            version: request.version(),
            grpc,
            start: Instant::now(),
            started: SystemTime::now(),
            status: None,
            grpc_status: None,
            reject: None,
            route: None,
            attempts: 0,
            tries: Vec::new(),
            breaks_trace,
            request_bytes: 0,
            response_bytes: 0,
            request_messages: 0,
            response_messages: 0,
            waits: Waits::default(),
            first_byte: None,
            upgraded: false,
            end: End::DownstreamGone,
        };
        Box::new(Self {
            record,
            telemetry: Rc::clone(&cx.worker.telemetry),
            request_bytes,
            messages,
            picked: None,
            passed: Passed::default(),
            continued,
        })
    }

    /// Where it goes.
    pub(crate) fn to(&mut self, destination: DestinationFacts) {
        self.record.destination = Some(destination);
    }

    /// What the filters leave behind: held until the answer is complete.
    pub(crate) fn passed(&mut self) -> &mut Passed {
        &mut self.passed
    }

    /// How long the filters kept it.
    pub(crate) fn queued(&mut self, waited: Option<Duration>) {
        self.record.waits.queue = waited;
    }

    /// How long it waited for connections.
    pub(crate) fn connected(&mut self, waited: Option<Duration>) {
        self.record.waits.connect = waited;
    }

    /// Which route it takes.
    pub(crate) fn routed(&mut self, route: Option<RouteFacts>) {
        self.record.route = route;
    }

    /// Which endpoint's answer it is.
    pub(crate) fn picked(&mut self, picked: Option<Picked>) {
        self.picked = picked;
    }

    /// Its place in its trace.
    pub(crate) fn trace(&self) -> TraceContext {
        self.record.trace
    }

    /// Which attempts were made. Of several, each has a span, and the request as a whole one above them.
    pub(crate) fn tried(&mut self, tries: Tries) {
        self.record.tries = tries.into_all();
        if !self.record.tries.is_empty() {
            self.record.trace = self.record.trace.sibling();
        }
    }

    /// When its head came.
    pub(crate) fn start(&self) -> Instant {
        self.record.start
    }

    /// Whether it is a gRPC call.
    pub(crate) fn is_grpc(&self) -> bool {
        self.record.grpc
    }

    /// What is answered is not the service's answer, but what policy has in its place because of `reject`.
    pub(crate) fn fell_back(&mut self, reject: Reject) {
        self.record.reject = Some(reject.label());
    }

    /// How many attempts were made.
    pub(crate) fn attempts(&mut self) -> &mut u32 {
        &mut self.record.attempts
    }

    /// Turns the outcome into the answer, which takes the exchange along.
    pub(crate) fn answer(
        mut self: Box<Self>,
        outcome: Result<Response<Body>, Reject>,
    ) -> Response<Body> {
        let reject = outcome.as_ref().err().copied();
        let mut response = match outcome {
            Ok(response) => response,
            Err(reject) => {
                self.record.reject = Some(reject.label());
                self.record.end = End::Rejected;
                reject.response(if self.record.grpc {
                    Caller::Grpc
                } else {
                    Caller::Http
                })
            }
        };
        self.passed.answer(&mut response, reject);
        let took = self.record.start.elapsed();
        if let Some(explain) = self.passed.explain.take() {
            let allowed_by = self.passed.allowed_by;
            explain.tell(&self.record, allowed_by, response.headers_mut());
        }
        self.record.status = Some(response.status());
        self.record.first_byte = Some(took);
        // An error that the app answers with is an answer. What failed was noted when it did, and a caller that gives up
        // teaches nothing.
        if let (Some(picked), None) = (&self.picked, self.record.reject) {
            picked.observe(picked.elapsed(), Outcome::Answered);
        }
        if self.record.grpc {
            self.record.grpc_status = grpc::status(response.headers());
        }
        response.body_mut().end_with(self);
        response
    }

    /// Counts bytes of the answer.
    pub(crate) fn answered(&mut self, data: &[u8]) {
        self.record.response_bytes += data.len() as u64;
        if let Some(messages) = &mut self.messages {
            messages.see(data);
        }
    }

    /// Reads the trailers of the answer.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if self.record.grpc {
            self.record.grpc_status = grpc::status(trailers);
        }
        self.completed();
    }

    /// The answer's body was read to its end.
    pub(crate) fn completed(&mut self) {
        if self.record.end == End::DownstreamGone {
            self.record.end = End::Complete;
        }
    }

    /// The answer's body broke off.
    pub(crate) fn failed(&mut self) {
        self.record.end = End::UpstreamFailed;
    }

    /// The answer became a tunnel, which has ended.
    pub(crate) fn tunnelled(&mut self, sent: u64, received: u64) {
        self.request_bytes = Some(Rc::new(Counted::bytes(sent)));
        self.record.response_bytes = received;
        self.record.upgraded = true;
        self.record.end = End::Complete;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(counted) = &self.request_bytes {
            self.record.request_bytes = counted.bytes.get();
            self.record.request_messages = counted.messages();
        }
        self.record.response_messages = self.messages.map_or(0, |messages| messages.count());
        if self.continued {
            self.telemetry.chain().served();
        }
        self.telemetry.finish(&self.record);
    }
}
