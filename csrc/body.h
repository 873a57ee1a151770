/* The body of an HTTP/1.1 response (RFC 9112, 6.3 and 7.1): where it ends, and what is left of it without its framing.
 *
 * The caller owns all memory, as in sse.h: there is nothing to free, no global state and no allocation in here.
 *
 *     body_init(&b, framing, length);
 *     for each read:
 *         n = body_feed(&b, in, len, out);     n bytes of content are in out, which may be in itself
 *         b.status: 0 go on reading; BODY_DONE the body has ended (b.rest: bytes that came behind it);
 *                   negative: what is wrong. Both are final. What came before is in out all the same.
 *
 * Strict where leniency lets two readers disagree about where a chunk ends: a size is hex digits and nothing else, the data is
 * followed by a line end, and that is CRLF, here as in extensions and trailers (the lone LF of 2.2 is for heads, and a lone CR
 * ends a line for some). Lenient where nothing hangs on it: what extensions and trailers say is ignored (7.1.1, 7.1.2). The outcome
 * depends on the bytes alone and not on how they are cut into reads.
 */
#ifndef WORKER_ADAPTERS_BODY_H
#define WORKER_ADAPTERS_BODY_H

#include <stddef.h>
#include <stdint.h>

/* [cdef begin] */
#define BODY_TO_THE_END 0 /* of the connection */
#define BODY_SIZED 1 /* by Content-Length */
#define BODY_CHUNKED 2

#define BODY_MAX_LINE 65536 /* bytes of one line of framing, and of all trailers: http.client's own bound */

#define BODY_DONE 1
#define BODY_E_SIZE -1 /* a chunk's size is no number, or not below 2^63 */
#define BODY_E_END -2 /* a chunk's data is longer than its size says */
#define BODY_E_LINE -3 /* a line or the trailers are longer than BODY_MAX_LINE */
#define BODY_E_LF -4 /* a line of framing does not end in CR LF */

typedef struct body_decoder {
    int status;
    size_t rest; /* bytes that have come behind the body */

    /* Private from here on. */
    uint64_t left; /* bytes of the current chunk, or of the sized body, still to come; a chunk's size while it is read */
    uint32_t line; /* bytes of the current line, or of all trailers */
    uint8_t framing, state, digits;
} body_decoder;

/* length: of a BODY_SIZED one. */
void body_init(body_decoder *b, int framing, uint64_t length);

/* Returns the bytes written to out, never more than len. out is in, or holds len bytes and does not overlap it. After the
 * end or an error: 0. */
size_t body_feed(body_decoder *b, const uint8_t *in, size_t len, uint8_t *out);
/* [cdef end] */

#endif
