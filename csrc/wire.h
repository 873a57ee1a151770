/* From a socket to the records of an event stream in one call: poll(2), recv(2), body_feed, sse_feed.
 *
 * Why in one: the caller is Python, where each foreign call gives up the interpreter lock and has to win it back. Among
 * many streams that costs more than all the work (a paced token: 30 microseconds with three calls, 20 with one), and what happens in
 * here happens while other threads run. A read that completes no event does not come back at all, unless they are many.
 *
 * The caller owns the memory, the descriptors and the time. Nothing blocks but poll, which a second descriptor ends: who wants
 * the waiting thread makes that one readable, and does nothing to the socket. One wire belongs to one stream and one thread at a
 * time; a buffer is the caller's again once the call returns.
 */
#ifndef WORKER_ADAPTERS_WIRE_H
#define WORKER_ADAPTERS_WIRE_H

#include "body.h"
#include "sse.h"

/* [cdef begin] */
#define WIRE_READ 65536 /* one read takes what a burst has left in the kernel, and no more than fits a processor's cache */
#define WIRE_MOST_READS 64 /* without an event, until the caller is asked: a flood of comments keeps nobody waiting */
#define WIRE_MOST_NS 20000000

#define WIRE_CLOSED -16 /* the peer has closed the connection: content may be missing */
#define WIRE_FAILED -17 /* recv or poll failed; error is its errno */
#define WIRE_SIGNAL -18 /* interrupted by a signal: call again */
#define WIRE_OVER -19 /* the body has ended or is broken: see body.status. Also after what came before has been taken */
#define WIRE_BLOCKED -20 /* nothing is there, and the call was not to wait */
#define WIRE_TIME -21 /* nothing came in time */
#define WIRE_WOKEN -22 /* the other descriptor is readable */
#define WIRE_MORE -23 /* many reads and no event: call again */

typedef struct wire {
    body_decoder body;
    int error;
    int drained; /* the last read took all there was, and the body goes on: the next one is waited for first */
    int64_t ask_at; /* the caller's: when to ask again how long a wait may take */
    uint64_t content; /* bytes of content so far */
    size_t size; /* of them in the buffer, which the offsets of the last records are into */
} wire;

/* Nanoseconds of the clock that waits are measured with. */
int64_t wire_now(void);

/* As body_init. */
void wire_init(wire *w, int framing, uint64_t length);

/* Reads into buffer, at most that many bytes at once, from a socket, whatever its mode. wake: the descriptor that ends waiting, or negative: do
 * not wait. milliseconds: to wait at most, in all of the call; negative: for ever. Returns what sse_feed returned, if that is
 * not 0, or one of the above. After SSE_GROW and SSE_AGAIN it is sse_feed's turn again, with buffer and size. */
int wire_read(wire *w, uint8_t *buffer, size_t most, int descriptor, int wake, int milliseconds, sse_decoder *d);
/* [cdef end] */

#endif
