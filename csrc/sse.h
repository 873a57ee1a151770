/* Server-sent events (text/event-stream), bytes to records and back.
 *
 * The caller owns all memory: one fixed sse_decoder, the chunk of the current call, and one carry-over buffer that
 * starts empty and grows when asked for. There is nothing to free, no global state and no allocation in here. One
 * decoder belongs to one stream and one thread at a time; different decoders are independent.
 *
 *     sse_init(&d, limit);
 *     for each read:
 *         do {
 *             r = sse_feed(&d, chunk, len);
 *             take d.spans and d.pieces (also when r < 0)
 *             if (r >= 0 && r & SSE_GROW) sse_attach(&d, bigger, at least d.need bytes);
 *         } while (r >= 0 && r & (SSE_AGAIN | SSE_GROW));
 *     sse_finish(&d), in the same loop, once: the undispatched tail
 *
 * Blocks that begin and end in one read are described in place; only what a read leaves unfinished is copied to the
 * carry-over buffer, normalised (data joined, comments dropped), so its use never exceeds the limit of one event.
 *
 * What counts for that limit, per block: the values of all data fields and one LF between each two of them; the value
 * of every event and id field, also of one that is replaced or ignored; name and value of every unknown field kept.
 * Field names that are known, retry, comments and surplus unknown fields count nothing. The outcome, errors included,
 * depends on the bytes alone and not on how they are cut into reads.
 */
#ifndef WORKER_ADAPTERS_SSE_H
#define WORKER_ADAPTERS_SSE_H

#include <stddef.h>
#include <stdint.h>

/* [cdef begin] */
#define SSE_SPANS 128 /* plain frames one call can hand over */
#define SSE_PIECES 256 /* pieces of other frames one call can hand over */
#define SSE_UNKNOWN 64 /* unknown fields kept per block: the first ones; later ones are ignored, as the standard says */
#define SSE_MAX_LIMIT 1073741824
#define SSE_MAX_READ 1073741824

/* What sse_feed and sse_finish return if not negative: SSE_N_SPANS bits, SSE_N_PIECES bits, and these flags. */
#define SSE_N_SPANS_MASK 0xffff
#define SSE_N_PIECES_SHIFT 16
#define SSE_N_PIECES_MASK 0xfff
#define SSE_AGAIN 0x10000000 /* the record arrays are full: take them and call again with the same chunk */
#define SSE_FIRST_CARRIED 0x40000000 /* as first_carried below */
#define SSE_GROW 0x20000000 /* take the records, sse_attach at least `need` bytes, call again with the same chunk */

/* Errors. Sticky ones are returned by every later call; the records of the call that met the error first are valid (what
 * was complete before it), those of later calls are empty. comments, retry and has_retry keep their last value. */
#define SSE_E_TOO_LARGE -1 /* sticky: the block crossed the limit */
#define SSE_E_CLOSED -2 /* sticky: after sse_finish */
#define SSE_E_MISUSE -3 /* sticky: another chunk was passed where the same one was due, or a limit out of range */
#define SSE_E_READ_TOO_LONG -4 /* not sticky, nothing consumed: pass at most SSE_MAX_READ bytes per call */
#define SSE_E_ROOM -5 /* sse_encode: out is too small */

/* Kinds of pieces: {kind, begin, end}. Offsets are into the chunk, or into the carry-over buffer if SSE_CARRIED is set;
 * both hold until the next call. SSE_RETRY holds the value itself, its low and its high 32 bits. Several SSE_DATA of
 * one frame are to be joined with LF; of several SSE_EVENT or SSE_ID the last one holds. SSE_END closes a block: begin is
 * the number of spans that came before it, end the sum of the SSE_HAS_DATA and SSE_TAIL that apply. Blocks that the
 * standard does not dispatch come without SSE_HAS_DATA if they set an id or hold unknown fields, else not at all. */
#define SSE_DATA 1
#define SSE_EVENT 2
#define SSE_ID 3
#define SSE_RETRY 4
#define SSE_NAME 5
#define SSE_VALUE 6
#define SSE_END 7
#define SSE_CARRIED 8
#define SSE_HAS_DATA 1
#define SSE_TAIL 2

typedef struct sse_unknown {
    uint32_t at, name, size; /* distance from the start of the block's meta part, length of the name, of name and value */
} sse_unknown;

typedef struct sse_decoder {
    /* Records of the last call: how many. If first_carried, the first span is offsets into the carry-over buffer: the plain
     * frame that the read before left unfinished. */
    uint32_t n_spans, n_pieces, first_carried;

    /* Facts about the stream, readable at any time. */
    uint64_t comments; /* comment lines begun */
    uint64_t retry; /* milliseconds, UINT64_MAX if more; meaningful if has_retry */
    uint32_t has_retry;
    uint32_t need; /* after SSE_GROW: the size of buffer to attach, never more than limit + SSE_MARGIN */

    /* Private from here on. */
    size_t limit;
    size_t pos, len, lf, cr; /* inside a chunk that is not finished: where to go on, its length, its next LF and CR */
    int error;
    uint8_t bom; /* bytes of a leading BOM seen; SSE_BOM_DONE after the first byte that is none */
    uint8_t skip_lf; /* the last read ended in CR */
    uint8_t in_block; /* the block lives in the carry-over buffer */

    /* The current block, when it is carried. room: [base: data, scratch ... meta :meta_base], meta growing downwards. */
    uint8_t *room;
    size_t room_size, base, meta_base, data, scratch, meta;
    size_t size; /* what counts for the limit */
    uint8_t touched, has_data, has_event, has_id, has_block_retry;
    uint32_t event_at, event_size, id_at, id_size;
    uint64_t block_retry;
    uint32_t n_unknown;

    /* The current line, when its block is carried. */
    uint8_t state, kind, name_len, bad;
    uint8_t name[8];
    uint32_t long_name; /* length of the unknown name at the start of scratch */
    uint64_t number;
    uint32_t digits;

    /* The records themselves, public again, and what is not cleared by sse_init: last, so that what a read of one frame
     * touches lies close together, and that a stream of plain frames never touches the rest. A span is {begin, end} in the chunk: the data of a plain frame (one data
     * field and nothing else). */
    uint32_t spans[2 * SSE_SPANS];
    uint32_t pieces[3 * SSE_PIECES];
    sse_unknown unknown[SSE_UNKNOWN];
} sse_decoder;

#define SSE_MARGIN 16
#define SSE_FRAMING 49 /* "event: LF id: LF retry: LF data: LF LF" and 20 digits */

/* limit: bytes of one event, 1 to SSE_MAX_LIMIT. Returns 0 or SSE_E_MISUSE. */
int sse_init(sse_decoder *d, size_t limit);

/* Replaces the carry-over buffer. room holds a copy of the old buffer at its start (realloc does that); size is not
 * smaller than before. */
void sse_attach(sse_decoder *d, uint8_t *room, size_t size);

/* Decodes a read. An empty one is fine and changes nothing. */
int sse_feed(sse_decoder *d, const uint8_t *chunk, size_t len);

/* The same for a read that is new: SSE_E_MISUSE if the one before has been left half taken, by an exception for one. */
int sse_begin(sse_decoder *d, const uint8_t *chunk, size_t len);

/* End of input: an unterminated last line counts as a field of the undispatched block, which comes as pieces with
 * SSE_TAIL if it has any field. A retry in that line does not change `retry`: its line never ended. */
int sse_finish(sse_decoder *d);

/* Writes one event. event_len 0: no event line; id NULL: no id line; retry only if has_retry. data is cut into one data
 * line per LF; it must not hold CR, event and id neither CR, LF nor NUL: the caller checks. Returns the bytes written or
 * SSE_E_ROOM; SSE_FRAMING + event_len + id_len + data_len + 6 per LF in data are always enough. */
ptrdiff_t sse_encode(uint8_t *out, size_t out_size, const uint8_t *event, size_t event_len, const uint8_t *data,
                     size_t data_len, const uint8_t *id, size_t id_len, uint64_t retry, int has_retry);

/* Writes one event for each line of `lines`, which ends each of them, the last one too, with LF: head, the number of the
 * event from `first` on, LF, "data: " and the line, LF, LF. The head ends where an id goes on ("event: token LF id: x:"); the
 * caller checks it, and that there is no CR in lines. Returns the bytes written or SSE_E_ROOM; for each line SSE_NUMBERED +
 * head_len and its own bytes are always enough. */
#define SSE_NUMBERED 28 /* 20 digits, LF "data: ", LF */
ptrdiff_t sse_encode_lines(uint8_t *out, size_t out_size, const uint8_t *head, size_t head_len, uint64_t first,
                           const uint8_t *lines, size_t lines_len);
/* [cdef end] */

#endif
