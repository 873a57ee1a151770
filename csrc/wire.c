#include "wire.h"

#include <errno.h>
#include <sys/socket.h>

void wire_init(wire *w, int framing, uint64_t length)
{
    body_init(&w->body, framing, length);
    w->error = 0;
    w->content = w->size = 0;
}

int wire_read(wire *w, int descriptor, sse_decoder *d)
{
    while (!w->body.status) {
        ssize_t n = recv(descriptor, w->buffer, sizeof w->buffer, 0);
        if (n <= 0) {
            w->error = n ? errno : 0;
            return !n ? WIRE_CLOSED : w->error == EINTR ? WIRE_SIGNAL : WIRE_FAILED;
        }
        w->size = body_feed(&w->body, w->buffer, (size_t)n, w->buffer);
        w->content += w->size;
        int status = sse_feed(d, w->buffer, w->size);
        if (status)
            return status;
    }
    return WIRE_OVER;
}
