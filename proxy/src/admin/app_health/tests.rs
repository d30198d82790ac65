//! Apps that are well, unwell, slow and away.

use std::future::pending;
use std::net::Ipv4Addr;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::grpc::{HealthCheckRequest, HealthCheckResponse};
use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn probe(ask: Question) -> AppProbe {
    AppProbe {
        ask,
        timeout_seconds: 1,
    }
}

fn http(port: u16, path: &str, headers: &[(&str, &str)]) -> AppProbe {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    probe(Question::Http {
        port,
        path: path.to_owned(),
        tls: false,
        headers: headers.collect(),
    })
}

async fn app() -> (u16, TcpListener) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    (listener.local_addr().unwrap().port(), listener)
}

/// Answers with the status that the path names; `/host` is well for one host, `/agent` for the kubelet.
async fn say(
    request: Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    let header = |name| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let status = match request.uri().path() {
        "/slow" => pending().await,
        "/host" if header("host").as_deref() == Some("shop.example") => 200,
        "/agent" if header("user-agent").as_deref() == Some("kube-probe/1.37") => 200,
        path => path.trim_start_matches('/').parse().unwrap_or(500),
    };
    let mut response = http::Response::new(Full::default());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}

#[tokio::test]
async fn http_means_what_it_means_to_the_kubelet() {
    let (port, listener) = app().await;
    let tasks = TaskTracker::new();
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let served =
                conn::http1::Builder::new().serve_connection(TokioIo::new(io), service_fn(say));
            connections.spawn(served);
        }
    });
    let agent = HeaderValue::from_static("kube-probe/1.37");
    let rows: &[(&str, &[(&str, &str)], u16, &str)] = &[
        ("/200", &[], 200, "ok"),
        ("/302", &[], 200, "ok"),
        ("/404", &[], 404, "the app answers 404 Not Found"),
        (
            "/500",
            &[],
            500,
            "the app answers 500 Internal Server Error",
        ),
        ("/host", &[("Host", "shop.example")], 200, "ok"),
        ("/agent", &[], 200, "ok"),
        ("/slow", &[], 504, "no answer of the app within 900ms"),
    ];
    for (path, headers, status, text) in rows {
        let told = ask(&http(port, path, headers), HERE, Some(&agent)).await;
        assert_eq!(
            (told.status.as_u16(), told.text.trim_end()),
            (*status, *text),
            "{path}"
        );
    }
}

#[tokio::test]
async fn tcp_is_well_where_somebody_listens() {
    let (port, listener) = app().await;
    let told = ask(&probe(Question::Tcp { port }), HERE, None).await;
    assert_eq!(told.status, StatusCode::OK);
    drop(listener);
    let told = ask(&probe(Question::Tcp { port }), HERE, None).await;
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        told.text
            .contains("takes no connection: Connection refused"),
        "{}",
        told.text
    );
}

/// Serves the health protocol: `orders` is well, `busy` is not, others are not there.
async fn health(
    request: Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    use http_body_util::BodyExt;
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked = HealthCheckRequest::decode(&body[5..]).unwrap();
    let (status, answer) = match asked.service.as_str() {
        "" | "orders" => ("0", 1),
        "busy" => ("0", 2),
        _ => ("5", 0),
    };
    let message = HealthCheckResponse { status: answer }.encode_to_vec();
    let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    framed.extend(message);
    let response = http::Response::builder().header("grpc-status", status);
    Ok(response.body(Full::from(framed)).unwrap())
}

#[tokio::test]
async fn grpc_is_well_where_it_says_so() {
    let (port, listener) = app().await;
    let tasks = TaskTracker::new();
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let served = conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(io), service_fn(health));
            connections.spawn(served);
        }
    });
    let rows = [
        ("", 200, "ok"),
        ("orders", 200, "ok"),
        ("busy", 503, "the app says NOT_SERVING"),
        ("gone", 503, "the app says that it has no service \"gone\""),
    ];
    for (service, status, text) in rows {
        let service = service.to_owned();
        let told = ask(&probe(Question::Grpc { port, service }), HERE, None).await;
        assert_eq!((told.status.as_u16(), told.text.trim_end()), (status, text));
    }
}

#[tokio::test]
async fn whoever_answers_over_tls_is_taken() {
    let (port, listener) = app().await;
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let io = TokioIo::new(acceptor.accept(io).await.unwrap());
        conn::http1::Builder::new()
            .serve_connection(io, service_fn(say))
            .await
    });
    let mut probe = http(port, "/200", &[]);
    if let Question::Http { tls, .. } = &mut probe.ask {
        *tls = true;
    }
    assert_eq!(ask(&probe, HERE, None).await.status, StatusCode::OK);
}
