/* The plain frames of a read as Python's own bytes, made in here.
 *
 * Why beside cffi: a cffi call can take and return numbers and pointers only, and gives up the interpreter lock. Slices
 * at offsets, even at known ones, cost more than all of `payloads` (`slices` in benchmarks/bench_codec.py), and among many
 * threads every time the lock is given up is a turn to wait for. So the module that cffi builds gets some functions of
 * CPython's C API (PEP 384, the limited one) into the bargain:
 *
 *     begin_events(decoder, limit)                            sse_init
 *     take(decoder, chunk, frames) -> status                  sse_begin, sse_feed
 *     pull(wire, decoder, descriptor, wake, timers, otherwise, buffer) -> frames    wire_read, until a frame is complete
 *     puller(the same) -> pull                                what calls pull with those, without a partial's copy of them
 *     read_at_most(bytes)                                     of a pull without a wake descriptor, from now on; WIRE_READ at first
 *     begin_body(wire, framing, length)                       wire_init
 *     content(wire, raw) -> bytes                             body_feed: what is left of a read without its framing
 *     receive(descriptor, most) -> bytes or None              recv(2), of WIRE_READ bytes at most; None: it would block
 *     transmit(descriptor, data) -> bytes sent                send(2); 0: it would block
 *     is_silent(descriptor) -> bool                           whether recv(2) would block
 *     semaphore(), acquire(semaphore, seconds), release(semaphore), release_and_poll(epoll, seconds, semaphores) -> descriptors
 *                                                             see semaphores.c
 *     Handover()                                              see handover.c
 *
 * Structs are passed by address; who calls keeps them alive. To the list `frames` is appended the data of the plain frames, up to
 * the first record that is something else. `take` returns 0 if there was none, else what sse_feed did when it came to one;
 * the plain frames that came in the same records are not in the list. `pull` hands such a status, or wire_read's own, to
 * otherwise(status, content, frames) together with what was read and the list: it reads on if that answers None, and returns
 * what it answers else. With a wake descriptor it asks timers.patience(waited) for how many seconds more it may wait, which may
 * raise: `waited` are those since it was called. The answer holds until it has run out, from one call to the next, unless
 * timers.retimed; `otherwise` is called with timers that were asked. It gives the interpreter lock up while it waits, reads and
 * decodes. What never waits keeps the lock: `pull` without a wake descriptor, and all the others, but for a `transmit` of more than
 * 64 KiB. Sockets may be in any mode; what they fail with is raised as OSError.
 */
#ifndef WORKER_ADAPTERS_CPYTHON_H
#define WORKER_ADAPTERS_CPYTHON_H

/* [cdef begin] */
/* Adds the functions to the module of that name, which is imported already. Returns 0, or -1 if it could not. */
int cpython_install(const char *module);
/* [cdef end] */

#endif
