#include "chunked.h"

#include <string.h>

/* Where the next byte belongs. Zero: at the start of a chunk. */
enum { SIZE, SIZE_SPACE, EXTENSION, SIZE_LF, DATA, DATA_END, DATA_LF, TRAILER, TRAILER_LINE, END_LF };
enum { MAX_DIGITS = 15 }; /* 2^60: no body is as long, and nothing overflows */

static int hex(uint8_t byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* After the line with the size: the last chunk has none of its own data but may have trailers. */
static uint8_t after_size(chunked_decoder *d)
{
    uint8_t next = d->left ? DATA : TRAILER;
    d->digits = 0;
    d->line = 0;
    return next;
}

/* The one byte at a time of everything that is not data: a dozen bytes per chunk. */
static void framing(chunked_decoder *d, uint8_t byte)
{
    if (d->state != DATA_END && d->state != DATA_LF && ++d->line > CHUNKED_MAX_LINE) {
        d->status = CHUNKED_E_LINE;
        return;
    }
    switch (d->state) {
    case SIZE: {
        int digit = hex(byte);
        if (digit >= 0 && d->digits < MAX_DIGITS) {
            d->left = d->left << 4 | (uint64_t)digit;
            d->digits++;
            return;
        }
        if (digit >= 0 || !d->digits)
            break;
        d->state = SIZE_SPACE;
    } /* fall through */
    case SIZE_SPACE: /* "BWS": padded sizes are old, and harmless */
        if (byte == ' ' || byte == '\t')
            return;
        if (byte == ';')
            d->state = EXTENSION;
        else if (byte == '\r')
            d->state = SIZE_LF;
        else if (byte == '\n')
            d->state = after_size(d);
        else
            break;
        return;
    case EXTENSION:
        if (byte == '\n')
            d->state = after_size(d);
        return;
    case SIZE_LF:
        if (byte != '\n')
            break;
        d->state = after_size(d);
        return;
    case DATA_END:
        if (byte == '\r')
            d->state = DATA_LF;
        else if (byte == '\n')
            d->state = SIZE;
        else
            d->status = CHUNKED_E_END;
        return;
    case DATA_LF:
        d->state = SIZE;
        if (byte != '\n')
            d->status = CHUNKED_E_END;
        return;
    case TRAILER: /* at the start of a trailer line; an empty one ends the body */
        if (byte == '\n')
            d->status = CHUNKED_DONE;
        else
            d->state = byte == '\r' ? END_LF : TRAILER_LINE;
        return;
    case END_LF:
        if (byte == '\n')
            d->status = CHUNKED_DONE;
        else
            d->state = TRAILER_LINE;
        return;
    default: /* TRAILER_LINE */
        if (byte == '\n')
            d->state = TRAILER;
        return;
    }
    d->status = CHUNKED_E_SIZE;
}

void chunked_init(chunked_decoder *d)
{
    memset(d, 0, sizeof *d);
}

size_t chunked_feed(chunked_decoder *d, const uint8_t *in, size_t len, uint8_t *out)
{
    const uint8_t *p = in, *end = in + len;
    uint8_t *w = out;
    while (p < end && !d->status) {
        if (d->state != DATA) {
            framing(d, *p++);
            continue;
        }
        size_t n = (size_t)(end - p);
        if (n > d->left)
            n = (size_t)d->left;
        memcpy(w, p, n);
        w += n;
        p += n;
        d->left -= n;
        if (!d->left)
            d->state = DATA_END;
    }
    if (d->status == CHUNKED_DONE)
        d->rest = (size_t)(end - p);
    return (size_t)(w - out);
}
