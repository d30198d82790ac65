"""Runs the examples: every command of an example's README, in its folder, compared with what stands below it.

Commands are in blocks marked `console`: a line that begins with `$ ` is a command, the lines up to the next are what its output must contain, in
their order, with `…` for anything and any white space for white space. A command is repeated for a while until its output fits, since policy needs a
moment to act; one without output below it has to succeed.
"""

import os
import re
import shutil
import subprocess
import tempfile

from .kube import Failed, eventually

FOLDER = os.path.realpath(os.path.join(os.path.dirname(__file__), "../../../examples"))


def names():
    """The examples that are for a cluster."""
    return sorted(name for name in os.listdir(FOLDER) if steps(name))


def steps(name):
    """(command, lines to see) of an example."""
    readme = os.path.join(FOLDER, name, "README.md")
    if not os.path.isfile(readme):
        return []
    found = []
    with open(readme, encoding="utf-8") as text:
        for block in re.findall(r"^```console\n(.*?)^```", text.read(), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                if line.startswith("$ "):
                    found.append((line[2:], []))
                else:
                    found[-1][1].append(line)
    return found


def walk(kube, name):
    """Does what the README says; returns how many commands that were."""
    kube.at_work.namespace = name
    with tempfile.TemporaryDirectory() as work:
        shutil.copytree(os.path.join(FOLDER, name), work, dirs_exist_ok=True)
        for file in os.listdir(work):
            if file.endswith(".yaml"):
                own_images(kube, os.path.join(work, file))
        for command, lines in steps(name):
            eventually(f"$ {command}", lambda command=command, lines=lines: fits(kube, work, command, lines))
    return f"{len(steps(name))} commands"


def own_images(kube, path):
    with open(path, encoding="utf-8") as file:
        text = kube.own_images(file.read())
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def fits(kube, folder, command, lines):
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=kube.env, text=True, timeout=180, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode and not lines:
        raise Failed(done.stdout)
    output = iter(done.stdout.splitlines())
    for line in lines:
        if not any(pattern(line).search(seen) for seen in output):
            raise Failed(f"no line {line!r} in its place in\n{done.stdout}")
    return True


def pattern(line):
    """The whole line, or its beginning or end where it is open there."""
    parts = [r"\s+".join(map(re.escape, part.split())) for part in line.split("…")]
    return re.compile(r"^\s*" + r".*".join(parts) + r"\s*$")
