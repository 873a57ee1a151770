/* Part of the fuzz target of fuzz_sse.c: a body decoded whole, in reads of any size and in place tells the same story. */
#include "fuzz_body.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "body.h"

#define CHECK(what) ((what) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what), abort()))

typedef struct told {
    int status;
    size_t size, behind;
    uint8_t *content;
} told;

/* In reads of 1..longest bytes, longest 0: whole. Each is allocated at its exact size, for AddressSanitizer. */
static told tell(int framing, uint64_t length, const uint8_t *bytes, size_t size, uint64_t seed, size_t longest, int in_place)
{
    told t = {0, 0, 0, malloc(size ? size : 1)};
    body_decoder b;
    CHECK(t.content);
    body_init(&b, framing, length);
    for (size_t at = 0, n; at < size; at += n) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        n = longest ? 1 + (size_t)(seed >> 33) % longest : size;
        if (n > size - at)
            n = size - at;
        int was_over = b.status;
        uint8_t *in = malloc(n), *out = in_place ? in : malloc(n);
        CHECK(in && out);
        memcpy(in, bytes + at, n);
        size_t written = body_feed(&b, in, n, out);
        CHECK(written <= n && b.rest <= at + n && (!was_over || (!written && b.status == was_over)));
        memcpy(t.content + t.size, out, written);
        t.size += written;
        free(in);
        if (!in_place)
            free(out);
    }
    t.status = b.status;
    t.behind = b.rest;
    return t;
}

void body_tells_the_same(const uint8_t *bytes, size_t size, uint64_t seed)
{
    const struct {
        int framing;
        uint64_t length;
    } WAYS[] = {{BODY_CHUNKED, 0}, {BODY_SIZED, seed % 40}, {BODY_TO_THE_END, 0}};
    const size_t LONGEST[] = {1, 2, 7, 1448};
    for (size_t w = 0; w < sizeof WAYS / sizeof *WAYS; w++) {
        told whole = tell(WAYS[w].framing, WAYS[w].length, bytes, size, 0, 0, 0);
        CHECK(WAYS[w].framing != BODY_TO_THE_END || (whole.size == size && !whole.status));
        CHECK(WAYS[w].framing != BODY_SIZED || whole.size == (size < WAYS[w].length ? size : WAYS[w].length));
        for (size_t i = size < 256 ? 0 : 2; i < sizeof LONGEST / sizeof *LONGEST; i++) {
            told cut = tell(WAYS[w].framing, WAYS[w].length, bytes, size, seed + i, LONGEST[i], i % 2 == 0);
            CHECK(cut.status == whole.status && cut.size == whole.size && cut.behind == whole.behind);
            CHECK(!memcmp(cut.content, whole.content, whole.size));
            free(cut.content);
        }
        free(whole.content);
    }
}
