/* The plain frames of a read as Python's own bytes, made in here.
 *
 * Why beside cffi: a cffi call can take and return numbers and pointers only, and gives up the interpreter lock. Offsets that
 * become Python integers and then slices cost 2.5 times what the bytes cost that are wanted (benchmarks/bench_codec.py), and among many
 * threads every time the lock is given up is a turn to wait for. So the module that cffi builds gets two functions of
 * CPython's C API (PEP 384, the limited one) into the bargain:
 *
 *     take(decoder, chunk) -> list[bytes] | int             sse_feed
 *     pull(wire, decoder, descriptor, otherwise) -> list    wire_read, until something is complete
 *
 * Structs are passed by address; who calls keeps them alive. The list holds the data of the plain frames, if that is all
 * that the read completed. If not, `take` returns what sse_feed did, and `pull` what `otherwise` makes of what wire_read
 * returned; if that is None, it reads on. `pull` gives the interpreter lock up while it reads and decodes, `take` does not.
 */
#ifndef WORKER_ADAPTERS_CPYTHON_H
#define WORKER_ADAPTERS_CPYTHON_H

/* [cdef begin] */
/* Adds the two functions to the module of that name, which is imported already. Returns 0, or -1 if it could not. */
int cpython_install(const char *module);
/* [cdef end] */

#endif
