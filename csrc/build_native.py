"""Describes the extension `worker_adapters.codec._native` to cffi; setup.py runs it, nothing imports it at run time."""

import sys
import sysconfig
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
BEGIN, END = "/* [cdef begin] */", "/* [cdef end] */"
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")  # as setup.py has it
HEADERS = ("sse.h", "body.h", "wire.h", "keys.h", "cpython.h")

ffibuilder = FFI()
for header in HEADERS:  # the single source of the declarations: cffi gets the part between the marks as it stands
    ffibuilder.cdef((HERE / header).read_text(encoding="ascii").split(BEGIN)[1].split(END)[0])
ffibuilder.set_source(
    "worker_adapters.codec._native",
    "".join(f'#include "{header}"\n' for header in HEADERS),
    sources=[
        "csrc/sse.c",
        "csrc/body.c",
        "csrc/wire.c",
        "csrc/keys.c",
        "csrc/cpython.c",
        "csrc/semaphores.c",
        "csrc/handover.c",
    ],
    include_dirs=["csrc"],
    depends=[f"csrc/{header}" for header in (*HEADERS, "functions.h")],
    # No -Werror here: a compiler newer than this code must still be able to build it.
    # -g0: a Python that was built with -g says so to whatever is built for it.
    extra_compile_args=["-std=c11", "-O3", "-fvisibility=hidden", "-g0"],
    extra_link_args=["-Wl,--strip-debug"] if sys.platform == "linux" else [],
    py_limited_api=LIMITED,
)
