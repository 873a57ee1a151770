"""Install a real tritonserver once, from pinned wheels of PyPI, into the cache.

    python tests/live/triton_install.py           print the path of its program, installing it first if need be (seconds)
    python tests/live/triton_install.py --check   exit 0 if the cache holds it, 1 if not; installs nothing

The wheel of `nvidia-pytriton` holds Triton's own program, its libraries and the Python backend; none of its Python code is
used. The backend embeds the libpython3.11 of the system, which does not look at PYTHONPATH: numpy goes into the backend's
folder, which it does search.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cache

__all__ = ["SHA256", "VERSION", "InstallError", "cached_server", "server"]

VERSION = "0.7.0"
SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
NUMPY = "1.26.4"
NUMPY_SHA256 = "666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5"  # cp311, manylinux, x86-64
LIBPYTHON = "libpython3.11.so.1.0"
NAME = "tritonserver"


class InstallError(Exception):
    """Triton cannot be installed here; the message is one sentence for the person at the terminal."""


def server() -> Path:
    """Return the program in the cache, installing it if missing. Blocks for some seconds then."""
    _require_libpython()
    return _program(cache.ensure(NAME, _parts(), _make))


def cached_server() -> Path | None:
    """Return the program in the cache, or None. Installs nothing."""
    entry = cache.find(NAME, _parts())
    return _program(entry) if entry else None


def _program(entry: Path) -> Path:
    return _tree(entry) / "bin" / "tritonserver"


def _tree(entry: Path) -> Path:
    return entry / "site" / "pytriton" / "tritonserver"


def _parts() -> dict[str, str]:
    return {"sha256": SHA256, "numpy": NUMPY_SHA256, "libpython": LIBPYTHON}


def _require_libpython() -> None:
    try:
        ctypes.CDLL(LIBPYTHON)
    except OSError as error:
        raise InstallError(
            f"its Python backend links {LIBPYTHON}, which this machine lacks (Debian/Ubuntu: apt-get install libpython3.11)"
        ) from error


def _make(work: Path, out: Path) -> None:
    began = time.monotonic()
    if sys.version_info[:2] != (3, 11) or platform.machine() != "x86_64":
        raise InstallError(
            f"its pinned wheels are for Python 3.11 on x86-64, this is {platform.python_version()} on {platform.machine()}"
        )
    cache.say("installing Triton 2.51.0 (190 MB)")
    # The whole wheel: the libraries of the program are in nvidia_pytriton.libs, found by where it lies.
    _pip(work, out / "site", f"nvidia-pytriton=={VERSION} --hash=sha256:{SHA256}")
    backend = _tree(out) / "backends" / "python"
    _pip(work, backend, f"numpy=={NUMPY} --hash=sha256:{NUMPY_SHA256}")
    shutil.copy(_tree(out) / "python_backend_stubs" / "3.11" / "triton_python_backend_stub", backend)
    _smoke(_program(out))
    cache.say(f"installed Triton in {time.monotonic() - began:.0f} s")


def _pip(work: Path, target: Path, requirement: str) -> None:
    (work / "wheel.txt").write_text(f"{requirement}\n", encoding="ascii")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "-q",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    command = [*pip, "--require-hashes", "--target", str(target), "-r", str(work / "wheel.txt")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=work, env=environment
    )
    if done.returncode != 0:
        raise InstallError(_failure(requirement.split(maxsplit=1)[0], done.stdout))


def _failure(what: str, output: str) -> str:
    if "DO NOT MATCH THE HASHES" in output:
        return f"the package index offers a {what} of another SHA-256 than the pinned one: refusing to run it"
    reasons = re.findall(r"^ERROR: (.*)", output, re.MULTILINE)
    why = reasons[-1] if reasons else output[-300:]
    return f"pip could not install {what} (no network, or an index without it?): {why}"


def _smoke(program: Path) -> None:
    """It prints its usage, and exits with 1 of that."""
    done = subprocess.run([str(program), "--help"], check=False, capture_output=True, text=True)
    if "Usage: tritonserver" not in done.stdout + done.stderr:
        raise InstallError(f"the new tritonserver does not start: {done.stderr[-300:]}")


def main(argv: list[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    return cache.command_line(
        argv, "Install Triton into the cache", name="Triton", found=cached_server, made=server, fails=InstallError
    )


if __name__ == "__main__":
    sys.exit(main())
