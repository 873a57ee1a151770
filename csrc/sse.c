#include "sse.h"

#include <assert.h>
#include <string.h>

static_assert(SSE_SPANS <= SSE_N_SPANS_MASK && SSE_PIECES <= SSE_N_PIECES_MASK, "counts fit the return value");

enum { LONGEST_NAME = 5 };                        /* "event", "retry": a longer name is unknown before it ends */
enum { BOM_DONE = 3 };
enum { IN_NAME, IN_LONG_NAME, AFTER_COLON, IN_VALUE }; /* zero: at the start of a line */
enum { COMMENT = SSE_END + 1, IGNORED };          /* kinds of lines beside the SSE_ ones; SSE_NAME: an unknown field */
enum { FIELD_PIECES = 2, END_PIECES = 2, CARRIED_PIECES = 5 + 2 * SSE_UNKNOWN };

static const uint8_t BOM[3] = {0xef, 0xbb, 0xbf};

/* The read in hand. lf and cr are the next ones at or after p, or end: each byte is searched once for either, so that
 * a stream of lone CRs is no slower than one of LFs. */
typedef struct cursor {
    const uint8_t *chunk, *p, *end, *lf, *cr;
} cursor;

static const uint8_t *find(const uint8_t *p, const uint8_t *end, int byte)
{
    const uint8_t *hit = p == end ? NULL : memchr(p, byte, (size_t)(end - p));
    return hit ? hit : end;
}

static const uint8_t *line_end(cursor *c)
{
    if (c->lf < c->p)
        c->lf = find(c->p, c->end, '\n');
    if (c->cr < c->p)
        c->cr = find(c->p, c->end, '\r');
    return c->lf < c->cr ? c->lf : c->cr;
}

/* Past the line end at e. "lines must be separated by either a U+000D CARRIAGE RETURN U+000A LINE FEED (CRLF) character
 * pair, a single U+000A LINE FEED (LF) character, or a single U+000D CARRIAGE RETURN (CR) character" */
static const uint8_t *next_line(const cursor *c, const uint8_t *e)
{
    return *e == '\r' && e + 1 < c->end && e[1] == '\n' ? e + 2 : e + 1;
}

static void put_piece(sse_decoder *d, uint32_t n, int kind, size_t begin, size_t end)
{
    d->pieces[3 * n] = (uint32_t)kind;
    d->pieces[3 * n + 1] = (uint32_t)begin;
    d->pieces[3 * n + 2] = (uint32_t)end;
}

static int records(const sse_decoder *d, int flags)
{
    return flags | (d->first_carried ? SSE_FIRST_CARRIED : 0) | (int)(d->n_spans | d->n_pieces << SSE_N_PIECES_SHIFT);
}

static int fail(sse_decoder *d, int error)
{
    d->error = error;
    return error;
}

static int kind_of(const uint8_t *name, size_t len)
{
    switch (len) {
    case 2:
        return memcmp(name, "id", 2) ? SSE_NAME : SSE_ID;
    case 4:
        return memcmp(name, "data", 4) ? SSE_NAME : SSE_DATA;
    case 5:
        if (!memcmp(name, "event", 5))
            return SSE_EVENT;
        return memcmp(name, "retry", 5) ? SSE_NAME : SSE_RETRY;
    default:
        return SSE_NAME;
    }
}

/* "If the field value consists of only ASCII digits, then interpret the field value as an integer in base ten". Returns
 * whether all n bytes are digits; number saturates. */
static int take_digits(uint64_t *number, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return 0;
        uint64_t digit = (uint64_t)(p[i] - '0');
        *number = *number > (UINT64_MAX - digit) / 10 ? UINT64_MAX : *number * 10 + digit;
    }
    return 1;
}

/* Whether the line in progress needs memory at all: comments, retry and surplus fields of any length do not. */
static int keeps_bytes(const sse_decoder *d)
{
    return d->state == IN_NAME || !(d->kind == COMMENT || d->kind == IGNORED || d->kind == SSE_RETRY);
}

static void slide_out_consumed(sse_decoder *d)
{
    if (d->base) {
        memmove(d->room, d->room + d->base, d->data + d->scratch);
        d->base = 0;
    }
    if (d->meta_base) {
        uint8_t *top = d->room + d->room_size;
        memmove(top - d->meta, top - d->meta_base - d->meta, d->meta);
        d->meta_base = 0;
    }
}

/* Makes sure of room for n bytes of a line, a name that waits to be judged and the LF before data, or says how to get it. Nothing is changed, so the
 * call can be repeated. More than the limit is never asked for: such bytes end in SSE_E_TOO_LARGE before being copied. */
static int reserve(sse_decoder *d, size_t n)
{
    size_t left = d->limit - d->size;
    size_t used = d->base + d->data + d->scratch + d->meta + d->meta_base;
    size_t want = (n < left ? n : left) + LONGEST_NAME + 1;
    if (d->room_size - used >= want)
        return 0;
    if (used + want > d->limit + SSE_MARGIN)
        return SSE_AGAIN; /* a block that was just handed over still takes its room */
    d->need = (uint32_t)(used + want);
    return SSE_GROW;
}

static int count(sse_decoder *d, size_t n)
{
    if (n > d->limit - d->size)
        return fail(d, SSE_E_TOO_LARGE);
    d->size += n;
    return 0;
}

static int add_data(sse_decoder *d, const uint8_t *p, size_t n)
{
    int error = count(d, n);
    if (error || !n)
        return error;
    memcpy(d->room + d->base + d->data, p, n);
    d->data += n;
    return 0;
}

static int add_scratch(sse_decoder *d, const uint8_t *p, size_t n)
{
    int error = count(d, n);
    if (error || !n)
        return error;
    memcpy(d->room + d->base + d->data + d->scratch, p, n);
    d->scratch += n;
    return 0;
}

/* Moves a finished value from the data end to the meta end; returns its distance from the top of this block's meta. */
static uint32_t keep_scratch(sse_decoder *d)
{
    if (d->scratch) {
        d->meta += d->scratch;
        memmove(d->room + d->room_size - d->meta_base - d->meta, d->room + d->base + d->data, d->scratch);
    }
    d->scratch = 0;
    return (uint32_t)d->meta;
}

/* The kind of the line is known now. "Otherwise: The field is ignored" is where unknown fields are kept instead. */
static int open_field(sse_decoder *d, int kind)
{
    static const uint8_t lf = '\n';
    d->touched = 1;
    d->kind = (uint8_t)kind;
    d->state = AFTER_COLON;
    d->number = d->digits = d->bad = 0;
    if (kind == SSE_DATA) {
        if (d->has_data)
            return add_data(d, &lf, 1);
        d->has_data = 1;
    } else if (kind == SSE_NAME) {
        if (d->n_unknown < SSE_UNKNOWN) {
            d->long_name = d->name_len;
            return add_scratch(d, d->name, d->name_len);
        }
        d->kind = IGNORED;
    }
    return 0;
}

/* Takes bytes of a name, its colon included. Returns how many, or an error. */
static ptrdiff_t name_bytes(sse_decoder *d, const uint8_t *p, size_t n)
{
    int error;
    size_t i = 0;
    if (!d->name_len && *p == ':') {
        d->comments++;
        d->kind = COMMENT;
        d->state = IN_VALUE;
        return 1;
    }
    while (i < n && p[i] != ':' && d->name_len < LONGEST_NAME)
        d->name[d->name_len++] = p[i++];
    if (i == n)
        return (ptrdiff_t)n;
    if (p[i] == ':') {
        error = open_field(d, kind_of(d->name, d->name_len));
        return error ? error : (ptrdiff_t)i + 1;
    }
    error = open_field(d, SSE_NAME);
    d->state = IN_LONG_NAME;
    return error ? error : (ptrdiff_t)i;
}

static int value_bytes(sse_decoder *d, const uint8_t *p, size_t n)
{
    switch (d->kind) {
    case SSE_DATA:
        return add_data(d, p, n);
    case SSE_RETRY:
        if (!take_digits(&d->number, p, n))
            d->bad = 1;
        d->digits = 1;
        return 0;
    case COMMENT:
    case IGNORED:
        return 0;
    case SSE_ID:
        if (memchr(p, 0, n))
            d->bad = 1;
        return add_scratch(d, p, n);
    default:
        return add_scratch(d, p, n);
    }
}

/* Takes n bytes of the current line; room for them is there. */
static int line_bytes(sse_decoder *d, const uint8_t *p, size_t n)
{
    while (n) {
        ptrdiff_t used = (ptrdiff_t)n;
        int error = 0;
        switch (d->state) {
        case IN_NAME:
            used = name_bytes(d, p, n);
            break;
        case IN_LONG_NAME:
            used = find(p, p + n, ':') - p;
            if (d->kind == SSE_NAME) {
                error = add_scratch(d, p, (size_t)used);
                d->long_name = (uint32_t)d->scratch;
            }
            if ((size_t)used < n) {
                d->state = AFTER_COLON;
                used++;
            }
            break;
        case AFTER_COLON: /* "If value starts with a U+0020 SPACE character, remove it from value." */
            used = *p == ' ';
            d->state = IN_VALUE;
            break;
        default:
            error = value_bytes(d, p, n);
        }
        if (error || used < 0)
            return error ? error : (int)used;
        p += used;
        n -= (size_t)used;
    }
    return 0;
}

static void end_retry(sse_decoder *d, int terminated)
{
    if (d->bad || !d->digits)
        return;
    d->block_retry = d->number;
    d->has_block_retry = 1;
    if (terminated) {
        d->retry = d->number;
        d->has_retry = 1;
    }
}

static int end_line(sse_decoder *d, int terminated)
{
    if (d->state == IN_NAME && open_field(d, kind_of(d->name, d->name_len)))
        return d->error;
    switch (d->kind) {
    case SSE_EVENT:
        d->event_size = (uint32_t)d->scratch;
        d->event_at = keep_scratch(d);
        d->has_event = 1;
        break;
    case SSE_ID: /* "If the field value does not contain U+0000 NULL, then set the last event ID buffer" */
        if (d->bad) {
            d->scratch = 0;
            break;
        }
        d->id_size = (uint32_t)d->scratch;
        d->id_at = keep_scratch(d);
        d->has_id = 1;
        break;
    case SSE_RETRY:
        end_retry(d, terminated);
        break;
    case SSE_NAME: {
        sse_unknown *field = &d->unknown[d->n_unknown++];
        field->name = d->long_name;
        field->size = (uint32_t)d->scratch;
        field->at = keep_scratch(d);
        break;
    }
    default:
        break;
    }
    d->state = IN_NAME;
    d->kind = d->name_len = 0;
    return 0;
}

static void put_meta(sse_decoder *d, int kind, uint32_t at, size_t from, size_t to)
{
    size_t begin = d->room_size - d->meta_base - at;
    put_piece(d, d->n_pieces++, kind | SSE_CARRIED, begin + from, begin + to);
}

static void put_span(sse_decoder *d, size_t begin, size_t end)
{
    d->spans[2 * d->n_spans] = (uint32_t)begin;
    d->spans[2 * d->n_spans + 1] = (uint32_t)end;
    d->n_spans++;
}

/* Hands over the carried block and forgets it; its bytes stay where they are until the next call. */
static void end_carried_block(sse_decoder *d, int tail)
{
    int plain = d->has_data && !(d->has_event || d->has_id || d->has_block_retry || d->n_unknown || tail);
    if (plain && !d->n_spans && !d->n_pieces) {
        put_span(d, d->base, d->base + d->data);
        d->first_carried = 1;
    } else if (d->has_data || d->has_id || d->n_unknown || (tail && d->touched)) {
        if (d->has_data)
            put_piece(d, d->n_pieces++, SSE_DATA | SSE_CARRIED, d->base, d->base + d->data);
        if (d->has_event)
            put_meta(d, SSE_EVENT, d->event_at, 0, d->event_size);
        if (d->has_id)
            put_meta(d, SSE_ID, d->id_at, 0, d->id_size);
        if (d->has_block_retry)
            put_piece(d, d->n_pieces++, SSE_RETRY, (uint32_t)d->block_retry, (size_t)(d->block_retry >> 32));
        for (uint32_t i = 0; i < d->n_unknown; i++) {
            const sse_unknown *field = &d->unknown[i];
            put_meta(d, SSE_NAME, field->at, 0, field->name);
            put_meta(d, SSE_VALUE, field->at, field->name, field->size);
        }
        put_piece(d, d->n_pieces++, SSE_END, d->n_spans,
                  (size_t)((d->has_data ? SSE_HAS_DATA : 0) | (tail ? SSE_TAIL : 0)));
    }
    d->base += d->data;
    d->meta_base += d->meta;
    d->data = d->meta = d->scratch = d->size = 0;
    d->touched = d->has_data = d->has_event = d->has_id = d->has_block_retry = 0;
    d->n_unknown = 0;
    d->in_block = 0;
}

/* Line by line until the block or the read ends. Returns 0, SSE_AGAIN, SSE_GROW or an error. */
static int carry(sse_decoder *d, cursor *c)
{
    d->in_block = 1;
    while (c->p < c->end) {
        const uint8_t *e = line_end(c);
        size_t n = (size_t)(e - c->p);
        int at_start = d->state == IN_NAME && !d->name_len;
        int status;
        if (at_start && !n) {
            if (d->n_pieces + CARRIED_PIECES > SSE_PIECES)
                return SSE_AGAIN;
            c->p = next_line(c, e);
            end_carried_block(d, 0);
            return 0;
        }
        if (keeps_bytes(d) && !(at_start && *c->p == ':')) {
            status = reserve(d, n);
            if (status)
                return status;
        }
        status = line_bytes(d, c->p, n);
        c->p = e;
        if (status)
            return status;
        if (e < c->end) {
            status = end_line(d, 1);
            if (status)
                return status;
            c->p = next_line(c, e);
        }
    }
    return 0;
}

/* What a block that begins and ends in this read adds, kept apart until its blank line is seen. */
typedef struct draft {
    uint32_t pieces, data, unknown;
    int others, retries;
    uint64_t comments, retry;
    size_t size;
} draft;

/* Takes the field in [p, e). Returns 0 if the carry-over has to judge the block: it is too large or has too many pieces. */
static int draft_field(sse_decoder *d, draft *b, const uint8_t *chunk, const uint8_t *p, const uint8_t *e)
{
    size_t name = (size_t)(find(p, e, ':') - p);
    const uint8_t *v = p + name < e ? p + name + 1 : e;
    int kind = kind_of(p, name);
    if (v < e && *v == ' ')
        v++;
    size_t value = (size_t)(e - v);
    if (b->pieces + FIELD_PIECES + END_PIECES > SSE_PIECES)
        return 0;
    switch (kind) {
    case SSE_DATA:
        b->size += value + (b->data ? 1 : 0);
        b->data++;
        break;
    case SSE_ID:
        b->size += value;
        if (value && memchr(v, 0, value))
            return b->size <= d->limit;
        b->others++;
        break;
    case SSE_EVENT:
        b->size += value;
        b->others++;
        break;
    case SSE_RETRY: {
        uint64_t number = 0;
        if (value && take_digits(&number, v, value)) {
            b->retry = number;
            b->retries++;
        }
        return 1;
    }
    default:
        if (b->unknown == SSE_UNKNOWN)
            return 1;
        b->unknown++;
        b->others++;
        b->size += name + value;
        put_piece(d, b->pieces++, SSE_NAME, (size_t)(p - chunk), (size_t)(p - chunk) + name);
        kind = SSE_VALUE;
        break;
    }
    put_piece(d, b->pieces++, kind, (size_t)(v - chunk), (size_t)(e - chunk));
    return b->size <= d->limit;
}

static void commit(sse_decoder *d, draft *b)
{
    const uint32_t *first = &d->pieces[3 * d->n_pieces];
    d->comments += b->comments;
    if (b->retries) {
        d->retry = b->retry;
        d->has_retry = 1;
    }
    if (b->data == 1 && !b->others && !b->retries) {
        put_span(d, first[1], first[2]);
        return;
    }
    int visible = b->data > 0;
    for (uint32_t i = 0; !visible && i < b->pieces - d->n_pieces; i++)
        visible = first[3 * i] != SSE_EVENT;
    if (!visible)
        return;
    if (b->retries)
        put_piece(d, b->pieces++, SSE_RETRY, (uint32_t)b->retry, (size_t)(b->retry >> 32));
    put_piece(d, b->pieces++, SSE_END, d->n_spans, b->data ? SSE_HAS_DATA : 0);
    d->n_pieces = b->pieces;
}

/* Takes one block if all of it is here. Returns 1 if so; 0 if it must be carried; SSE_AGAIN if there is no room for it
 * beside the records of earlier ones. Without effect unless it returns 1. */
static int whole_block(sse_decoder *d, cursor *c)
{
    const cursor start = *c;
    draft b = {.pieces = d->n_pieces};
    for (;;) {
        const uint8_t *p = c->p, *e = line_end(c);
        if (e == c->end)
            break;
        c->p = next_line(c, e);
        if (e == p) {
            commit(d, &b);
            return 1;
        }
        if (*p == ':')
            b.comments++;
        else if (!draft_field(d, &b, c->chunk, p, e)) {
            *c = start;
            return d->n_pieces && b.pieces + FIELD_PIECES + END_PIECES > SSE_PIECES ? SSE_AGAIN : 0;
        }
    }
    *c = start;
    return 0;
}

/* The frame that engines send, "data: ...LF LF", without a detour. Returns whether there was one. */
static int plain_block(sse_decoder *d, cursor *c)
{
    const uint8_t *p = c->p;
    if (c->end - p < 7 || memcmp(p, "data:", 5))
        return 0;
    const uint8_t *e = line_end(c);
    p += 5 + (p[5] == ' ');
    if (c->end - e < 2 || e[0] != '\n' || e[1] != '\n' || (size_t)(e - p) > d->limit)
        return 0;
    put_span(d, (size_t)(p - c->chunk), (size_t)(e - c->chunk));
    c->p = e + 2;
    return 1;
}

static int blocks(sse_decoder *d, cursor *c)
{
    int status = d->in_block ? carry(d, c) : 0;
    while (!status && c->p < c->end) {
        if (d->n_spans == SSE_SPANS)
            return SSE_AGAIN;
        if (plain_block(d, c))
            continue;
        status = whole_block(d, c);
        if (status == 1)
            status = 0;
        else if (!status)
            status = carry(d, c);
    }
    return status;
}

/* Bytes of a BOM that turned out to be none are the beginning of a name. */
static void unread_bom(sse_decoder *d)
{
    memcpy(d->name, BOM, d->bom);
    d->name_len = d->bom;
    d->in_block = d->bom > 0;
    d->bom = BOM_DONE;
}

/* "The UTF-8 decode algorithm strips one leading UTF-8 Byte Order Mark (BOM), if any." */
static const uint8_t *skip_bom(sse_decoder *d, const uint8_t *p, const uint8_t *end)
{
    for (; d->bom < BOM_DONE && p < end; p++) {
        if (*p != BOM[d->bom]) {
            unread_bom(d);
            break;
        }
        d->bom++;
    }
    return p;
}

int sse_init(sse_decoder *d, size_t limit)
{
    memset(d, 0, offsetof(sse_decoder, spans));
    d->limit = limit;
    return limit && limit <= SSE_MAX_LIMIT ? 0 : fail(d, SSE_E_MISUSE);
}

void sse_attach(sse_decoder *d, uint8_t *room, size_t size)
{
    size_t meta = d->meta_base + d->meta;
    if (meta)
        memmove(room + size - meta, room + d->room_size - meta, meta);
    d->room = room;
    d->room_size = size;
}

int sse_feed(sse_decoder *d, const uint8_t *chunk, size_t len)
{
    d->n_spans = d->n_pieces = d->first_carried = 0;
    if (d->error)
        return d->error;
    if (len > SSE_MAX_READ)
        return SSE_E_READ_TOO_LONG;
    if (d->len && d->len != len)
        return fail(d, SSE_E_MISUSE);
    if (!len)
        return 0;
    slide_out_consumed(d);
    cursor c = {.chunk = chunk, .p = chunk + d->pos, .end = chunk + len};
    if (d->len) {
        c.lf = chunk + d->lf;
        c.cr = chunk + d->cr;
    } else {
        c.p = skip_bom(d, c.p, c.end);
        if (c.p < c.end && d->skip_lf) {
            d->skip_lf = 0;
            c.p += *c.p == '\n';
        }
        c.lf = find(c.p, c.end, '\n');
        c.cr = find(c.p, c.end, '\r');
    }

    int status = blocks(d, &c);
    if (status < 0)
        return status;
    if (status) {
        d->pos = (size_t)(c.p - chunk);
        d->lf = (size_t)(c.lf - chunk);
        d->cr = (size_t)(c.cr - chunk);
        d->len = len;
        return records(d, status);
    }
    if (chunk[len - 1] == '\r')
        d->skip_lf = 1; /* a line end at once: the frame must not wait for the next read */
    d->pos = d->len = 0;
    return records(d, 0);
}

int sse_begin(sse_decoder *d, const uint8_t *chunk, size_t len)
{
    if (d->len && !d->error)
        d->error = SSE_E_MISUSE;
    return sse_feed(d, chunk, len);
}

int sse_finish(sse_decoder *d)
{
    d->n_spans = d->n_pieces = d->first_carried = 0;
    if (d->error)
        return d->error;
    if (d->len)
        return fail(d, SSE_E_MISUSE);
    if (d->bom < BOM_DONE)
        unread_bom(d);
    slide_out_consumed(d);
    if (d->state != IN_NAME || d->name_len) {
        int status = keeps_bytes(d) ? reserve(d, 0) : 0;
        if (status)
            return records(d, status);
        if (end_line(d, 0))
            return d->error;
    }
    end_carried_block(d, 1);
    d->error = SSE_E_CLOSED;
    return records(d, 0);
}

static uint8_t *put(uint8_t *out, const void *bytes, size_t n)
{
    if (n)
        memcpy(out, bytes, n);
    return out + n;
}

static uint8_t *put_line(uint8_t *out, const char *name, size_t name_len, const uint8_t *value, size_t n)
{
    out = put(out, name, name_len);
    out = put(out, value, n);
    *out = '\n';
    return out + 1;
}

static uint8_t *put_number(uint8_t *out, uint64_t number)
{
    uint8_t digits[20];
    size_t n = sizeof digits;
    do
        digits[--n] = (uint8_t)('0' + number % 10);
    while (number /= 10);
    return put_line(out, "retry: ", 7, digits + n, sizeof digits - n);
}

ptrdiff_t sse_encode(uint8_t *out, size_t out_size, const uint8_t *event, size_t event_len, const uint8_t *data,
                     size_t data_len, const uint8_t *id, size_t id_len, uint64_t retry, int has_retry)
{
    uint8_t *w = out;
    const uint8_t *end = data + data_len;
    size_t need = SSE_FRAMING + event_len + id_len + data_len;
    for (const uint8_t *p = data; (p = find(p, end, '\n')) < end; p++)
        need += 6;
    if (out_size < need)
        return SSE_E_ROOM;
    if (event_len)
        w = put_line(w, "event: ", 7, event, event_len);
    if (id)
        w = put_line(w, "id: ", 4, id, id_len);
    if (has_retry)
        w = put_number(w, retry);
    for (const uint8_t *p = data, *e;; p = e + 1) {
        e = find(p, end, '\n');
        w = put_line(w, "data: ", 6, p, (size_t)(e - p));
        if (e == end)
            break;
    }
    *w++ = '\n';
    return w - out;
}

ptrdiff_t sse_encode_lines(uint8_t *out, size_t out_size, const uint8_t *head, size_t head_len, uint64_t first,
                           const uint8_t *lines, size_t lines_len)
{
    uint8_t *w = out;
    const uint8_t *end = lines + lines_len;
    for (const uint8_t *p = lines, *e; p < end; p = e + 1) {
        e = find(p, end, '\n');
        size_t size = (size_t)(e - p), left = out_size - (size_t)(w - out);
        if (left < SSE_NUMBERED + head_len + size + 1)
            return SSE_E_ROOM;
        memcpy(w, head, head_len);
        w += head_len;
        uint8_t digits[20];
        size_t n = sizeof digits;
        uint64_t number = first++;
        do
            digits[--n] = (uint8_t)('0' + number % 10);
        while (number /= 10);
        memcpy(w, digits + n, sizeof digits - n);
        w += sizeof digits - n;
        memcpy(w, "\ndata: ", 7);
        w += 7;
        memcpy(w, p, size);
        w += size;
        *w++ = '\n';
        *w++ = '\n';
    }
    return w - out;
}
