//! Compiles the protobuf with `protox`, so that nobody needs `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(
        [
            "istio/v1/auth/ca.proto",
            "envoy/service/discovery/v3/ads.proto",
            "istio/workload/workload.proto",
            "weft/v1/policy.proto",
        ],
        ["proto"],
    )?;
    tonic_prost_build::configure()
        .bytes(".envoy.service.discovery.v3.Payload")
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}
