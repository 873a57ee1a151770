/* HTTP/1.1 chunked transfer coding (RFC 9112, 7.1), bytes to body.
 *
 * The caller owns all memory, as in sse.h: there is nothing to free, no global state and no allocation in here.
 *
 *     chunked_init(&d);
 *     for each read:
 *         n = chunked_feed(&d, in, len, out);     n bytes of the body are in out, which has room for len
 *         d.status: 0 go on reading; CHUNKED_DONE the body has ended and d.rest bytes of the read follow it;
 *                   negative: what is wrong. Both are final. What came before is in out all the same.
 *
 * Strict where leniency lets two readers disagree about where a chunk ends (a size is hex digits and nothing else, the
 * data is followed by a line end); lenient where the RFC says so (a lone LF ends a line, 2.2; extensions and trailers
 * are ignored, 7.1.1 and 7.1.2). The outcome depends on the bytes alone and not on how they are cut into reads.
 */
#ifndef WORKER_ADAPTERS_CHUNKED_H
#define WORKER_ADAPTERS_CHUNKED_H

#include <stddef.h>
#include <stdint.h>

/* [cdef begin] */
#define CHUNKED_MAX_LINE 65536 /* bytes of one line with its extensions, and of all trailers: http.client's own bound */

#define CHUNKED_DONE 1
#define CHUNKED_E_SIZE -1 /* a chunk's size is no number, or has more than 15 digits */
#define CHUNKED_E_END -2 /* a chunk's data is longer than its size says */
#define CHUNKED_E_LINE -3 /* a line or the trailers are longer than CHUNKED_MAX_LINE */

typedef struct chunked_decoder {
    int status;
    size_t rest; /* with CHUNKED_DONE: bytes of the last read behind the body */

    /* Private from here on. */
    uint64_t left; /* bytes of the current chunk still to come; its size while that is being read */
    uint32_t line; /* bytes of the current line, or of all trailers */
    uint8_t state, digits;
} chunked_decoder;

void chunked_init(chunked_decoder *d);

/* Returns the bytes written to out, which holds at least len and does not overlap in. After the end or an error: 0. */
size_t chunked_feed(chunked_decoder *d, const uint8_t *in, size_t len, uint8_t *out);
/* [cdef end] */

#endif
