#define _POSIX_C_SOURCE 200809L
#include "wire.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

static const int64_t MS = 1000000;

void wire_init(wire *w, int framing, uint64_t length)
{
    body_init(&w->body, framing, length);
    w->error = w->drained = 0;
    w->content = w->size = 0;
    w->ask_at = 0;
}

static int failed(wire *w)
{
    w->error = errno;
    return w->error == EINTR ? WIRE_SIGNAL : WIRE_FAILED;
}

/* 0 once the socket is readable, or has ended. The other descriptor first: who is told to stop reads no further. */
static int wait_for(wire *w, int descriptor, int wake, int milliseconds)
{
    struct pollfd both[2] = {{.fd = wake, .events = POLLIN}, {.fd = descriptor, .events = POLLIN}};
    int n = poll(both, 2, milliseconds);
    if (n < 0)
        return failed(w);
    if (!n)
        return WIRE_TIME;
    return both[0].revents ? WIRE_WOKEN : 0;
}

int64_t wire_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 * MS + t.tv_nsec;
}

int wire_read(wire *w, uint8_t *buffer, size_t most, int descriptor, int wake, int milliseconds, sse_decoder *d)
{
    int64_t until = wake >= 0 && milliseconds > 0 ? wire_now() + milliseconds * MS : 0, since = 0;
    for (int reads = 0; !w->body.status; reads++) {
        int64_t at = reads ? wire_now() : 0;
        if (reads >= WIRE_MOST_READS || (since && at - since > WIRE_MOST_NS))
            return WIRE_MORE;
        if (w->drained && wake < 0 && reads)
            return WIRE_BLOCKED;
        if (w->drained && wake >= 0) {
            if (reads && milliseconds > 0) /* what comes without completing an event buys no time */
                milliseconds = until > at ? (int)((until - at + MS - 1) / MS) : 0;
            int waited = wait_for(w, descriptor, wake, milliseconds);
            if (waited)
                return waited;
        }
        ssize_t n = recv(descriptor, buffer, most, MSG_DONTWAIT);
        w->drained = n < (ssize_t)most;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (wake < 0)
                return WIRE_BLOCKED;
            continue;
        }
        if (n <= 0)
            return n ? failed(w) : WIRE_CLOSED;
        w->size = body_feed(&w->body, buffer, (size_t)n, buffer);
        w->drained = w->drained && !w->body.status;
        w->content += w->size;
        int status = sse_begin(d, buffer, w->size);
        if (status)
            return status;
        since = since ? since : wire_now();
    }
    return WIRE_OVER;
}
