"""The Gateway API's own conformance tests of a mesh: profiles MESH-HTTP and MESH-GRPC, all 22."""

import os
import re
import subprocess
import tempfile

from .kube import Failed, Skipped
from .node import BIN, CACHE

FEATURES = """Mesh,HTTPRoute,GRPCRoute,ReferenceGrant,MeshClusterIPMatching,MeshConsumerRoute,MeshHTTPRouteBackendRequestHeaderModification,
MeshHTTPRouteNamedRouteRule,MeshHTTPRouteQueryParamMatching,MeshHTTPRouteRedirectPath,MeshHTTPRouteRedirectPort,MeshHTTPRouteRewritePath,
MeshHTTPRouteSchemeRedirect,HTTPRoute303RedirectStatusCode,HTTPRoute307RedirectStatusCode,HTTPRoute308RedirectStatusCode,
HTTPRouteResponseHeaderModification,HTTPRouteParentRefPort"""
TESTS = 22
DEFINITIONS = os.path.join(CACHE, "gateway-api/standard")
SUITE = os.path.join(BIN, "gateway-conformance")


def definitions(kube):
    """Gives the cluster the Gateway API's types, which discovery looks for when it starts."""
    if not os.path.isdir(DEFINITIONS):
        return
    kube.run("apply", "--server-side", "-f", DEFINITIONS)


def suite(kube):
    if not os.path.exists(SUITE):
        raise Skipped("tests/cluster/kubernetes/build gateway-api was not run")
    with tempfile.TemporaryDirectory() as work:
        command = [
            SUITE, "-test.v", "-test.run", "TestConformance/Mesh",
            "-conformance-profiles", "MESH-HTTP,MESH-GRPC", "-namespace-labels", "weft.dev/inject=enabled", "-allow-crds-mismatch",
            "-cleanup-base-resources=false", "-supported-features", FEATURES.replace("\n", ""), "-organization", "weft",
            "-project", "weft", "-url", "https://weft.dev", "-version", "dev", "-contact", "weft",
            "-report-output", os.path.join(work, "report.yaml"),
        ]
        done = subprocess.run(command, env=kube.env, cwd=work, text=True, timeout=1200, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    results = re.findall(r"^    --- (PASS|FAIL|SKIP): (\S+)", done.stdout, re.MULTILINE)
    passed = [name for result, name in results if result == "PASS"]
    if len(passed) != TESTS or len(results) != TESTS:
        others = ", ".join(f"{name} {result}" for result, name in results if result != "PASS")
        raise Failed(f"{len(passed)} of {TESTS} passed; {others}\n{done.stdout[-6000:]}")
    return f"{len(passed)} of {TESTS}"
