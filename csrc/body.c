#include "body.h"

#include <string.h>

/* Where the next byte belongs. Zero: at the start of a chunk. */
enum { SIZE, SIZE_SPACE, EXTENSION, SIZE_LF, DATA, DATA_END, DATA_LF, TRAILER, TRAILER_LINE, TRAILER_LF, END_LF };

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

/* In the middle of a line whose content does not count: what comes after this byte. */
static void skip(body_decoder *b, uint8_t byte, uint8_t then)
{
    if (byte == '\r')
        b->state = then;
    else if (byte == '\n')
        b->status = BODY_E_LF;
}

/* The second half of a CRLF. */
static void line_feed(body_decoder *b, uint8_t byte, uint8_t then)
{
    b->state = then;
    if (byte != '\n')
        b->status = BODY_E_LF;
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
        if (digit >= 0 && b->left <= (uint64_t)INT64_MAX >> 4) {
            b->left = b->left << 4 | (uint64_t)digit;
            b->digits = 1;
            return;
        }
        if (digit >= 0 || !b->digits) {
            b->status = BODY_E_SIZE;
            return;
        }
        b->state = SIZE_SPACE;
    } /* fall through */
    case SIZE_SPACE: /* "BWS": padded sizes are old, and harmless */
        if (byte == ';')
            b->state = EXTENSION;
        else if (byte == '\r')
            b->state = SIZE_LF;
        else if (byte != ' ' && byte != '\t')
            b->status = byte == '\n' ? BODY_E_LF : BODY_E_SIZE;
        return;
    case EXTENSION:
        skip(b, byte, SIZE_LF);
        return;
    case SIZE_LF:
        line_feed(b, byte, after_size(b));
        return;
    case DATA_END:
        b->state = DATA_LF;
        if (byte != '\r')
            b->status = byte == '\n' ? BODY_E_LF : BODY_E_END;
        return;
    case DATA_LF:
        line_feed(b, byte, SIZE);
        return;
    case TRAILER: /* at the start of a trailer line; an empty one ends the body */
        b->state = TRAILER_LINE;
        skip(b, byte, END_LF);
        return;
    case TRAILER_LINE:
        skip(b, byte, TRAILER_LF);
        return;
    case TRAILER_LF:
        line_feed(b, byte, TRAILER);
        return;
    default: /* END_LF */
        b->status = byte == '\n' ? BODY_DONE : BODY_E_LF;
    }
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
