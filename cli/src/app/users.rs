//! `users`: who a customer is. The shop's gRPC server; calls nobody.

use anyhow::Context as _;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::wire::users_server::{Users, UsersServer};
use super::wire::{self, FindRequest, User};
use super::{AppName, CLIENT_CERT, Seen, TRACEPARENT};

pub(super) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    // A gRPC answer is written in several small pieces, which the kernel would otherwise hold back for 40 ms.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .serve_with_incoming(UsersServer::new(Directory), incoming)
        .await
        .context("serve gRPC")
}

/// Reads how the call looked to `users` from its answer.
pub(super) fn told(seen: wire::Seen) -> Seen {
    Seen {
        app: AppName::Users.as_str().to_owned(),
        call: seen.call,
        protocol: seen.protocol,
        client_cert: seen.client_cert,
        traceparent: seen.traceparent,
    }
}

struct Directory;

#[tonic::async_trait]
impl Users for Directory {
    async fn find(&self, req: Request<FindRequest>) -> Result<Response<User>, Status> {
        let seen = seen(&req);
        told(seen.clone()).announce();
        let name = &req.get_ref().name;
        let known = CUSTOMERS.iter().find(|(key, _)| key == name);
        let (_, full_name) =
            known.ok_or_else(|| Status::not_found(format!("no customer {name:?}")))?;
        Ok(Response::new(User {
            full_name: (*full_name).to_owned(),
            seen: Some(seen),
        }))
    }
}

fn seen<T>(req: &Request<T>) -> wire::Seen {
    let text = |name| {
        let value = req.metadata().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    wire::Seen {
        call: "shop.Users/Find".to_owned(),
        protocol: "gRPC over HTTP/2".to_owned(),
        client_cert: text(CLIENT_CERT),
        traceparent: text(TRACEPARENT),
    }
}

const CUSTOMERS: [(&str, &str); 2] = [("ada", "Ada Lovelace"), ("joseph", "Joseph Jacquard")];
