"""The part of a cluster that a TrainJob meets: its API, and an operator that runs the pods' command on this machine."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PATH = re.compile(r"/apis/trainer\.kubeflow\.org/v1alpha1/namespaces/([a-z-]+)/trainjobs(?:/([a-z0-9-]+))?(?:\?.*)?")


class Cluster:
    """TrainJobs by name and the processes of each.

    Args:
        check: raises for a manifest that the operator would refuse.
        paths: of modules for the pods.
    """

    def __init__(self, check: Callable[[Any], None], paths: list[Path]) -> None:
        self._check, self._paths = check, paths
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.seen: list[tuple[str, str]] = []

    def create(self, manifest: dict[str, Any]) -> tuple[int, Any]:
        """Starts a TrainJob: one torchrun a node, with the variables that the torch plugin of the operator sets."""
        self._check(manifest)
        name, trainer = manifest["metadata"]["name"], manifest["spec"]["trainer"]
        if name in self.jobs:
            return 409, {"message": f"{name} exists"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"PET_NNODES": trainer["numNodes"], "PET_NPROC_PER_NODE": trainer["numProcPerNode"]}
        shared |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
        shared |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        shared |= {"PYTHONPATH": os.pathsep.join(map(str, self._paths))}
        self.jobs[name] = manifest
        self.pods[name] = []
        for node in range(trainer["numNodes"]):
            variables = {key: str(value) for key, value in {**shared, "PET_NODE_RANK": node}.items()}
            self.pods[name].append(subprocess.Popen(trainer["command"], env={**os.environ, **variables}))
        return 201, manifest

    def get(self, name: str) -> tuple[int, Any]:
        """A TrainJob with its condition."""
        if name not in self.jobs:
            return 404, {"message": "not found"}
        codes = [pod.poll() for pod in self.pods[name]]
        kind = "Failed" if any(codes) else "Complete" if None not in codes else None
        conditions = [{"type": kind, "status": "True", "message": "the pods have ended"}] if kind else []
        return 200, {**self.jobs[name], "status": {"conditions": conditions}}

    def delete(self, name: str) -> tuple[int, Any]:
        """Ends the pods of a TrainJob."""
        if name not in self.jobs:
            return 404, {"message": "not found"}
        for pod in self.pods.pop(name):
            pod.terminate()
            pod.wait(60)
        return 200, self.jobs.pop(name)


@contextmanager
def serve(cluster: Cluster, folder: Path) -> Iterator[Path]:
    """Answers for a cluster; yields the path of a kubeconfig that names it."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            found = _PATH.fullmatch(self.path)
            assert found is not None, self.path
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            cluster.seen.append((self.command, found[2] or ""))
            if self.command == "POST":
                code, value = cluster.create(json.loads(body))
            else:
                code, value = (cluster.get if self.command == "GET" else cluster.delete)(found[2])
            answer = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "own", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "own", "user": {}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
        "current-context": "own",
    }
    path.write_text(json.dumps(config))
    try:
        yield path
    finally:
        for name in list(cluster.jobs):
            cluster.delete(name)
        server.shutdown()
        server.server_close()
