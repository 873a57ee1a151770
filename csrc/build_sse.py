"""Describes the extension `worker_adapters.codec._sse` to cffi; setup.py runs it, nothing imports it at run time."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
BEGIN, END = "/* [cdef begin] */", "/* [cdef end] */"

# The header is the single source of the declarations: cffi gets the part between the marks as it stands.
declarations = (HERE / "sse.h").read_text(encoding="ascii").split(BEGIN)[1].split(END)[0]

ffibuilder = FFI()
ffibuilder.cdef(declarations)
ffibuilder.set_source(
    "worker_adapters.codec._sse",
    '#include "sse.h"',
    sources=["csrc/sse.c"],
    include_dirs=["csrc"],
    depends=["csrc/sse.h"],
    # No -Werror here: a compiler newer than this code must still be able to build it.
    extra_compile_args=["-std=c11", "-O3", "-fvisibility=hidden"],
    py_limited_api=True,
)
