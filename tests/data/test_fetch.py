"""A model of the hub: fetched where the network is, then used where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import REPOSITORY, write_config, write_study

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The hub's own paths, for the one repository someone/tiny."""

    folder: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        files = sorted(self.folder.iterdir())
        if path == "/api/models/someone/tiny/revision/main":
            self._answer(json.dumps({"id": "someone/tiny", "sha": COMMIT, "siblings": []}).encode())
        elif path == f"/api/models/someone/tiny/tree/{COMMIT}":
            listed = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
            self._answer(json.dumps(listed).encode())
        elif path.startswith("/someone/tiny/resolve/") and (self.folder / path.rsplit("/", 1)[1]).is_file():
            self._answer((self.folder / path.rsplit("/", 1)[1]).read_bytes(), path.rsplit("/", 1)[1])
        else:
            self.send_error(404)

    def _answer(self, content: bytes, name: str | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if name is not None:
            self.send_header("ETag", f'"{name}"')
            self.send_header("X-Repo-Commit", COMMIT)
        else:
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tiny_causal: Path, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    repository = tmp_path / "repository"
    shutil.copytree(tiny_causal, repository)
    (repository / "pytorch_model.bin").write_bytes(b"a pickle")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Tiny", (Hub,), {"folder": repository}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_fetched_once_and_then_needs_no_network(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, project / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(REPOSITORY / name, project / name)
    write_study(project, "someone/tiny")
    experiment = {"name": "sums", "tasks": ["task.yaml"], "methods": ["lora.yaml"], "seeds": [0]}
    write_config(project / "experiment.yaml", experiment)
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }

    def snakemake(target: str) -> str:
        words = [str(Path(sys.executable).parent / "snakemake"), "--cores", "1", target]
        done = subprocess.run(
            [*words, "--config", "experiment=experiment.yaml"],
            cwd=project, env=environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    assert "rule fetch_model:" in snakemake("data")
    note = json.loads(next(project.glob("results/scratch/hub/tiny-*.json")).read_text())
    fetched = {path.name for path in Path(note["folder"]).iterdir()}
    assert "model.safetensors" in fetched and "pytorch_model.bin" not in fetched
    hub.shutdown()
    hub.server_close()
    said = snakemake("all")
    assert "rule fetch_model:" not in said and "rule train:" in said
    assert len(list(project.glob("results/scores/*/*.json"))) == 1
