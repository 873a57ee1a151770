#include "body.h"

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
static uint8_t after_size(body_decoder *b)
{
    b->digits = 0;
    b->line = 0;
    return b->left ? DATA : TRAILER;
}

/* The one byte at a time of everything that is not data: a dozen bytes per chunk. */
static void framing(body_decoder *b, uint8_t byte)
{
    if (b->state != DATA_END && b->state != DATA_LF && ++b->line > BODY_MAX_LINE) {
        b->status = BODY_E_LINE;
        return;
    }
    switch (b->state) {
    case SIZE: {
        int digit = hex(byte);
        if (digit >= 0 && b->digits < MAX_DIGITS) {
            b->left = b->left << 4 | (uint64_t)digit;
            b->digits++;
            return;
        }
        if (digit >= 0 || !b->digits)
            break;
        b->state = SIZE_SPACE;
    } /* fall through */
    case SIZE_SPACE: /* "BWS": padded sizes are old, and harmless */
        if (byte == ' ' || byte == '\t')
            return;
        if (byte == ';')
            b->state = EXTENSION;
        else if (byte == '\r')
            b->state = SIZE_LF;
        else if (byte == '\n')
            b->state = after_size(b);
        else
            break;
        return;
    case EXTENSION:
        if (byte == '\n')
            b->state = after_size(b);
        return;
    case SIZE_LF:
        if (byte != '\n')
            break;
        b->state = after_size(b);
        return;
    case DATA_END:
        if (byte == '\r')
            b->state = DATA_LF;
        else if (byte == '\n')
            b->state = SIZE;
        else
            b->status = BODY_E_END;
        return;
    case DATA_LF:
        b->state = SIZE;
        if (byte != '\n')
            b->status = BODY_E_END;
        return;
    case TRAILER: /* at the start of a trailer line; an empty one ends the body */
        if (byte == '\n')
            b->status = BODY_DONE;
        else
            b->state = byte == '\r' ? END_LF : TRAILER_LINE;
        return;
    case END_LF:
        if (byte == '\n')
            b->status = BODY_DONE;
        else
            b->state = TRAILER_LINE;
        return;
    default: /* TRAILER_LINE */
        if (byte == '\n')
            b->state = TRAILER;
        return;
    }
    b->status = BODY_E_SIZE;
}

/* Takes a run of content: up to the end of the chunk, of the sized body, or of the read. */
static size_t take(body_decoder *b, const uint8_t *in, size_t len, uint8_t *out)
{
    size_t n = b->framing != BODY_TO_THE_END && len > b->left ? (size_t)b->left : len;
    if (out != in)
        memmove(out, in, n);
    if (b->framing != BODY_TO_THE_END && !(b->left -= n)) {
        if (b->framing == BODY_CHUNKED)
            b->state = DATA_END;
        else
            b->status = BODY_DONE;
    }
    return n;
}

void body_init(body_decoder *b, int framing, uint64_t length)
{
    memset(b, 0, sizeof *b);
    b->framing = (uint8_t)framing;
    b->left = framing == BODY_SIZED ? length : 0;
    b->state = framing == BODY_CHUNKED ? SIZE : DATA;
    if (framing == BODY_SIZED && !length)
        b->status = BODY_DONE;
}

size_t body_feed(body_decoder *b, const uint8_t *in, size_t len, uint8_t *out)
{
    const uint8_t *p = in, *end = in + len;
    size_t written = 0;
    while (p < end && !b->status) {
        if (b->state != DATA) {
            framing(b, *p++);
            continue;
        }
        size_t n = take(b, p, (size_t)(end - p), out + written);
        p += n;
        written += n;
    }
    if (b->status == BODY_DONE)
        b->rest += (size_t)(end - p);
    return written;
}
