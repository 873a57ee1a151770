/* Bodies and wires under sanitizers: every short sequence of framing tokens, and wire_read over a real pair of sockets. */
#include <limits.h>
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

/* A line of framing of exactly the bound passes, one byte more does not, and neither does a size of 2^63. */
static void bounds(void)
{
    uint8_t *line = malloc(BODY_MAX_LINE + 2), out[64];
    body_decoder b;
    CHECK(line);
    memset(line, 'x', BODY_MAX_LINE + 2);
    memcpy(line, "1;", 2);
    for (size_t size = BODY_MAX_LINE; size <= BODY_MAX_LINE + 1; size++) {
        body_init(&b, BODY_CHUNKED, 0);
        for (size_t at = 0; at < size - 2; at++)
            CHECK(!body_feed(&b, line + at, 1, out));
        CHECK(!b.status && !body_feed(&b, (const uint8_t *)"\r\n", 2, out));
        CHECK(b.status == (size > BODY_MAX_LINE ? BODY_E_LINE : 0));
    }
    body_init(&b, BODY_CHUNKED, 0);
    CHECK(!body_feed(&b, (const uint8_t *)"007fffffffffffffff", 18, out) && !b.status && b.left == INT64_MAX);
    CHECK(!body_feed(&b, (const uint8_t *)"0", 1, out) && b.status == BODY_E_SIZE);
    body_init(&b, BODY_CHUNKED, 0);
    CHECK(!body_feed(&b, (const uint8_t *)"8000000000000000", 16, out) && b.status == BODY_E_SIZE);
    free(line);
}

static void put(int descriptor, const char *text)
{
    CHECK(write(descriptor, text, strlen(text)) == (ssize_t)strlen(text));
}

static void reads(void)
{
    int ends[2], wakes[2];
    wire *w = malloc(sizeof *w);
    sse_decoder *d = malloc(sizeof *d);
    uint8_t room[64 + SSE_MARGIN], *buffer = malloc(WIRE_READ);
    CHECK(w && d && buffer && !socketpair(AF_UNIX, SOCK_STREAM, 0, ends) && !sse_init(d, 64) && !pipe(wakes));
    sse_attach(d, room, sizeof room);
    wire_init(w, BODY_CHUNKED, 0);
#define READ(wake, ms) wire_read(w, buffer, WIRE_READ, ends[0], wake, ms, d)
    CHECK(READ(-1, 0) == WIRE_BLOCKED && w->drained);
    CHECK(READ(wakes[0], 5) == WIRE_TIME);
    put(wakes[1], "!");
    put(ends[1], "9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n");
    CHECK(READ(wakes[0], -1) == WIRE_WOKEN);
    CHECK(read(wakes[0], room, 1) == 1);
    CHECK(READ(wakes[0], -1) == 2 && w->size == 18 && w->content == 18);
    CHECK(buffer[d->spans[0]] == 'a' && buffer[d->spans[2]] == 'b' && d->spans[3] - d->spans[2] == 1);
    put(ends[1], "3\r\n:x\n\r\n");
    CHECK(READ(-1, 0) == WIRE_BLOCKED); /* content, and no event */
    put(ends[1], "9\r\ndata: c\n\n\r\n0\r\n\r\nnext");
    CHECK((READ(-1, 0) & SSE_N_SPANS_MASK) == 1); /* carried over: its block began before */
    CHECK(w->body.status == BODY_DONE && w->body.rest == 4);
    CHECK(READ(-1, 0) == WIRE_OVER);

    wire_init(w, BODY_CHUNKED, 0);
    put(ends[1], "9\r\ndata: c\n\n\r\nx");
    CHECK(READ(-1, 0) == 1 && READ(-1, 0) == WIRE_OVER && w->body.status == BODY_E_SIZE);

    wire_init(w, BODY_TO_THE_END, 0); /* a flood of comments: the caller is asked now and then */
    int size = 4 << 20, sent = 0;
    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    memset(buffer, '\n', WIRE_READ);
    while ((size = (int)send(ends[1], buffer, WIRE_READ, MSG_DONTWAIT)) > 0)
        sent += size;
    for (int status = WIRE_MORE; sent > 0; sent -= (int)w->content, w->content = 0)
        CHECK((status = READ(-1, 0)) == WIRE_MORE || status == WIRE_BLOCKED);

    int packets[2]; /* each read takes one, so the reads can be counted */
    CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
#define READ_PACKETS(wake, ms) wire_read(w, buffer, WIRE_READ, packets[0], wake, ms, d)
    wire_init(w, BODY_TO_THE_END, 0);
    CHECK(READ_PACKETS(wakes[0], 5) == WIRE_TIME && w->drained); /* nothing was there at first: that is no answer yet */
    for (int i = 0; i < 2 * WIRE_MOST_READS; i++)
        put(packets[1], "\n");
    CHECK(READ_PACKETS(wakes[0], -1) == WIRE_MORE && w->content && w->content <= WIRE_MOST_READS);
    put(wakes[1], "!");
    CHECK(READ_PACKETS(wakes[0], -1) == WIRE_WOKEN && w->content <= WIRE_MOST_READS);
    CHECK(read(wakes[0], room, 1) == 1);
    while (w->content < 2 * WIRE_MOST_READS)
        CHECK(READ_PACKETS(-1, 0) == WIRE_BLOCKED);
    put(packets[1], ":x\n");
    CHECK(READ_PACKETS(wakes[0], 5) == WIRE_TIME); /* of which the comment took some */
    put(packets[1], ":x\n");
    CHECK(READ_PACKETS(wakes[0], 0) == WIRE_TIME);
    close(packets[1]);
    CHECK(READ_PACKETS(wakes[0], INT_MAX) == WIRE_CLOSED);
    close(packets[0]);

    /* A read left half taken: another one is refused, of whatever size. */
    const uint8_t *chunk = (const uint8_t *)"data: a\n\ndata: b\n";
    CHECK(!sse_init(d, 64) && sse_begin(d, chunk, 17) == (SSE_GROW | 1));
    CHECK(sse_begin(d, chunk, 17) == SSE_E_MISUSE && sse_feed(d, chunk, 17) == SSE_E_MISUSE);
    CHECK(!sse_init(d, 64));
    sse_attach(d, room, sizeof room);

    wire_init(w, BODY_SIZED, 100);
    close(ends[1]);
    CHECK(READ(wakes[0], -1) == WIRE_CLOSED && !w->body.status);
    close(ends[0]);
    CHECK(READ(-1, 0) == WIRE_FAILED && w->error);
    close(wakes[0]);
    close(wakes[1]);
    free(buffer);
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
