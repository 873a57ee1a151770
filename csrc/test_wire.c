/* Bodies and wires under sanitizers: every short sequence of framing tokens, and wire_read over a real pair of sockets. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz_body.h"
#include "wire.h"

#define CHECK(what) ((what) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what), abort()))

static const char *const TOKENS[] = {"0", "1", "a", "3\r\nabc\r\n", "\r\n", "\r", "\n", ";x=y", " ", "x", "0\r\n\r\n"};
enum { N_TOKENS = sizeof TOKENS / sizeof *TOKENS, DEPTH = 4 };

static unsigned long sequences(uint8_t *input, size_t size, int depth)
{
    unsigned long n = 1;
    body_tells_the_same(input, size, (uint64_t)(size + (size_t)depth));
    for (int i = 0; depth && i < N_TOKENS; i++) {
        size_t length = strlen(TOKENS[i]);
        memcpy(input + size, TOKENS[i], length);
        n += sequences(input, size + length, depth - 1);
    }
    return n;
}

/* A line of framing of exactly the bound passes, one byte more does not, and neither does a size of 16 digits. */
static void bounds(void)
{
    uint8_t *line = malloc(BODY_MAX_LINE + 2), out[64];
    body_decoder b;
    CHECK(line);
    memset(line, 'x', BODY_MAX_LINE + 2);
    memcpy(line, "1;", 2);
    for (size_t size = BODY_MAX_LINE; size <= BODY_MAX_LINE + 1; size++) {
        body_init(&b, BODY_CHUNKED, 0);
        for (size_t at = 0; at < size - 1; at++)
            CHECK(!body_feed(&b, line + at, 1, out));
        CHECK(!b.status && !body_feed(&b, (const uint8_t *)"\n", 1, out));
        CHECK(b.status == (size > BODY_MAX_LINE ? BODY_E_LINE : 0));
    }
    body_init(&b, BODY_CHUNKED, 0);
    CHECK(!body_feed(&b, (const uint8_t *)"fffffffffffffff", 15, out) && !b.status);
    CHECK(!body_feed(&b, (const uint8_t *)"f", 1, out) && b.status == BODY_E_SIZE);
    free(line);
}

static void put(int descriptor, const char *text)
{
    CHECK(write(descriptor, text, strlen(text)) == (ssize_t)strlen(text));
}

static void reads(void)
{
    int ends[2];
    wire *w = malloc(sizeof *w);
    sse_decoder *d = malloc(sizeof *d);
    uint8_t room[64 + SSE_MARGIN];
    CHECK(w && d && !socketpair(AF_UNIX, SOCK_STREAM, 0, ends) && !sse_init(d, 64));
    sse_attach(d, room, sizeof room);
    wire_init(w, BODY_CHUNKED, 0);
    put(ends[1], "9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n");
    CHECK(wire_read(w, ends[0], d) == 2 && w->size == 18 && w->content == 18);
    CHECK(w->buffer[d->spans[0]] == 'a' && w->buffer[d->spans[2]] == 'b' && d->spans[3] - d->spans[2] == 1);
    put(ends[1], "9\r\ndata: c\n\n\r\n0\r\n\r\nnext");
    CHECK(wire_read(w, ends[0], d) == 1 && w->body.status == BODY_DONE && w->body.rest == 4);
    CHECK(wire_read(w, ends[0], d) == WIRE_OVER);

    wire_init(w, BODY_CHUNKED, 0);
    put(ends[1], "9\r\ndata: c\n\n\r\nx");
    CHECK(wire_read(w, ends[0], d) == 1 && wire_read(w, ends[0], d) == WIRE_OVER && w->body.status == BODY_E_SIZE);

    wire_init(w, BODY_SIZED, 100);
    close(ends[1]);
    CHECK(wire_read(w, ends[0], d) == WIRE_CLOSED && !w->body.status);
    close(ends[0]);
    CHECK(wire_read(w, ends[0], d) == WIRE_FAILED && w->error);
    free(d);
    free(w);
}

int main(void)
{
    static uint8_t input[64];
    printf("%lu bodies, each cut 4 ways in 3 framings\n", sequences(input, 0, DEPTH));
    bounds();
    reads();
    return 0;
}
