"""The control plane goes away, comes back, is replaced: pods that run go on."""

import json

from ..install import IMAGE, SYSTEM, image
from ..kube import Skipped, eventually, expect
from ..load import Load, reachable, status
from ..objects import caller, echo, service, template, workload

PODS = f"/api/v1/namespaces/{SYSTEM}/pods"
PARTS = ("weft-ca", "weft-discovery", "weft-injector")


def shop(kube, namespace):
    """Somebody who calls and somebody who is called, in a namespace that is strict."""
    kube.namespace(namespace, annotations={"weft.dev/mtls": "strict"})
    kube.apply(workload(namespace, "orders", echo(), replicas=2), service(namespace, "orders"), caller(namespace))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")


def its_restart_loses_nothing(kube):
    """All parts at once, under load; then a new pod gets its proxy as before."""
    namespace = "control-restart"
    shop(kube, namespace)
    load = Load(kube, namespace, "http://orders/", 30)
    kube.run("-n", SYSTEM, "rollout", "restart", *(f"deployment/{part}" for part in PARTS))
    kube.available(SYSTEM)
    kube.run("-n", namespace, "rollout", "restart", "deployment/orders")
    kube.available(namespace)
    return f"{load.lost_nothing()['sent']} requests"


def without_it_running_pods_and_restarted_proxies_go_on(kube):
    """Each part is away, then all: calls go on, at last with proxies whose containers were restarted; new pods are refused, elsewhere not."""
    namespace = "control-away"
    shop(kube, namespace)
    for part in PARTS:
        load = Load(kube, namespace, "http://orders/", 8)
        with Away(kube, [part]):
            load.lost_nothing()
    with Away(kube, PARTS):
        for selector in ("app=client", "app=orders"):
            restart_proxies(kube, namespace, selector)
        Load(kube, namespace, "http://orders/", 10).lost_nothing()
        refused = new_pod(kube, namespace)
        expect("failed calling webhook" in refused, f"a pod without a proxy was let into the mesh: {refused}")
        elsewhere = kube.namespace("control-away-elsewhere", meshed=False)
        eventually("a pod outside of the mesh is made", lambda: "created" in new_pod(kube, elsewhere), 20)
    kube.annotate(f"/apis/apps/v1/namespaces/{namespace}/deployments/orders", deny="[{paths: [/no]}]")
    eventually("policy is told again", lambda: status(kube, namespace, "http://orders/no") == "403 authz_denied", 60)
    kube.run("-n", namespace, "rollout", "restart", "deployment/orders", "deployment/client")
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")


def its_upgrade_loses_nothing_with_old_proxies_running(kube):
    """To another image; proxies of before still take policy and talk with those of after."""
    if not kube.node:
        raise Skipped("a second image can only be made for a node of our own")
    namespace = "control-upgrade"
    shop(kube, namespace)
    next_image = IMAGE.replace(":", ":next-")
    image(kube.node, None, next_image)
    load = Load(kube, namespace, "http://orders/", 40)
    kube.run("apply", "-f", "-", stdin=kube.mesh("upgrade", "--image", next_image))
    kube.available(SYSTEM)
    images = {pod["spec"]["containers"][0]["image"] for pod in kube.pods(SYSTEM)}
    expect(images == {next_image}, f"the control plane runs {images}")
    kube.annotate(f"/apis/apps/v1/namespaces/{namespace}/deployments/orders", deny="[{paths: [/no]}]")
    eventually("an old proxy is told policy", lambda: status(kube, namespace, "http://orders/no") == "403 authz_denied", 60)
    kube.run("-n", namespace, "rollout", "restart", "deployment/orders")
    kube.available(namespace)
    expect({proxy_image(pod) for pod in kube.pods(namespace, "app=orders")} == {next_image}, "new pods have old proxies")
    return f"{load.lost_nothing()['sent']} requests"


def proxy_image(pod):
    return next(one["image"] for one in pod["spec"]["initContainers"] if one["name"] == "weft-proxy")


class Away:
    """Takes Deployments of the control plane down to no replica, and back."""

    def __init__(self, kube, parts):
        self.kube, self.parts = kube, parts
        listed = kube.api("GET", f"/apis/apps/v1/namespaces/{SYSTEM}/deployments")["items"]
        self.replicas = {one["metadata"]["name"]: one["spec"]["replicas"] for one in listed}

    def scale(self, name, replicas):
        self.kube.run("-n", SYSTEM, "scale", f"deployment/{name}", f"--replicas={replicas}")

    def __enter__(self):
        for part in self.parts:
            self.scale(part, 0)
        def away():
            return not any(self.kube.api("GET", f"{PODS}?labelSelector=app.kubernetes.io/name={part}")["items"] for part in self.parts)
        eventually(f"{self.parts} are away", away, 60)

    def __exit__(self, *_):
        for part in self.parts:
            self.scale(part, self.replicas[part])
        self.kube.available(SYSTEM)


def new_pod(kube, namespace):
    pod = template("new", echo(), serviceAccountName="default")
    pod["metadata"].update(name="new", namespace=namespace)
    return kube.run("apply", "-f", "-", stdin=kube.own_images(json.dumps({"apiVersion": "v1", "kind": "Pod", **pod})), check=False)


def restart_proxies(kube, namespace, selector):
    """Ends the proxy of each pod with two signals, which is at once; the kubelet starts it anew."""
    for pod in kube.pods(namespace, selector):
        name, before = pod["metadata"]["name"], restarts(pod)
        kube.run("-n", namespace, "debug", f"pod/{name}", "--target=weft-proxy", f"--image={kube.own_images('weft.dev/tools:1')}",
                 "--profile=general", "--quiet", "--", "sh", "-c", "kill -TERM 1; sleep 0.3; kill -TERM 1")

        def again():
            now = kube.api("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
            ready = any(one["type"] == "Ready" and one["status"] == "True" for one in now["status"]["conditions"])
            return restarts(now) > before and ready
        eventually(f"the proxy of {name} is ready again", again, 60)


def restarts(pod):
    return next(one["restartCount"] for one in pod["status"]["initContainerStatuses"] if one["name"] == "weft-proxy")


ALONE = [its_restart_loses_nothing, without_it_running_pods_and_restarted_proxies_go_on,
         its_upgrade_loses_nothing_with_old_proxies_running]
