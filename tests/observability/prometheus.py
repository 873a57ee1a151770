"""A real Prometheus, of Debian's package, unpacked without root. `python -m tests.observability.prometheus` fetches it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

import yaml

__all__ = ["FOLDER", "Prometheus", "fetch", "installed", "tool", "wanted"]

FOLDER = Path(os.environ.get("WORKER_ADAPTERS_CACHE") or Path.home() / ".cache" / "worker-adapters") / "prometheus"
ENV = "WORKER_ADAPTERS_PROMETHEUS"
PATIENCE = 180.0  # a machine that does much else; on a quiet one it takes seconds
PORTS = 5  # that are tried: of one that was free, somebody else may have been quicker
ROOT = Path(__file__).parents[2]


def tool(name: str) -> Path:
    """`prometheus` or `promtool`."""
    return FOLDER / "usr" / "bin" / name


def installed() -> bool:
    """Whether it was fetched."""
    return tool("prometheus").exists() and tool("promtool").exists()


def wanted() -> bool:
    """Whether tests are to run it: they take minutes."""
    return ENV in os.environ and installed()


def fetch() -> None:
    """Debian's package, unpacked. Where apt has no lists, it makes some beside."""
    if installed():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        lists = Path(folder, "lists")
        lists.mkdir()
        own = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={folder}"]
        for options, update in (([], False), (own, True)):
            if update:
                subprocess.run(["apt-get", *options, "update"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["apt-get", *options, "download", "prometheus"], cwd=folder, check=update)
            packages = list(Path(folder).glob("prometheus_*.deb"))
            if packages:
                break
        whole = Path(folder, "whole")
        subprocess.run(["dpkg", "-x", str(packages[0]), str(whole)], check=True)
        for name in ("prometheus", "promtool"):
            tool(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(whole / "usr" / "bin" / name, tool(name))  # within a file system: there as a whole, or not


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Prometheus:
    """Scrapes a page on this machine, with our rules; while it is entered."""

    def __init__(self, target: str, folder: Path, *, every: str = "2s") -> None:
        rules = [str(ROOT / "observability" / kind / "worker-adapters.yaml") for kind in ("rules", "alerts")]
        config = {
            "global": {"scrape_interval": every, "evaluation_interval": "1s", "scrape_timeout": every},
            "rule_files": rules,
            "scrape_configs": [{"job_name": "workers", "static_configs": [{"targets": [target]}]}],
        }
        self._folder = folder
        self._config = folder / "prometheus.yaml"
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for _ in range(PORTS):
            self.url = f"http://127.0.0.1:{_free_port()}"
            self._process = self._started()
            if self.wait_for(lambda: self._process.poll() is not None or self._get("/-/ready")) is not True:
                return self
        raise AssertionError(f"it does not start: {self._said()}")

    def _started(self) -> subprocess.Popen[bytes]:
        words = [
            str(tool("prometheus")),
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self.url.partition('//')[2]}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]
        with (self._folder / "log").open("wb") as log:
            return subprocess.Popen(words, stdout=log, stderr=log)

    def __exit__(self, *_exc: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(PATIENCE)

    def wait_for(self, found: Any, seconds: float = PATIENCE) -> Any:
        """What it comes to, once that is something."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError):
                if result := found():
                    return result
            time.sleep(0.1)  # a program that tells nobody
        raise AssertionError(f"it never came: {self._said()}")

    def _said(self) -> str:
        return (self._folder / "log").read_text(encoding="utf-8")[-2000:]

    def _get(self, path: str, **asked: Any) -> bytes:
        query = f"?{urllib.parse.urlencode(asked)}" if asked else ""
        with urllib.request.urlopen(f"{self.url}{path}{query}", timeout=10) as reply:
            return bytes(reply.read())

    def _data(self, path: str, **asked: Any) -> Any:
        told = json.loads(self._get(f"/api/v1/{path}", **asked))
        assert told["status"] == "success", told
        return told["data"]

    def query(self, expr: str) -> list[Any]:
        """Series of now."""
        return list(self._data("query", query=expr)["result"])

    def over(self, expr: str, begin: float, end: float, step: float) -> list[Any]:
        """Series over that time."""
        return list(self._data("query_range", query=expr, start=begin, end=end, step=step)["result"])

    def rules(self) -> list[Any]:
        """All rules, with their health."""
        return [rule for group in self._data("rules")["groups"] for rule in group["rules"]]

    def exemplars(self, expr: str) -> list[Any]:
        """Of the last minutes."""
        now = time.time()
        return list(self._data("query_exemplars", query=expr, start=now - 300, end=now))


if __name__ == "__main__":
    fetch()
    sys.stdout.write(f"{tool('prometheus')}\n")
