//! WebSocket by an implementation that knows nothing of us: Python's `websockets` on both ends.

use std::net::SocketAddr;

use weft_tests::netns::{User, scenario};
use weft_tests::pair::{Offer, Pair, services_of_app};
use weft_tests::sidecar::counted;
use weft_tests::tools;

use crate::PROXY;

const PORT: u16 = 8080;

#[test]
fn websockets_of_python_talk_through_both_proxies() {
    let Some(python) = tools::require_python() else {
        return;
    };
    scenario(|| {
        let pair = Pair::new(
            PROXY.as_ref(),
            Offer {
                ports: &[(PORT, "-")],
                mtls: "strict",
            },
        );
        let server = pair
            .scratch
            .file("server.py", include_str!("interop_websocket/server.py"));
        let client = pair
            .scratch
            .file("client.py", include_str!("interop_websocket/client.py"));
        let mut command = pair.app.command(User::ROOT, &python);
        command.arg(&server).arg(PORT.to_string());
        let _server = pair.serve("the WebSocket server", command, &[PORT]);
        for address in services_of_app() {
            let mut command = pair.web.command(User::ROOT, &python);
            command.arg(&client).arg(format!(
                "ws://{}/chat?room=1",
                SocketAddr::new(address, PORT)
            ));
            let output = command.output().unwrap();
            assert!(
                output.status.success(),
                "{address}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        counted(
            &pair.app,
            "istio_requests_total",
            &[
                r#"response_code="101""#,
                r#"connection_security_policy="mutual_tls""#,
            ],
            2.0,
        );
    });
}
