#include "keys.h"

#include <stdlib.h>
#include <string.h>

enum { PARTS = 256, LEAST = 8, SLICES = 8, MAX_DIGITS = 15 };

typedef struct {
    uint8_t digest[KEYS_DIGEST];
    uint8_t value[6]; /* little-endian; all ones: nobody's */
} entry;

typedef struct {
    entry *entries;
    uint32_t size, used;
} part;

struct keys_table {
    part parts[PARTS];
    uint64_t count, recorded, failed;
    uint32_t crc[SLICES][256];
};

static const uint64_t NOBODY = 0xffffffffffff;

static uint64_t value_of(const entry *e)
{
    uint64_t value = 0;
    for (int i = 5; i >= 0; i--)
        value = value << 8 | e->value[i];
    return value;
}

static void set_value(entry *e, uint64_t value)
{
    for (int i = 0; i < 6; i++, value >>= 8)
        e->value[i] = (uint8_t)value;
}

/* The entry of digest, or the free one where it belongs. There is a free one. */
static entry *place(const part *p, const uint8_t *digest)
{
    uint32_t hash;
    memcpy(&hash, digest + 1, sizeof hash);
    uint32_t at = (uint32_t)((uint64_t)hash * p->size >> 32);
    for (;;) {
        entry *e = p->entries + at;
        if (!memcmp(e->digest, digest, KEYS_DIGEST) || value_of(e) == NOBODY)
            return e;
        if (++at == p->size)
            at = 0;
    }
}

/* Room for one more. */
static int grow(part *p)
{
    if (p->size && p->used < p->size - p->size / 8 - 1)
        return 0;
    uint64_t size = p->size ? (uint64_t)p->size + p->size / 4 : LEAST;
    if (size > UINT32_MAX)
        return KEYS_E_MEMORY;
    entry *entries = malloc((size_t)size * sizeof *entries);
    if (!entries)
        return KEYS_E_MEMORY;
    memset(entries, 0xff, (size_t)size * sizeof *entries);
    part next = {entries, (uint32_t)size, p->used};
    for (uint32_t i = 0; i < p->size; i++)
        if (value_of(p->entries + i) != NOBODY)
            *place(&next, p->entries[i].digest) = p->entries[i];
    free(p->entries);
    *p = next;
    return 0;
}

keys_table *keys_new(void)
{
    keys_table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t crc = n;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
        t->crc[0][n] = crc;
    }
    for (int slice = 1; slice < SLICES; slice++)
        for (uint32_t n = 0; n < 256; n++)
            t->crc[slice][n] = t->crc[slice - 1][n] >> 8 ^ t->crc[0][t->crc[slice - 1][n] & 0xff];
    return t;
}

void keys_free(keys_table *t)
{
    if (!t)
        return;
    for (int i = 0; i < PARTS; i++)
        free(t->parts[i].entries);
    free(t);
}

uint64_t keys_count(const keys_table *t)
{
    return t->count;
}

uint64_t keys_recorded(const keys_table *t)
{
    return t->recorded;
}

uint64_t keys_failed(const keys_table *t)
{
    return t->failed;
}

/* The entry of digest, made if it is new, or NULL without memory. */
static entry *entry_of(keys_table *t, const uint8_t *digest)
{
    part *p = t->parts + digest[0];
    if (p->size) {
        entry *e = place(p, digest);
        if (value_of(e) != NOBODY)
            return e;
    }
    if (grow(p))
        return NULL;
    entry *e = place(p, digest);
    memcpy(e->digest, digest, KEYS_DIGEST);
    set_value(e, (uint64_t)KEYS_NOWHERE << 2);
    p->used++;
    t->count++;
    return e;
}

int keys_put(keys_table *t, const uint8_t *digest, uint64_t offset, int failed)
{
    if (offset >= KEYS_NOWHERE)
        return KEYS_E_RANGE;
    entry *e = entry_of(t, digest);
    if (!e)
        return KEYS_E_MEMORY;
    uint64_t before = value_of(e);
    t->recorded += before >> 2 == KEYS_NOWHERE;
    t->failed += (uint64_t)!!failed - (before & KEYS_FAILED);
    set_value(e, offset << 2 | (before & KEYS_MET) | (uint64_t)!!failed);
    return 0;
}

int64_t keys_meet(keys_table *t, const uint8_t *digest)
{
    entry *e = entry_of(t, digest);
    if (!e)
        return KEYS_E_MEMORY;
    uint64_t before = value_of(e);
    e->value[0] |= KEYS_MET;
    return (int64_t)before;
}

int64_t keys_get(const keys_table *t, const uint8_t *digest)
{
    const part *p = t->parts + digest[0];
    if (!p->size)
        return KEYS_E_ABSENT;
    const entry *e = place(p, digest);
    uint64_t value = value_of(e);
    return value == NOBODY ? KEYS_E_ABSENT : (int64_t)value;
}

void keys_forget(keys_table *t)
{
    for (int i = 0; i < PARTS; i++)
        for (uint32_t at = 0; at < t->parts[i].size; at++)
            if (value_of(t->parts[i].entries + at) != NOBODY)
                t->parts[i].entries[at].value[0] &= (uint8_t)~KEYS_MET;
}

/* --- the journal ---------------------------------------------------------------------------------------------------- */

/* CRC-32 as zlib has it, eight bytes a step. */
static uint32_t crc32_of(const keys_table *t, const uint8_t *in, size_t len)
{
    uint32_t crc = 0xffffffffu;
    for (; len >= 8; in += 8, len -= 8) {
        uint32_t low = crc ^ ((uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24);
        crc = t->crc[7][low & 0xff] ^ t->crc[6][low >> 8 & 0xff] ^ t->crc[5][low >> 16 & 0xff] ^ t->crc[4][low >> 24] ^
            t->crc[3][in[4]] ^ t->crc[2][in[5]] ^ t->crc[1][in[6]] ^ t->crc[0][in[7]];
    }
    while (len--)
        crc = crc >> 8 ^ t->crc[0][(crc ^ *in++) & 0xff];
    return ~crc;
}

typedef struct {
    const uint8_t *at, *end;
} reader;

static int literal(reader *r, const char *text)
{
    size_t length = strlen(text);
    if ((size_t)(r->end - r->at) < length || memcmp(r->at, text, length))
        return 0;
    r->at += length;
    return 1;
}

static int number(reader *r, uint64_t *out)
{
    int digits = 0;
    for (*out = 0; r->at < r->end && *r->at >= '0' && *r->at <= '9' && digits < MAX_DIGITS; digits++)
        *out = *out * 10 + (uint64_t)(*r->at++ - '0');
    return digits > 0;
}

static int hex(reader *r, uint8_t *out, int bytes)
{
    if (r->end - r->at < 2 * bytes)
        return 0;
    for (int i = 0; i < 2 * bytes; i++) {
        uint8_t c = *r->at++;
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0)
            return 0;
        out[i / 2] = (uint8_t)(i % 2 ? out[i / 2] << 4 | digit : digit);
    }
    return 1;
}

/* One line of a row; the bytes of it, 0 if it is anything else, or an error. */
static int64_t scan_line(keys_table *t, const uint8_t *line, size_t len, uint64_t offset)
{
    reader r = {line, line + len};
    uint64_t length, synced;
    uint8_t crc[4], digest[KEYS_DIGEST];
    if (!literal(&r, "{\"len\":") || !number(&r, &length) || !literal(&r, ",\"crc\":\"") || !hex(&r, crc, 4) ||
        !literal(&r, "\","))
        return 0;
    const uint8_t *rest = r.at;
    if (!literal(&r, "\"sync\":") || !number(&r, &synced) || !literal(&r, ",\"key\":\"") || !hex(&r, digest, KEYS_DIGEST) ||
        !literal(&r, "\",\"failed\":"))
        return 0;
    int failed = literal(&r, "true");
    if ((!failed && !literal(&r, "false")) || !literal(&r, ",\"row\":"))
        return 0;
    uint64_t left = (uint64_t)(r.end - r.at);
    if (left < 2 || length > left - 2 || r.at[length] != '}' || r.at[length + 1] != '\n')
        return 0;
    const uint8_t *end = r.at + length + 2;
    uint32_t sum = (uint32_t)crc[0] << 24 | (uint32_t)crc[1] << 16 | (uint32_t)crc[2] << 8 | crc[3];
    if (crc32_of(t, rest, (size_t)(end - rest)) != sum)
        return 0;
    int error = keys_put(t, digest, offset + (uint64_t)(r.at - line), failed);
    return error ? error : end - line;
}

int64_t keys_scan(keys_table *t, const uint8_t *block, size_t len, uint64_t base)
{
    size_t at = 0;
    for (;;) {
        int64_t taken = scan_line(t, block + at, len - at, base + at);
        if (taken < 0)
            return taken;
        if (!taken)
            return (int64_t)at;
        at += (size_t)taken;
    }
}
