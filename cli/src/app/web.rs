//! `web`: what a visitor sees. Asks `orders` for everything.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::orders::OrdersPage;
use super::{AppName, Seen, carried_over, json};
use crate::client;

/// What a visitor gets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WebPage {
    pub(crate) greeting: String,
    pub(crate) orders: Vec<String>,
    /// Every app the call went through, first one first.
    pub(crate) hops: Vec<Seen>,
}

/// What a visitor gets when `orders` gave no page.
#[derive(Debug, Serialize)]
struct Apology {
    message: String,
    /// Set when it was the mesh and not `orders` that answered.
    rejected_by_mesh: Option<String>,
    hops: Vec<Seen>,
}

#[derive(Debug, Clone)]
pub(super) struct Web {
    via: SocketAddr,
}

impl Web {
    pub(super) fn new(via: SocketAddr) -> Self {
        Self { via }
    }

    pub(super) async fn answer(self, req: Request<Incoming>) -> Response<Full<Bytes>> {
        let seen = Seen::http(AppName::Web, &req);
        seen.announce();
        let path = match req.uri().path() {
            "/" => "/orders/ada".to_owned(),
            name => format!("/orders{name}"),
        };
        match client::get(self.via, "orders", &path, &carried_over(req.headers())).await {
            Ok(answer) => page(seen, &answer),
            Err(error) => apology(seen, StatusCode::BAD_GATEWAY, error.to_string(), None),
        }
    }
}

fn page(seen: Seen, answer: &client::Answer) -> Response<Full<Bytes>> {
    let rejected = super::text(&answer.headers, REJECT);
    if answer.status != StatusCode::OK {
        let message = format!("orders answered {}", answer.status);
        return apology(seen, answer.status, message, rejected);
    }
    match serde_json::from_slice::<OrdersPage>(&answer.body) {
        Ok(page) => {
            let hops = std::iter::once(seen).chain(page.hops).collect();
            let greeting = format!("Welcome back, {}.", page.customer);
            let orders = page.orders;
            json(
                StatusCode::OK,
                &WebPage {
                    greeting,
                    orders,
                    hops,
                },
            )
        }
        Err(error) => apology(seen, StatusCode::BAD_GATEWAY, error.to_string(), rejected),
    }
}

fn apology(
    seen: Seen,
    status: StatusCode,
    message: String,
    rejected_by_mesh: Option<String>,
) -> Response<Full<Bytes>> {
    let hops = vec![seen];
    json(
        status,
        &Apology {
            message,
            rejected_by_mesh,
            hops,
        },
    )
}

/// Carried by every answer the mesh makes itself.
const REJECT: &str = "x-weft-reject";
