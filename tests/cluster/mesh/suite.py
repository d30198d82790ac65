"""The order of things: a cluster, the mesh on it, scenarios side by side, those that need it for themselves, figures, the verdict."""

import os
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

from . import conformance, examples, figures, install
from .kube import Kube, Skipped
from .node import BIN, Node, build
from .scenarios import control_plane, looking, network, pods, policy, rollout, rotation, software, tracing, wire

SIDE_BY_SIDE = [*pods.ALL, *rollout.ALL, *wire.ALL, *network.ALL, *software.ALL, *tracing.ALL, *looking.ALL, *policy.ALL]
ALONE = [*policy.ALONE, *control_plane.ALONE, *rotation.ALONE]
AT_A_TIME = 4


def run(options):
    """Runs what was asked for; the exit status of the whole."""
    weft = os.path.join(options.target, "weft")
    if options.kubeconfig:
        return tests(Kube(options.kubeconfig, options.images, BIN, weft), options)
    build("node", "software", "gateway-api")
    node = Node()
    try:
        status = tests(Kube(node.kubeconfig, "weft.dev", BIN, weft, node), options)
        if options.keep:
            input(f"KUBECONFIG={node.kubeconfig}; Enter takes the cluster down ")
        return status
    finally:
        node.close()


def tests(kube, options):
    verdict = Verdict(kube, options.words)
    try:
        if not verdict.must("install", lambda: install.mesh(kube, options)):
            return verdict.close()
        named = [("examples/" + name, lambda name=name: examples.walk(kube, name)) for name in examples.names() if name != "tracing"]
        many = [(title(one), lambda one=one: one(kube)) for one in SIDE_BY_SIDE] + named
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(lambda one: verdict.run(*one), many))
        for one in ALONE:
            verdict.run(title(one), lambda one=one: one(kube))
        verdict.run("conformance", lambda: conformance.suite(kube))
        for one in figures.ALL:
            verdict.run("figure " + one.__name__, lambda one=one: one(kube))
        if not options.keep:
            verdict.run("uninstall", lambda: install.remove(kube))
        return verdict.close()
    finally:
        kube.close()


def title(scenario):
    """`policy: a mistake is refused` from the module and the name of a scenario."""
    return f"{scenario.__module__.rpartition('.')[2]}: {scenario.__name__.replace('_', ' ')}"


class Verdict:
    """Runs things by name, prints a line for each, and counts."""

    def __init__(self, kube, words):
        self.kube, self.words = kube, words
        self.passed, self.failed, self.skipped = 0, [], 0
        self.lock, self.began = threading.Lock(), time.monotonic()

    def run(self, name, test):
        if self.words and not any(word in name for word in self.words):
            return True
        return self.must(name, test)

    def must(self, name, test):
        began = time.monotonic()
        try:
            told = test()
        except Skipped as reason:
            return self.tell("skipped", name, began, reason)
        except Exception as error:  # whatever it is, the others go on
            where = traceback.extract_tb(error.__traceback__)[-1]
            return self.tell("FAILED", name, began, f"{error}\n{where.filename}:{where.lineno}\n{self.state()}")
        return self.tell("ok", name, began, told)

    def state(self):
        try:
            return self.kube.diagnosis()
        except Exception as error:  # a failure of its own would hide the first
            return f"(no more is known: {error})"

    def tell(self, result, name, began, told):
        with self.lock:
            print(f"{result:8}{time.monotonic() - began:5.0f} s  {name}{': ' + str(told) if told else ''}", flush=True)
            if result == "skipped":
                print(f"SKIPPED {name}: {told}", file=sys.stderr, flush=True)
                self.skipped += 1
            self.passed += result == "ok"
            self.failed += [name] if result == "FAILED" else []
        return result != "FAILED"

    def close(self):
        print(f"{time.monotonic() - self.began:.0f} s in all")
        for name in self.failed:
            print(f"failed: {name}")
        print(f"{self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped")
        return 1 if self.failed or not self.passed else 0
