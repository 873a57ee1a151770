"""The tests of the core on a Python of Debian's newest suite, whatever this machine's own has: `make pythons-debian`.

python -m tests.packaging.debian [3.14] [TESTS…]     # as root, on Debian or Ubuntu

Its packages are unpacked into a folder below ~/.cache and entered by chroot, because they ask for a newer C library than the
one that is here; nothing of the machine is changed. The wheel that is tested is the one that this interpreter builds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import dist, pythons

SUITE = "sid"
PACKAGES = ("python{0}", "python{0}-venv", "bash", "coreutils", "procps", "ca-certificates")
SOURCES = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian {} main\n"
OURS = """
Dir::Etc::sourcelist "{0}/sources.list";
Dir::Etc::sourceparts "/nonexistent";
Dir::State "{0}/state";
Dir::State::status "{0}/state/status";
Dir::Cache "{0}/cache";
APT::Install-Recommends "false";
"""
INSIDE = """
set -e
export PATH=/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1
cd /src
rm -rf /venv
python{version} -m venv /venv
/venv/bin/python -m pip install --quiet /dist/*.whl
/venv/bin/python -W error tests/packaging/installed.py
/venv/bin/python -m pip install --quiet --only-binary :all: --requirement /requirements.txt
exec /venv/bin/python -m pytest -q -n 2 -p no:cacheprovider -m "not live and not matrix" --timeout 120 {tests}
"""


def apt(folder: Path, *words: str) -> None:
    """apt-get with a state of its own: what the machine has installed counts for nothing, and nothing is installed."""
    subprocess.run(["apt-get", "-qq", *words], env={**os.environ, "APT_CONFIG": str(folder / "apt.conf")}, check=True)


def unpacked(version: str) -> Path:
    """The root of a system that has that Python, fetched once."""
    cache = Path(os.environ.get("WORKER_ADAPTERS_CACHE", Path.home() / ".cache" / "worker-adapters"))
    folder = cache / f"debian-{SUITE}-{version}"
    if (folder / "done").exists():
        return folder / "root"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("state/lists/partial", "cache/archives/partial", "root/etc/ssl/certs"):
        (folder / name).mkdir(parents=True)
    (folder / "state" / "status").touch()
    (folder / "sources.list").write_text(SOURCES.format(SUITE), encoding="utf-8")
    (folder / "apt.conf").write_text(OURS.format(folder), encoding="utf-8")
    apt(folder, "update")
    apt(folder, "install", "--yes", "--download-only", *(name.format(version) for name in PACKAGES))
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / "root" / "usr" / name).mkdir(parents=True)
        (folder / "root" / name).symlink_to(f"usr/{name}")
    for package in sorted((folder / "cache" / "archives").glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as read:
            tar = ["tar", "-x", "-C", folder / "root", "--keep-directory-symlink"]
            subprocess.run(tar, stdin=read.stdout, check=True)
    shutil.rmtree(folder / "cache")
    (folder / "done").touch()
    return folder / "root"


def furnished(root: Path) -> None:
    """What a process in there needs of the machine, and what is tested: the sdist's tree, and the wheel from it."""
    for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/passwd", "/etc/group", "/etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(name, root / name[1:])
    for name in ("proc", "dev", "tmp", "dist"):
        (root / name).mkdir(exist_ok=True)
    shutil.rmtree(root / "dist")
    (root / "dist").mkdir()
    with tempfile.TemporaryDirectory() as made:
        sdist, wheel = dist.build(Path(made))
        shutil.copy(wheel, root / "dist")
        shutil.rmtree(root / "src", ignore_errors=True)
        with tarfile.open(sdist) as archive:
            archive.extractall(made, filter="data")
        (tree,) = (path for path in Path(made).iterdir() if path.is_dir())
        shutil.rmtree(tree / "adapters")  # the wheel is what is tested
        shutil.move(tree, root / "src")


@contextlib.contextmanager
def mounted(root: Path) -> Iterator[None]:
    """/proc and /dev, for as long as somebody is in there."""
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    try:
        subprocess.run(["mount", "--bind", "/dev", root / "dev"], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", root / "dev"], check=True)
    finally:
        subprocess.run(["umount", root / "proc"], check=True)


def main(version: str = "3.14", *tests: str) -> int:
    """The exit status of pytest."""
    if os.geteuid() != 0 or shutil.which("dpkg-deb") is None:
        sys.stderr.write("this needs root, and apt-get and dpkg-deb of Debian or Ubuntu\n")
        return 2
    root = unpacked(version)
    furnished(root)
    (root / "requirements.txt").write_text("\n".join(pythons.requirements()), encoding="utf-8")
    inside = INSIDE.format(
        version=version,
        tests=" ".join(tests or (f"tests/{name}" for name in pythons.CORE)),
    )
    with mounted(root):
        return subprocess.run(["/usr/sbin/chroot", root, "/bin/bash", "-c", inside], env={}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
