/* The C face of the codec under sanitizers: every short sequence of tokens, cut every way (through the fuzz target, with
 * chunks and buffers of exact size), and what sse.h promises about errors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sse.h"

#define CHECK(what) ((what) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what), abort()))
#define BYTES(s) (const uint8_t *)(s), sizeof(s) - 1

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

#define TOKEN(s) {s, sizeof(s) - 1}

static const struct {
    const char *bytes;
    size_t size;
} TOKENS[] = {TOKEN("data"), TOKEN("data:xy"), TOKEN("event: e"), TOKEN("id:1"), TOKEN("id:\0"), TOKEN("retry:"),
              TOKEN("errors"), TOKEN(":"), TOKEN(" "), TOKEN("\n"), TOKEN("\n\n"), TOKEN("\r"), TOKEN("\r\n"),
              TOKEN("\xef\xbb\xbf"), TOKEN("7")};
enum { N_TOKENS = sizeof TOKENS / sizeof *TOKENS, DEPTH = 4 };

static unsigned long sequences(uint8_t *input, size_t size, int depth)
{
    unsigned long n = 1;
    LLVMFuzzerTestOneInput(input, size);
    for (int i = 0; depth && i < N_TOKENS; i++) {
        memcpy(input + size, TOKENS[i].bytes, TOKENS[i].size);
        n += sequences(input, size + TOKENS[i].size, depth - 1);
    }
    return n;
}

/* Many records of one kind in one read: every array runs full at every phase. */
static void repeated(const char *unit, int times)
{
    size_t n = strlen(unit), size = 3 + n * (size_t)times;
    uint8_t *input = malloc(size);
    CHECK(input);
    memcpy(input, "\x94\x01\x02", 3);
    for (int i = 0; i < times; i++)
        memcpy(input + 3 + n * (size_t)i, unit, n);
    LLVMFuzzerTestOneInput(input, size);
    free(input);
}

static void errors(void)
{
    sse_decoder *d = malloc(sizeof *d);
    CHECK(d);
    CHECK(sse_init(d, 0) == SSE_E_MISUSE && sse_feed(d, BYTES("data\n\n")) == SSE_E_MISUSE);
    CHECK(sse_init(d, SSE_MAX_LIMIT + 1) == SSE_E_MISUSE && sse_finish(d) == SSE_E_MISUSE);

    CHECK(!sse_init(d, 3));
    CHECK(sse_feed(d, BYTES("data: 123\n\n")) == 1 && d->spans[0] == 6 && d->spans[1] == 9);
    CHECK(sse_feed(d, BYTES("data: 1\n\nid: 1234\n\n")) & SSE_GROW);
    CHECK(d->n_spans == 1 && d->need <= 3 + SSE_MARGIN);
    uint8_t room[3 + SSE_MARGIN];
    sse_attach(d, room, sizeof room);
    CHECK(sse_feed(d, BYTES("data: 1\n\nid: 1234\n\n")) == SSE_E_TOO_LARGE && !d->n_spans && !d->n_pieces);
    CHECK(sse_feed(d, BYTES("data\n\n")) == SSE_E_TOO_LARGE && sse_finish(d) == SSE_E_TOO_LARGE);

    CHECK(!sse_init(d, 100));
    CHECK(sse_feed(d, BYTES("data: 1")) & SSE_GROW); /* and now, instead of the same chunk: */
    CHECK(sse_feed(d, BYTES("data: another")) == SSE_E_MISUSE);

    CHECK(!sse_init(d, 100));
    CHECK(sse_feed(d, (const uint8_t *)"", (size_t)SSE_MAX_READ + 1) == SSE_E_READ_TOO_LONG);
    CHECK(sse_feed(d, NULL, 0) == 0 && sse_feed(d, BYTES("data\n\n")) == 1);
    CHECK(sse_finish(d) == 0 && sse_finish(d) == SSE_E_CLOSED && sse_feed(d, BYTES("x")) == SSE_E_CLOSED);
    free(d);
}

static void longest_encoding(void)
{
    static const char expected[] = "event: e\nid: 1\nretry: 18446744073709551615\ndata: \ndata: \n\n";
    size_t room = SSE_FRAMING + 1 + 1 + 1 + 6;
    uint8_t *out = malloc(room);
    CHECK(out);
    CHECK(sse_encode(out, room, BYTES("e"), BYTES("\n"), BYTES("1"), UINT64_MAX, 1) == (ptrdiff_t)sizeof expected - 1);
    CHECK(sizeof expected - 1 == room && !memcmp(out, expected, room));
    free(out);
}

static void longest_numbers(void)
{
    static const char expected[] = "id: 18446744073709551614\ndata: a\n\nid: 18446744073709551615\ndata: \n\n";
    size_t room = 2 * (SSE_NUMBERED + 4) + 3;
    uint8_t *out = malloc(room);
    CHECK(out);
    CHECK(sse_encode_lines(out, room - 1, BYTES("id: "), UINT64_MAX - 1, BYTES("a\n\n")) == SSE_E_ROOM);
    CHECK(sse_encode_lines(out, room, BYTES("id: "), UINT64_MAX - 1, BYTES("a\n\n")) == (ptrdiff_t)sizeof expected - 1);
    CHECK(sizeof expected - 1 == room && !memcmp(out, expected, room));
    CHECK(sse_encode_lines(out, 0, BYTES("id: "), 0, BYTES("")) == 0);
    free(out);
}

int main(void)
{
    static uint8_t input[128];
    static const uint8_t limits[] = {0, 1, 3, 255}; /* limits 1, 2, 4 and 32768 */
    unsigned long n = 0;
    for (size_t i = 0; i < sizeof limits; i++) {
        memcpy(input, (const uint8_t[]){limits[i], 9, 9}, 3);
        n += sequences(input, 3, DEPTH);
    }
    static const char *const units[] = {"data\n\n", "data: a\ndata: b\n\n", "data\n", "u\n\n", "u: v\n", "event: x\ndata\r\r",
                                        "id: 1\n\n", ":\n", "retry: 1\n\n", "data\nu\n", "data: xyz\r\n\r\nid: 2\ndata\n\n"};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        for (int times = 1; times < 5000; times += 1 + times / 3)
            repeated(units[i], times);
    errors();
    longest_encoding();
    longest_numbers();
    printf("%lu token sequences, all cuts alike\n", n);
    return 0;
}
