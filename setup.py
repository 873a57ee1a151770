"""Build script: the part of the packaging that pyproject.toml can't say.

The SSE codec (csrc/) is compiled through cffi in API mode against Python's limited API, so one wheel per platform serves
every Python from 3.11 on. Free-threaded Pythons have no limited API: they get a wheel of their own.
"""

import shutil
import sysconfig

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, PlatformError

NO_COMPILER = (
    "worker-adapters needs a C compiler to build its SSE codec and could not run {compiler!r}: install gcc "
    "(Debian/Ubuntu: apt-get install gcc libc6-dev python3-dev) or point the CC environment variable at a C11 compiler."
)
BROKEN_BUILD = (
    "worker-adapters could not compile its SSE codec with {compiler!r} ({error}): a C11 compiler and the headers of this "
    "Python (Debian/Ubuntu: apt-get install gcc libc6-dev python3-dev) are needed; the compiler's own words stand above."
)


LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")  # csrc/build_native.py decides alike


class BuildCodec(build_ext):
    """Turns a missing or broken compiler into one sentence instead of a traceback.

    What this Python was linked with says where its own libraries are (-rpath): nothing of that goes into a wheel.
    """

    def build_extensions(self) -> None:
        compiler = getattr(self.compiler, "compiler_so", None) or [sysconfig.get_config_var("CC") or "cc"]
        if shutil.which(compiler[0]) is None:
            raise SystemExit(NO_COMPILER.format(compiler=compiler[0]))
        if linker := getattr(self.compiler, "linker_so", None):
            self.compiler.linker_so = [word for word in linker if not word.startswith("-Wl,-rpath")]
        try:
            super().build_extensions()
        except (CCompilerError, CompileError, ExecError, PlatformError) as exc:
            raise SystemExit(BROKEN_BUILD.format(compiler=compiler[0], error=exc)) from exc


setup(
    package_dir={"": "adapters"},
    cffi_modules=["csrc/build_native.py:ffibuilder"],
    cmdclass={"build_ext": BuildCodec},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
