//! `orders`: what a customer ordered. Asks `users` over gRPC who the customer is.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use super::wire::users_client::UsersClient;
use super::wire::{FindRequest, User};
use super::{AppName, Seen, carried_over, json};

/// What `orders` tells `web`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OrdersPage {
    pub(super) customer: String,
    pub(super) orders: Vec<String>,
    pub(super) hops: Vec<Seen>,
}

#[derive(Debug, Clone)]
pub(super) struct Orders {
    users: UsersClient<Channel>,
    /// Switched on and off for the demo: fails every call.
    broken: Rc<Cell<bool>>,
}

impl Orders {
    /// Takes `via` as the way to every service; `:authority` says which one is meant.
    pub(super) fn new(via: SocketAddr) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{via}"))
            .context("address the proxy")?
            .origin(http::Uri::from_static("http://users:50051"))
            .timeout(Duration::from_secs(5))
            .connect_lazy();
        Ok(Self {
            users: UsersClient::new(channel),
            broken: Rc::default(),
        })
    }

    pub(super) async fn answer(self, req: Request<Incoming>) -> Response<Full<Bytes>> {
        let switch = req.uri().path().strip_prefix("/switch/");
        if let Some(state) = switch {
            self.broken.set(state == "broken");
            return json(StatusCode::OK, &state);
        }
        let seen = Seen::http(AppName::Orders, &req);
        seen.announce();
        if self.broken.get() {
            return json(StatusCode::INTERNAL_SERVER_ERROR, &"orders is broken");
        }
        let name = req
            .uri()
            .path()
            .trim_start_matches("/orders")
            .trim_matches('/');
        let name = if name.is_empty() { "ada" } else { name };
        match self.find(name, carried_over(req.headers())).await {
            Ok(user) => json(StatusCode::OK, &page(seen, user)),
            Err(status) => json(http_status(status.code()), &status.message()),
        }
    }

    async fn find(mut self, name: &str, carried: HeaderMap) -> Result<User, tonic::Status> {
        let name = name.to_owned();
        let message = FindRequest { name };
        let request = tonic::Request::from_parts(
            MetadataMap::from_headers(carried),
            http::Extensions::new(),
            message,
        );
        Ok(self.users.find(request).await?.into_inner())
    }
}

fn page(seen: Seen, user: User) -> OrdersPage {
    let users = user.seen.map(super::users::told);
    OrdersPage {
        customer: user.full_name,
        orders: ORDERS.map(str::to_owned).to_vec(),
        hops: std::iter::once(seen).chain(users).collect(),
    }
}

fn http_status(code: tonic::Code) -> StatusCode {
    if code == tonic::Code::NotFound {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::BAD_GATEWAY
    }
}

const ORDERS: [&str; 2] = ["one loom", "two shuttles"];
