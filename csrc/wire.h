/* From a socket to the records of an event stream in one call: recv(2), body_feed, sse_feed.
 *
 * Why in one: the caller is Python, where each foreign call gives up the interpreter lock and has to win it back. Among
 * many streams that costs more than all the work (a paced token: 30 microseconds with three calls, 20 with one), and what happens in
 * here happens while other threads run. A read that completes no event does not come back at all.
 *
 * The caller owns the memory, the descriptor and the time: a call blocks as long as the socket does, and shutdown(2) from
 * another thread ends it. One wire belongs to one stream and one thread at a time.
 */
#ifndef WORKER_ADAPTERS_WIRE_H
#define WORKER_ADAPTERS_WIRE_H

#include "body.h"
#include "sse.h"

/* [cdef begin] */
#define WIRE_READ 65536 /* one read takes what a burst has left in the kernel, and no more than fits a processor's cache */

#define WIRE_CLOSED -16 /* the peer has closed the connection, or a shutdown of ours has: content may be missing */
#define WIRE_FAILED -17 /* recv failed; error is its errno */
#define WIRE_SIGNAL -18 /* recv was interrupted by a signal: call again */
#define WIRE_OVER -19 /* the body has ended or is broken: see body.status. Also after what came before has been taken */

typedef struct wire {
    body_decoder body;
    int error;
    uint64_t content; /* bytes of content so far */
    size_t size; /* of them in buffer, which the offsets of the last records are into */
    uint8_t buffer[WIRE_READ];
} wire;

/* As body_init; leaves the buffer as it is, untouched memory perhaps. */
void wire_init(wire *w, int framing, uint64_t length);

/* Returns what sse_feed returned, if that is not 0, or one of the above. After SSE_GROW and SSE_AGAIN it is sse_feed's turn
 * again, with buffer and size. */
int wire_read(wire *w, int descriptor, sse_decoder *d);
/* [cdef end] */

#endif
