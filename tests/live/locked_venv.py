"""A virtual environment in the cache with an engine from PyPI: one wheel by its digest, what it needs by version.

python tests/live/locked_venv.py NAME           print the path of its Python, installing it first if need be
python tests/live/locked_venv.py NAME --check   exit 0 if the cache holds it, 1 if not; installs nothing

NAME is mlx, dynamo or transformers.
"""

from __future__ import annotations

import dataclasses
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
from vllm_install import TORCH_INDEX

__all__ = ["DYNAMO", "MLX", "TRANSFORMERS", "InstallError", "Locked"]


class InstallError(Exception):
    """It cannot be installed here; the message is one sentence for the person at the terminal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Locked:
    """`wheel` is pinned by `sha256`, what is in `lock` by version; `imports` is what must import then.

    `index`: one more for the lock, asked only after the configured ones: where it can't be reached, pip tries for minutes.
    """

    name: str
    wheel: str
    sha256: str
    lock: Path
    imports: str
    size: str
    index: str = ""

    @property
    def parts(self) -> dict[str, str]:
        return {
            "lock": hashlib.sha256(self.lock.read_bytes()).hexdigest(),
            "wheel": self.wheel,
            "sha256": self.sha256,
            "python": platform.python_version(),
            "platform": sysconfig.get_platform(),
        }

    def python(self) -> Path:
        """The interpreter that has it; blocks for a minute or two where it has to be installed. Raises InstallError."""
        return self._python(cache.ensure(self.name, self.parts, self._make))

    def cached_python(self) -> Path | None:
        """The interpreter that has it, or None. Installs nothing."""
        entry = cache.find(self.name, self.parts)
        return self._python(entry) if entry else None

    @staticmethod
    def _python(entry: Path) -> Path:
        return entry / "venv" / "bin" / "python"

    def _make(self, work: Path, out: Path) -> None:
        began = time.monotonic()
        if platform.machine() != "x86_64" or sys.platform != "linux":
            raise InstallError(
                f"its pinned wheels are for Linux on x86-64, this is {sys.platform} on {platform.machine()}"
            )
        cache.say(f"installing {self.wheel} ({self.size})")
        self._run([sys.executable, "-m", "venv", str(out / "venv")], work)
        pip = [str(self._python(out)), "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps"]
        pinned = work / "wheel.txt"
        pinned.write_text(f"{self.wheel} --hash=sha256:{self.sha256}\n", encoding="ascii")
        self._run([*pip, "--require-hashes", "-r", str(pinned)], work)
        locked = [*pip, "--only-binary", ":all:", "-r", str(self.lock)]
        try:
            self._run(locked, work)
        except InstallError:
            if not self.index:
                raise
            self._run([*locked, "--extra-index-url", self.index], work)
        self._run([str(self._python(out)), "-c", f"import {self.imports}"], work)
        cache.say(f"installed {self.wheel} in {time.monotonic() - began:.0f} s")

    def _run(self, command: list[str], work: Path) -> None:
        unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
        environment = {name: value for name, value in os.environ.items() if name not in unwanted}
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=work, env=environment
        )
        if done.returncode != 0:
            if "DO NOT MATCH THE HASHES" in done.stdout:
                raise InstallError(f"the package index offers another {self.wheel} than the one with {self.sha256}")
            reasons = re.findall(r"^ERROR: (.*)", done.stdout, re.MULTILINE)
            raise InstallError(f"pip could not install it: {reasons[-1] if reasons else done.stdout[-300:]}")


HERE = Path(__file__).parent
MLX = Locked(
    name="mlx",
    wheel="mlx-lm==0.32.2",
    sha256="5c0991248cfff5872503d74f466d2532dd8cb7fb3670cb9be7a06d7305dadc04",
    lock=HERE / "mlx-lock.txt",
    imports="mlx_lm.server",
    size="360 MB",
)
DYNAMO = Locked(
    name="dynamo",
    wheel="ai-dynamo-runtime==1.6.1",
    sha256="3683cafe88ededdff29c9ae6f651367eac33153487ff84e205082483cd6b3095",
    lock=HERE / "dynamo-lock.txt",
    imports="dynamo.frontend, dynamo.mocker",
    size="730 MB",
)
TRANSFORMERS = Locked(
    name="transformers",
    wheel="transformers==5.24.0",
    sha256="ff5ebedf9359f94bb63772b6380eba6e7104d010cbbb2cb82c788817ea7486f6",
    lock=HERE / "transformers-lock.txt",
    imports="torch, transformers.cli.serving.server, uvicorn",
    size="1.2 GB",
    index=TORCH_INDEX,
)


def main(argv: list[str]) -> int:
    """Command line: see the module's docstring."""
    which = {"mlx": MLX, "dynamo": DYNAMO, "transformers": TRANSFORMERS}[argv[0]]
    return cache.command_line(
        argv[1:],
        f"Install {which.wheel} into the cache",
        name=which.name,
        found=which.cached_python,
        made=which.python,
        fails=InstallError,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
