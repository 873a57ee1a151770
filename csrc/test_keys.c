/* The table of keys against a plain array, and the journal's lines cut and changed at every byte. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keys.h"

#define CHECK(what) ((what) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what), abort()))

enum { KEYS = 20000 };

static uint32_t state = 1;

static uint32_t draw(void)
{
    return state = state * 1664525u + 1013904223u;
}

static void digest_of(uint8_t *digest, uint32_t n)
{
    uint64_t mixed = (n + 1) * 0x9e3779b97f4a7c15u;
    memcpy(digest, &mixed, 8);
    memcpy(digest + 8, &n, 2);
}

static void table(void)
{
    static uint64_t model[KEYS];
    uint8_t digest[KEYS_DIGEST];
    keys_table *t = keys_new();
    CHECK(t);
    const uint64_t none = UINT64_MAX, nowhere = (uint64_t)KEYS_NOWHERE << 2;
    for (int i = 0; i < KEYS; i++)
        model[i] = none;
    uint64_t count = 0, recorded = 0, failed = 0;
    for (int round = 0; round < 6 * KEYS; round++) {
        uint32_t n = draw() % KEYS;
        digest_of(digest, n);
        CHECK(keys_get(t, digest) == (model[n] == none ? KEYS_E_ABSENT : (int64_t)model[n]));
        count += model[n] == none;
        uint64_t before = model[n] == none ? nowhere : model[n];
        if (draw() & 0x10000) {
            CHECK(keys_meet(t, digest) == (int64_t)before);
            model[n] = before | KEYS_MET;
        } else {
            uint64_t offset = (uint64_t)draw() << 13, wrong = draw() >> 16 & 1;
            CHECK(!keys_put(t, digest, offset, (int)wrong));
            recorded += before >> 2 == KEYS_NOWHERE;
            failed += wrong - (before & KEYS_FAILED);
            model[n] = offset << 2 | (before & KEYS_MET) | wrong;
        }
    }
    CHECK(keys_count(t) == count && keys_recorded(t) == recorded && keys_failed(t) == failed);
    keys_forget(t);
    for (uint32_t n = 0; n < KEYS; n++) {
        digest_of(digest, n);
        CHECK(keys_get(t, digest) == (model[n] == none ? KEYS_E_ABSENT : (int64_t)(model[n] & ~(uint64_t)KEYS_MET)));
    }
    CHECK(keys_put(t, digest, KEYS_NOWHERE, 0) == KEYS_E_RANGE);
    keys_free(t);
    keys_free(NULL);
}

/* Made by the Python of batch/journal.py. */
static const char LINES[] =
    "{\"len\":18,\"crc\":\"9a8fb4e6\",\"sync\":210,\"key\":\"000102030405060708ff\",\"failed\":false,\"row\":{\"id\":1,\"a\":\"xyz\"}}\n"
    "{\"len\":2,\"crc\":\"91f0f0c0\",\"sync\":210,\"key\":\"ff0102030405060708fe\",\"failed\":true,\"row\":{}}\n";

static int64_t scanned(const char *text, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1); /* of its own size: a byte read beyond it is seen */
    CHECK(copy);
    memcpy(copy, text, len);
    keys_table *t = keys_new();
    CHECK(t);
    int64_t taken = keys_scan(t, copy, len, 1000);
    keys_free(t);
    free(copy);
    return taken;
}

static void lines(void)
{
    const size_t whole = sizeof LINES - 1, first = (size_t)(strchr(LINES, '\n') - LINES) + 1;
    CHECK(scanned(LINES, whole) == (int64_t)whole);
    keys_table *t = keys_new();
    CHECK(t && keys_scan(t, (const uint8_t *)LINES, whole, 1000) == (int64_t)whole);
    const uint8_t one[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 0xff}, two[] = {0xff, 1, 2, 3, 4, 5, 6, 7, 8, 0xfe};
    CHECK(keys_get(t, one) == (1000 + (int64_t)first - 2 - 18) << 2);
    CHECK(keys_get(t, two) == ((1000 + (int64_t)whole - 2 - 2) << 2 | KEYS_FAILED));
    keys_free(t);
    for (size_t len = 0; len < whole; len++)
        CHECK(scanned(LINES, len) == (len < first ? 0 : (int64_t)first));
    char changed[sizeof LINES];
    for (size_t at = 0; at < whole; at++)
        for (int bit = 0; bit < 8; bit++) {
            memcpy(changed, LINES, sizeof LINES);
            changed[at] = (char)(changed[at] ^ 1 << bit);
            CHECK(scanned(changed, whole) == (at < first ? 0 : (int64_t)first));
        }
    for (int round = 0; round < 20000; round++) {
        memcpy(changed, LINES, sizeof LINES);
        for (uint32_t n = draw() >> 16 & 7; n; n--)
            changed[(draw() >> 8) % whole] = "\"{}:,0123456789abcdef\n"[(draw() >> 16) % 22];
        scanned(changed, (draw() >> 8) % (whole + 1));
    }
}

int main(void)
{
    table();
    lines();
    printf("%d keys, and lines with every bit changed\n", KEYS);
    return 0;
}
