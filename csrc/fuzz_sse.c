/* Fuzz target: whatever the input, decoding it whole, in random reads and byte by byte must tell the same story, and
 * every event that comes out must survive sse_encode and decoding. Chunks and carry-over buffers are allocated at their
 * exact size, so that AddressSanitizer sees every byte read or written beyond them.
 *
 * Input: one byte that chooses the limit, two that seed the cuts, then the stream. Built with clang -fsanitize=fuzzer
 * (define SSE_LIBFUZZER), or with the main below, which mutates a small corpus from a fixed seed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fuzz_body.h"
#include "sse.h"

#define CHECK(what) ((what) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what), abort()))

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint8_t *copy_of(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    CHECK(copy);
    if (size)
        memcpy(copy, bytes, size);
    return copy;
}

typedef struct text {
    uint8_t *bytes;
    size_t size, room;
} text;

static void append(text *t, const uint8_t *bytes, size_t size)
{
    if (t->size + size > t->room) {
        t->room = 2 * t->room + size;
        t->bytes = realloc(t->bytes, t->room);
        CHECK(t->bytes);
    }
    if (size)
        memcpy(t->bytes + t->size, bytes, size);
    t->size += size;
}

static void set(text *t, const uint8_t *bytes, size_t size)
{
    t->size = 0;
    append(t, bytes, size);
}

/* A stream as it was understood: blocks one after the other, each with its lengths. */
typedef struct story {
    sse_decoder d;
    uint8_t *room;
    text log, event, data, id, unknown;
    int n_data, has_id, has_retry, error;
    uint64_t retry;
} story;

static void log_text(story *s, const text *t)
{
    append(&s->log, (const uint8_t *)&t->size, sizeof t->size);
    append(&s->log, t->bytes, t->size);
}

static void check_encoding(const story *s);

static void end_block(story *s, uint32_t flags)
{
    uint64_t facts[4] = {flags, (uint64_t)s->has_id, (uint64_t)s->has_retry, s->retry};
    append(&s->log, (const uint8_t *)facts, sizeof facts);
    log_text(s, &s->event);
    log_text(s, &s->data);
    log_text(s, &s->id);
    log_text(s, &s->unknown);
    if (flags == SSE_HAS_DATA)
        check_encoding(s);
    s->event.size = s->data.size = s->id.size = s->unknown.size = 0;
    s->n_data = s->has_id = s->has_retry = 0;
    s->retry = 0;
}

static void add_data(story *s, const uint8_t *bytes, size_t size)
{
    if (s->n_data++)
        append(&s->data, (const uint8_t *)"\n", 1);
    append(&s->data, bytes, size);
}

static void take_span(story *s, const uint8_t *chunk, uint32_t n)
{
    const uint8_t *source = s->d.first_carried && !n ? s->room : chunk;
    add_data(s, source + s->d.spans[2 * n], s->d.spans[2 * n + 1] - s->d.spans[2 * n]);
    end_block(s, SSE_HAS_DATA);
}

static void take_piece(story *s, const uint8_t *source, int kind, uint32_t begin, uint32_t end)
{
    size_t size = end - begin;
    if (kind == SSE_RETRY) {
        s->has_retry = 1;
        s->retry = begin | (uint64_t)end << 32;
        return;
    }
    CHECK(begin <= end);
    switch (kind) {
    case SSE_DATA:
        add_data(s, source + begin, size);
        break;
    case SSE_EVENT:
        set(&s->event, source + begin, size);
        break;
    case SSE_ID:
        set(&s->id, source + begin, size);
        s->has_id = 1;
        break;
    default:
        CHECK(kind == SSE_NAME || kind == SSE_VALUE);
        append(&s->unknown, (const uint8_t *)&size, sizeof size);
        append(&s->unknown, source + begin, size);
    }
}

static void take_records(story *s, const uint8_t *chunk)
{
    uint32_t done = 0;
    CHECK(s->d.n_spans <= SSE_SPANS && s->d.n_pieces <= SSE_PIECES);
    for (uint32_t i = 0, end = 0; i < s->d.n_pieces; i = ++end) {
        while (s->d.pieces[3 * end] != SSE_END)
            CHECK(++end < s->d.n_pieces);
        while (done < s->d.pieces[3 * end + 1])
            take_span(s, chunk, done++);
        for (const uint32_t *piece = &s->d.pieces[3 * i]; i < end; i++, piece += 3)
            take_piece(s, piece[0] & SSE_CARRIED ? s->room : chunk, (int)piece[0] & ~SSE_CARRIED, piece[1], piece[2]);
        end_block(s, s->d.pieces[3 * end + 2]);
    }
    while (done < s->d.n_spans)
        take_span(s, chunk, done++);
}

/* The new buffer is exactly as large as asked for. */
static void grow(story *s)
{
    uint8_t *bigger = malloc(s->d.need);
    CHECK(bigger && s->d.need <= s->d.limit + SSE_MARGIN && s->d.need > s->d.room_size);
    if (s->room)
        memcpy(bigger, s->room, s->d.room_size);
    sse_attach(&s->d, bigger, s->d.need);
    free(s->room);
    s->room = bigger;
}

static void feed(story *s, const uint8_t *bytes, size_t size)
{
    uint8_t *chunk = copy_of(bytes, size);
    int r;
    do {
        r = sse_feed(&s->d, chunk, size);
        take_records(s, chunk);
        if (r >= 0 && r & SSE_GROW)
            grow(s);
    } while (r >= 0 && r & (SSE_AGAIN | SSE_GROW));
    free(chunk);
    if (r < 0) {
        CHECK(r == SSE_E_TOO_LARGE);
        CHECK(sse_feed(&s->d, bytes, size) == r && !s->d.n_spans && !s->d.n_pieces);
        s->error = r;
    }
}

static void finish(story *s)
{
    int r;
    do {
        r = sse_finish(&s->d);
        take_records(s, NULL);
        if (r >= 0 && r & SSE_GROW)
            grow(s);
    } while (r >= 0 && r & SSE_GROW);
    CHECK(r >= 0 || r == SSE_E_TOO_LARGE);
    CHECK(sse_finish(&s->d) == (r < 0 ? r : SSE_E_CLOSED));
    s->error = r < 0 ? r : 0;
    uint64_t facts[4] = {s->d.comments, s->d.retry, s->d.has_retry, (uint64_t)s->error};
    append(&s->log, (const uint8_t *)facts, sizeof facts);
}

static void begin(story *s, size_t limit)
{
    memset(s, 0, sizeof *s);
    CHECK(!sse_init(&s->d, limit));
}

static void forget(story *s)
{
    free(s->room);
    free(s->log.bytes);
    free(s->event.bytes);
    free(s->data.bytes);
    free(s->id.bytes);
    free(s->unknown.bytes);
}

/* What an event says, encoded into a buffer of exactly the promised size and decoded, is what it said. */
static void check_encoding(const story *s)
{
    size_t room = SSE_FRAMING + s->event.size + s->id.size + s->data.size;
    if (memchr(s->event.size ? s->event.bytes : (const uint8_t *)"", 0, s->event.size))
        return;
    for (size_t i = 0; i < s->data.size; i++)
        room += s->data.bytes[i] == '\n' ? 6 : 0;
    uint8_t *data = copy_of(s->data.bytes, s->data.size), *event = copy_of(s->event.bytes, s->event.size);
    uint8_t *id = copy_of(s->id.bytes, s->id.size), *out = malloc(room);
    CHECK(out);
    CHECK(sse_encode(out, room - 1, event, s->event.size, data, s->data.size, s->has_id ? id : NULL, s->id.size, s->retry,
                     s->has_retry) == SSE_E_ROOM);
    ptrdiff_t n = sse_encode(out, room, event, s->event.size, data, s->data.size, s->has_id ? id : NULL, s->id.size,
                             s->retry, s->has_retry);
    CHECK(n > 0 && (size_t)n <= room);
    sse_decoder *d = malloc(sizeof *d);
    CHECK(d && !sse_init(d, SSE_MAX_LIMIT));
    int r = sse_feed(d, out, (size_t)n);
    text back = {0};
    uint32_t pieces = d->n_pieces;
    for (uint32_t i = 0; i < pieces; i++) {
        const uint32_t *piece = &d->pieces[3 * i];
        if (piece[0] == SSE_DATA) {
            if (i && d->pieces[3 * (i - 1)] == SSE_DATA)
                append(&back, (const uint8_t *)"\n", 1);
            append(&back, out + piece[1], piece[2] - piece[1]);
        } else if (piece[0] == SSE_EVENT || piece[0] == SSE_ID) {
            const text *t = piece[0] == SSE_EVENT ? &s->event : &s->id;
            CHECK(piece[2] - piece[1] == t->size && (!t->size || !memcmp(out + piece[1], t->bytes, t->size)));
        } else if (piece[0] == SSE_RETRY)
            CHECK((piece[1] | (uint64_t)piece[2] << 32) == s->retry);
    }
    if (d->n_spans) {
        CHECK(d->n_spans == 1 && !pieces && !s->event.size && !s->has_id && !s->has_retry);
        append(&back, out + d->spans[0], d->spans[1] - d->spans[0]);
    }
    if (!(r & (SSE_AGAIN | SSE_GROW))) /* more data lines than one call shows in place: not looked at here */
        CHECK(back.size == s->data.size && (!back.size || !memcmp(back.bytes, s->data.bytes, back.size)));
    free(back.bytes);
    free(d);
    free(out);
    free(id);
    free(event);
    free(data);
}

/* Tells the stream in reads of 1..longest bytes, longest 0: whole. */
static void tell(story *s, size_t limit, const uint8_t *stream, size_t size, uint64_t seed, size_t longest)
{
    begin(s, limit);
    for (size_t at = 0, n; at < size && !s->error; at += n) {
        n = longest ? 1 + next_random(&seed) % longest : size;
        if (n > size - at)
            n = size - at;
        feed(s, stream + at, n);
    }
    finish(s);
}

static void check_same(const story *a, const story *b)
{
    CHECK(a->log.size == b->log.size && !memcmp(a->log.bytes, b->log.bytes, a->log.size));
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    static story whole, cut; /* 40 KiB */
    if (size < 3)
        return 0;
    size_t limit = input[0] < 128 ? input[0] + 1u : (size_t)1 << (input[0] % 24);
    uint64_t seed = 1u + input[1] + 256u * input[2];
    tell(&whole, limit, input + 3, size - 3, 0, 0);
    size_t longest[] = {1, 7, 100, size};
    for (size_t i = 0; i < sizeof longest / sizeof *longest; i++) {
        tell(&cut, limit, input + 3, size - 3, seed + i, longest[i]);
        check_same(&whole, &cut);
        forget(&cut);
    }
    forget(&whole);
    body_tells_the_same(input + 3, size - 3, seed);
    return 0;
}

#ifndef SSE_LIBFUZZER

enum { LARGEST = 1 << 14 };

static const char *const WORDS[] = {
    "data: ", "data:", "data", "event: ", "event", "id: ", "id", "retry: ", "retry", "error: ", "eventual", ":", " ", "\n",
    "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "\xef\xbb\xbf", "\xef\xbb", "message", "18446744073709551616", "9", "x",
    "data: {\"t\":\"abc\"}\n\n", "data: [DONE]\n\n", "event: e\nid: 1\nretry: 5\ndata: x\n\n", "error: {}\n\n", ": ping\n\n",
    "data: a\ndata: b\n\n", "u\n", "data\n", "data\n\n", "0\r\n\r\n", "5\r\n", "a;b=c\r\n", "3\r\nabc\r\n", "f", "0",
};

static size_t insert(uint8_t *input, size_t size, size_t at, const uint8_t *bytes, size_t n)
{
    if (size + n > LARGEST)
        return size;
    memmove(input + at + n, input + at, size - at);
    memmove(input + at, bytes, n);
    return size + n;
}

static size_t mutate(uint8_t *input, size_t size, uint64_t *random)
{
    size_t at = 3 + next_random(random) % (size - 2), n;
    uint8_t copy[64], byte = (uint8_t)next_random(random);
    const char *word = WORDS[next_random(random) % (sizeof WORDS / sizeof *WORDS)];
    switch (next_random(random) % 12) {
    case 0:
        return insert(input, size, at, &byte, 1);
    case 1:
        if (at < size)
            input[at] = byte;
        return size;
    case 2:
        n = next_random(random) % 40;
        n = n < size - at ? n : size - at;
        memmove(input + at, input + at + n, size - at - n);
        return size - n;
    case 3:
        n = size - at < sizeof copy ? size - at : sizeof copy;
        memcpy(copy, input + at, n);
        for (int times = 1 << next_random(random) % 8; times; times--)
            size = insert(input, size, at, copy, n);
        return size;
    case 4:
        return next_random(random) % 2 ? size : 3 + (size - 3) / 8;
    case 5:
        input[next_random(random) % 3] = byte;
        return size;
    default:
        return insert(input, size, at, (const uint8_t *)word, strlen(word));
    }
}

/* fuzz_sse [seconds] [seed]. The input of a failure is printed by rerunning with the same seed: runs are repeatable. */
int main(int argc, char **argv)
{
    static uint8_t input[LARGEST];
    long seconds = argc > 1 ? atol(argv[1]) : 60;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x5353450001, random = seed | 1;
    uint64_t runs = 0, bytes = 0;
    size_t size = 3;
    time_t start = time(NULL);
    printf("seed 0x%llx, %ld s\n", (unsigned long long)seed, seconds);
    fflush(stdout);
    while (runs % 64 || time(NULL) - start < seconds) {
        size = mutate(input, size, &random);
        LLVMFuzzerTestOneInput(input, size);
        runs++;
        bytes += size;
    }
    printf("%llu inputs, %llu/s, mean %llu bytes, no failure\n", (unsigned long long)runs,
           (unsigned long long)(runs / (uint64_t)(seconds ? seconds : 1)), (unsigned long long)(bytes / runs));
    return 0;
}

#endif
