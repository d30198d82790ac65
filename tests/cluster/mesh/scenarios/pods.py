"""Pods of all kinds: probed under strict, ended when their work is done, refused to callers without identity."""

from ..kube import Failed, eventually, expect
from ..load import reachable, status
from ..objects import caller, echo, metadata, service, template, tools, workload


def probes_of_every_kind_pass_under_strict(kube):
    """HTTP, TCP and gRPC, as startup, liveness and readiness probe; and a probe that should fail does."""
    namespace = kube.namespace("probes", annotations={"weft.dev/mtls": "strict"})
    often = {"periodSeconds": 1, "failureThreshold": 2}
    probes = {
        "http": {"httpGet": {"path": "/healthz", "port": "web"}},
        "tcp": {"tcpSocket": {"port": 8080}},
        "grpc": {"grpc": {"port": 8080}},
    }
    objects = [caller(namespace, "outside", labels={"weft.dev/inject": "disabled"})]
    for name, probe in probes.items():
        app = echo(ports=[{"containerPort": 8080, "name": "web"}], readinessProbe={**probe, **often},
                   livenessProbe={**probe, **often}, startupProbe={**probe, "periodSeconds": 1, "failureThreshold": 30})
        objects += [workload(namespace, name, app), service(namespace, name)]
    closed = {"http": {"httpGet": {"path": "/?status=503", "port": 8080}}, "tcp": {"tcpSocket": {"port": 9999}},
              "grpc": {"grpc": {"port": 9999}}}
    for name, probe in closed.items():
        objects.append(workload(namespace, f"bad-{name}", echo(readinessProbe={**probe, **often})))
    kube.apply(*objects)
    for name in probes:
        kube.run("-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=90s")
    kube.run("-n", namespace, "rollout", "status", "deployment/outside", "--timeout=90s")

    def refused():
        return status(kube, namespace, "http://http/", "deploy/outside", "outside") == "000"
    eventually("strict refuses a caller without a proxy", refused, 10)

    def bad_ones():
        return {name: app_state(kube.pods(namespace, f"app=bad-{name}")[0]) for name in closed}
    eventually("the apps of bad-* run", lambda: all(state.get("started") for state in bad_ones().values()))
    for name, state in bad_ones().items():
        expect(not state["ready"], f"bad-{name} is ready, though its probe must fail")
    for pod in kube.pods(namespace):
        expect(app_state(pod)["restartCount"] == 0, f"{pod['metadata']['name']} was restarted: {app_state(pod)}")


def app_state(pod):
    """The status of the first app container."""
    return pod["status"].get("containerStatuses", [{}])[0]


def a_job_and_a_cron_job_end_when_their_app_does(kube):
    """With an init container that needs the network, which the proxy gives it."""
    namespace = kube.namespace("jobs")
    kube.apply(workload(namespace, "orders", echo()), service(namespace, "orders"))
    kube.available(namespace)
    call = ("sh", "-c", "for i in $(seq 30); do curl -sf http://orders/ | grep -q /sa/default && exit 0; sleep 0.5; done; exit 1")
    pod = template("work", tools("work", call), serviceAccountName="default", restartPolicy="Never",
                   initContainers=[tools("first", call)])
    job = {"backoffLimit": 0, "template": pod}
    cron = {"schedule": "* * * * *", "jobTemplate": {"spec": job}}
    kube.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(namespace, "once"), "spec": job},
               {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata(namespace, "often"), "spec": cron})
    kube.run("-n", namespace, "wait", "--for=condition=Complete", "job/once", "--timeout=60s")

    def by_schedule():
        jobs = kube.api("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
        return [job for job in jobs if job["metadata"]["name"] != "once" and job["status"].get("succeeded")]
    eventually("the CronJob's Job is complete", by_schedule, 100)
    for pod in kube.api("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]:
        if pod["status"]["phase"] == "Succeeded":
            names = [one["name"] for one in pod["spec"]["initContainers"]]
            expect("weft-proxy" in names, f"{pod['metadata']['name']} had no proxy: {names}")


def strict_holds_for_a_pod_ip_and_for_headless_services(kube):
    """An outside pod gets nothing by any address, a meshed one by all of them; and it is known who calls."""
    namespace = kube.namespace("names", annotations={"weft.dev/mtls": "strict"})
    kube.apply(workload(namespace, "orders", echo(), kind="StatefulSet", replicas=2),
               service(namespace, "orders", port=8080, headless=True), service(namespace, "web", selector={"app": "orders"}),
               caller(namespace), caller(namespace, "outside", labels={"weft.dev/inject": "disabled"}))
    kube.available(namespace)
    ip = kube.pods(namespace, "app=orders")[0]["status"]["podIP"]
    urls = ["http://web/", f"http://web.{namespace}/", f"http://web.{namespace}.svc/", f"http://web.{namespace}.svc.cluster.local/",
            "http://orders:8080/", "http://orders-0.orders:8080/", f"http://orders-1.orders.{namespace}.svc.cluster.local:8080/",
            f"http://{ip}:8080/"]
    for url in urls:
        reachable(kube, namespace, url)
        answer = kube.exec(namespace, "deploy/client", "curl", "-s", url, container="client")
        if f"/ns/{namespace}/sa/client" not in answer:
            raise Failed(f"{url}: the app does not know its caller: {answer}")
        code = status(kube, namespace, url, "deploy/outside", "outside")
        expect(code == "000", f"{url}: a caller without a proxy was answered {code}")
    return f"{len(urls)} ways to call"


ALL = [a_job_and_a_cron_job_end_when_their_app_does, probes_of_every_kind_pass_under_strict,
       strict_holds_for_a_pod_ip_and_for_headless_services]
