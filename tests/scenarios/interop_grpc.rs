//! gRPC by its own interop programs: grpc-go on both ends, and Python's grpcio (another HTTP/2 stack) as a second client.

use std::process::Command;

use weft_tests::netns::{User, scenario};
use weft_tests::pair::{Offer, Pair, services_of_app};
use weft_tests::process::Process;
use weft_tests::sidecar::counted;
use weft_tests::tools;

use crate::PROXY;

/// The cases that need neither authentication nor a second server.
const CASES: [&str; 16] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
];

const PORT: u16 = 8080;

/// A pair whose app is grpc-go's interop server, its port declared as `protocol`.
fn pair(protocol: &str) -> Option<(Pair, Process)> {
    let [server] = tools::require(["grpc-interop-server"])?;
    let pair = Pair::new(
        PROXY.as_ref(),
        Offer {
            ports: &[(PORT, protocol)],
            mtls: "strict",
        },
    );
    let mut command = pair.app.command(User::ROOT, server);
    command.args(["--port", &PORT.to_string()]);
    let server = pair.serve("grpc-go's interop server", command, &[PORT]);
    Some((pair, server))
}

fn assert_success(mut command: Command, name: &str) {
    let output = command.output().unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{name}: {}\n{out}\n{error}",
        output.status
    );
}

#[test]
fn every_interop_case_of_grpc_go_passes() {
    let Some([client]) = tools::require(["grpc-interop-client"]) else {
        return;
    };
    scenario(|| {
        for protocol in ["-", "grpc"] {
            let Some((pair, _server)) = pair(protocol) else {
                return;
            };
            for address in services_of_app() {
                for case in CASES {
                    let mut command = pair.web.command(User::ROOT, &client);
                    command.args([
                        "--server_host",
                        &address.to_string(),
                        "--server_port",
                        &PORT.to_string(),
                        "--test_case",
                        case,
                    ]);
                    command.args([
                        "--soak_iterations",
                        "100",
                        "--soak_min_time_ms_between_rpcs",
                        "0",
                    ]);
                    assert_success(
                        command,
                        &format!("{case} at {address}, declared {protocol}"),
                    );
                }
            }
            let from_web = [
                r#"connection_security_policy="mutual_tls""#,
                r#"request_protocol="grpc""#,
            ];
            counted(&pair.app, "istio_requests_total", &from_web, 100.0);
        }
    });
}

#[test]
fn grpcio_of_python_makes_every_kind_of_call() {
    let Some(python) = tools::require_python() else {
        return;
    };
    scenario(|| {
        let Some((pair, _server)) = pair("-") else {
            return;
        };
        let script = pair
            .scratch
            .file("client.py", include_str!("interop_grpc/client.py"));
        for address in services_of_app() {
            let mut command = pair.web.command(User::ROOT, &python);
            command
                .arg(&script)
                .arg(std::net::SocketAddr::new(address, PORT).to_string());
            assert_success(command, &format!("grpcio at {address}"));
        }
    });
}
