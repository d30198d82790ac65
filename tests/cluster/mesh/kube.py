"""A cluster as the tests see it: kubectl, and the API by way of `kubectl proxy` where many or quick requests are needed."""

import http.client
import json
import os
import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor


class Failed(AssertionError):
    """What a scenario expected is not so."""


class Skipped(Exception):
    """Why a scenario cannot be had here."""


class Kube:
    """One cluster, how the tests' images are called there, and the node where it is one of our own."""

    def __init__(self, kubeconfig, images, bin_dir, weft, node=None):
        self.images, self.weft, self.node = images, weft, node
        self.env = {**os.environ, "KUBECONFIG": kubeconfig, "PATH": f"{bin_dir}:{os.environ['PATH']}"}
        self.at_work = threading.local()
        self.at_work.namespace = "weft-system"
        command = ["kubectl", "proxy", "--port=0"]
        self.proxy = subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, text=True)
        self.port = int(self.proxy.stdout.readline().rsplit(":", 1)[1])

    def close(self):
        self.proxy.terminate()
        self.proxy.wait()

    # --- kubectl

    def run(self, *args, stdin=None, check=True, timeout=180):
        """Runs kubectl and returns what it prints, on both streams where nobody checks."""
        merged = subprocess.PIPE if check else subprocess.STDOUT
        done = subprocess.run(["kubectl", *args], env=self.env, input=stdin, text=True, timeout=timeout,
                              stdout=subprocess.PIPE, stderr=merged)
        if check and done.returncode:
            raise Failed(f"kubectl {' '.join(args)}: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, *args):
        """Starts kubectl; its output is read from the process."""
        return subprocess.Popen(["kubectl", *args], env=self.env, text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1)

    def apply(self, *objects):
        """Applies objects, or texts of YAML, with the images of this cluster."""
        texts = [one if isinstance(one, str) else json.dumps(one) for one in objects]
        return self.run("apply", "-f", "-", stdin=self.own_images("\n---\n".join(texts)))

    def own_images(self, text):
        return text if self.images == "weft.dev" else re.sub(r"\bweft\.dev/(?=\w+:1\b)", self.images + "/", text)

    def exec(self, namespace, target, *command, container=None, **options):
        where = ["-c", container] if container else []
        return self.run("-n", namespace, "exec", target, *where, "--", *command, **options)

    def mesh(self, *args, check=True):
        """Runs `weft`."""
        done = subprocess.run([self.weft, *args], env=self.env, capture_output=True, text=True, timeout=300)
        if check and done.returncode:
            raise Failed(f"weft {' '.join(args)}: {done.stderr or done.stdout}")
        return done.stdout

    # --- the API

    def api(self, method, path, body=None, kind="application/merge-patch+json"):
        """One request; the answer as an object, or as text where it is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, body=data, headers={"Content-Type": kind} if body is not None else {})
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status >= 300:
                raise Failed(f"{method} {path}: {answer.status} {text[:500]}")
            return json.loads(text) if answer.headers.get("Content-Type", "").startswith("application/json") else text
        finally:
            connection.close()

    def annotate(self, path, **annotations):
        """Sets annotations `weft.dev/NAME` of the object at `path`; None takes one away. Two underscores stand for a dot."""
        named = {"weft.dev/" + name.replace("__", ".").replace("_", "-"): value for name, value in annotations.items()}
        self.api("PATCH", path, {"metadata": {"annotations": named}})

    def pods(self, namespace, selector=""):
        """The pods that do not end."""
        listed = self.api("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]
        return [pod for pod in listed if "deletionTimestamp" not in pod["metadata"]]

    def available(self, namespace, timeout=120):
        """Waits until all Deployments and StatefulSets of a namespace run what they should."""
        for kind in ("deployment", "statefulset"):
            for name in self.run("-n", namespace, "get", kind, "-o", "name").split():
                self.run("-n", namespace, "rollout", "status", name, f"--timeout={timeout}s", timeout=timeout + 10)

    # --- namespaces

    def namespace(self, name, meshed=True, annotations=None):
        self.at_work.namespace = name
        labels = {"weft.dev/inject": "enabled"} if meshed else {}
        metadata = {"name": name, "labels": labels, "annotations": annotations or {}}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        return name

    def forget(self, *namespaces):
        self.run("delete", "namespace", *namespaces, "--wait=false", "--ignore-not-found")

    def diagnosis(self):
        """What helps to understand a failure: the state of the namespace that this thread made last."""
        def show(*args):
            return self.run("-n", self.at_work.namespace, *args, check=False, timeout=60)
        parts = [show("get", "pods", "-o", "wide"), show("get", "events", "--sort-by=.lastTimestamp")[-3000:]]
        for name in show("get", "pods", "-o", "name").split()[:6]:
            parts.append(f"--- {name}\n" + show("logs", name, "--all-containers", "--prefix", "--tail=6", "--ignore-errors"))
        return "\n".join(parts)


def eventually(what, check, seconds=60, pause=0.25):
    """Repeats `check` until it returns something true, and returns that; what it last raised or returned is told."""
    end = time.monotonic() + seconds
    while True:
        try:
            last = check()
            if last:
                return last
        except (Failed, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
            last = error
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s; last: {last!r}")
        time.sleep(pause)


def expect(condition, what):
    if not condition:
        raise Failed(what)


def together(*calls):
    """Makes calls at the same time, and returns what they return."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]
