"""The objects that scenarios are made of: small, with what a scenario wants to be different as arguments."""

ECHO, TOOLS = "weft.dev/echo:1", "weft.dev/tools:1"


def metadata(namespace, name, labels=None, annotations=None):
    return {"name": name, "namespace": namespace, "labels": labels or {}, "annotations": annotations or {}}


def account(namespace, name):
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(namespace, name)}


def echo(name="echo", port=8080, env=None, **more):
    """The container of an app that answers."""
    env = {"PORT": str(port), **(env or {})}
    probe = {"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 1}
    return {"name": name, "image": ECHO, "ports": [{"containerPort": port}], "readinessProbe": probe,
            "env": [{"name": key, "value": value} for key, value in env.items()], **more}


def tools(name="tools", command=("sleep", "86400"), **more):
    """The container of somebody who calls."""
    return {"name": name, "image": TOOLS, "command": list(command), **more}


def template(name, *containers, labels=None, annotations=None, **spec):
    spec = {"terminationGracePeriodSeconds": 30, "serviceAccountName": name, "containers": list(containers), **spec}
    return {"metadata": {"labels": {"app": name, **(labels or {})}, "annotations": annotations or {}}, "spec": spec}


def workload(namespace, name, *containers, replicas=1, kind="Deployment", annotations=None, own=None, **pod):
    """A workload with its service account; `annotations` are those of the pod, `own` those of the object itself."""
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": template(name, *containers, annotations=annotations, **pod)}
    if kind == "StatefulSet":
        spec["serviceName"] = name
    made = {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata(namespace, name, annotations=own), "spec": spec}
    return {"apiVersion": "v1", "kind": "List", "items": [account(namespace, name), made]}


def caller(namespace, name="client", *more, **pod):
    """Somebody who sleeps and can be told to call, and the program that loads."""
    pod.setdefault("terminationGracePeriodSeconds", 3)
    load = {"name": "load", "image": ECHO, "env": [{"name": "PORT", "value": "18080"}]}
    return workload(namespace, name, tools(name), load, *more, **pod)


def service(namespace, name, port=80, target=8080, selector=None, annotations=None, headless=False, port_name="http"):
    spec = {"selector": selector or {"app": name}, "ports": [{"name": port_name, "port": port, "targetPort": target}]}
    if headless:
        spec["clusterIP"] = "None"
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(namespace, name, annotations=annotations), "spec": spec}
