/* The codec's work on a fixed input, for instructions.py to count: token-sized frames in whole reads and in reads of an Ethernet
 * segment, frames with more fields, and the chunks of an HTTP body that holds one frame each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "body.h"
#include "sse.h"

enum { FRAMES = 2000, ROOM = 1 << 20, SEGMENT = 1448 };

static uint8_t room[ROOM], out[ROOM];
static char input[ROOM];

static size_t frames(const char *format, int chunked)
{
    size_t size = 0;
    for (int i = 0; i < FRAMES; i++) {
        char frame[400];
        int n = snprintf(frame, sizeof frame, format, i);
        size += (size_t)(chunked ? sprintf(input + size, "%x\r\n%s\r\n", (unsigned)n, frame) : sprintf(input + size, "%s", frame));
    }
    return size;
}

static unsigned long fed(sse_decoder *d, size_t size, size_t read)
{
    unsigned long seen = 0;
    sse_init(d, 65536);
    sse_attach(d, room, sizeof room);
    for (size_t at = 0; at < size; at += read) {
        size_t n = size - at < read ? size - at : read;
        int status;
        do {
            status = sse_feed(d, (const uint8_t *)input + at, n);
            seen += d->n_spans + d->n_pieces;
        } while (status >= 0 && status & (SSE_AGAIN | SSE_GROW));
    }
    return seen;
}

int main(void)
{
    static const char TOKEN[] = "data: {\"id\":\"cmpl-%06d\",\"object\":\"text_completion\",\"choices\":[{\"index\":0,\"text\":\" word\","
                                "\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null,\"token_ids\":null}]}\n\n";
    static const char FIELDS[] = ": keep-alive\r\nevent: token\r\nid: %d\r\ndata: {\r\ndata: }\r\n\r\n";
    sse_decoder *d = malloc(sizeof *d);
    body_decoder b;
    unsigned long seen = 0;
    if (!d)
        return 1;
    size_t size = frames(TOKEN, 0);
    seen += fed(d, size, 65536) + fed(d, size, SEGMENT);
    size = frames(FIELDS, 0);
    seen += fed(d, size, 65536) + fed(d, size, SEGMENT);
    size = frames(TOKEN, 1);
    body_init(&b, BODY_CHUNKED, 0);
    for (size_t at = 0; at < size; at += SEGMENT)
        seen += body_feed(&b, (const uint8_t *)input + at, size - at < SEGMENT ? size - at : SEGMENT, out);
    printf("%lu\n", seen);
    free(d);
    return 0;
}
