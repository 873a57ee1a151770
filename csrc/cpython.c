#include "functions.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "cpython.h"
#include "wire.h"

/* Whether the records are spans alone; there may be more to come (SSE_AGAIN). */
static int only_spans(int status)
{
    return status >= 0 && (status & ~(SSE_FIRST_CARRIED | SSE_AGAIN)) <= SSE_N_SPANS_MASK;
}

static int cut(const sse_decoder *d, const uint8_t *chunk, PyObject *list)
{
    for (uint32_t i = 0; i < d->n_spans; i++) {
        const uint8_t *source = !i && d->first_carried ? d->room : chunk;
        uint32_t begin = d->spans[2 * i], end = d->spans[2 * i + 1];
        PyObject *data = PyBytes_FromStringAndSize((const char *)source + begin, (Py_ssize_t)(end - begin));
        int failed = !data || PyList_Append(list, data);
        Py_XDECREF(data);
        if (failed)
            return -1;
    }
    return 0;
}

/* Appends the plain frames of a chunk whose sse_begin returned status. Returns what the caller has to see to: 0, or the
 * status of the call that left other records; -1 with an exception set is told by PyErr_Occurred. */
static int plain(sse_decoder *d, const uint8_t *chunk, size_t len, int status, PyObject *list)
{
    while (only_spans(status)) {
        if (cut(d, chunk, list))
            return -1;
        if (!(status & SSE_AGAIN))
            return 0;
        status = sse_feed(d, chunk, len);
    }
    return status;
}

/* A struct of the caller's, by its address. */
static void *at(PyObject *address)
{
    void *p = PyLong_AsVoidPtr(address);
    if (!p && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "an address is wanted, not 0");
    return p;
}

static PyObject *take(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    char *chunk;
    Py_ssize_t len;
    if (!expect(n, 3) || PyBytes_AsStringAndSize(args[1], &chunk, &len))
        return NULL;
    sse_decoder *d = at(args[0]);
    if (!d)
        return NULL;
    const uint8_t *bytes = (const uint8_t *)chunk;
    int status = plain(d, bytes, (size_t)len, sse_begin(d, bytes, (size_t)len), args[2]);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(status);
}

/* For reads that never wait: they hold the interpreter lock throughout, and nothing is in here once a call has returned,
 * or calls back; where there is no such lock, each thread has one of its own. Who waits brings the thread's own buffer. It and
 * how much of it a pull may fill are all that these sources have of static state that changes. */
#ifdef Py_GIL_DISABLED
static _Thread_local uint8_t shared[WIRE_READ];
#else
static uint8_t shared[WIRE_READ];
#endif
static atomic_size_t most = WIRE_READ;

static PyObject *read_at_most(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    size_t bytes = expect(n, 1) ? PyLong_AsSize_t(args[0]) : 0;
    if (PyErr_Occurred())
        return NULL;
    if (!bytes || bytes > WIRE_READ)
        return PyErr_Format(PyExc_ValueError, "a read is of 1 to %d bytes", WIRE_READ);
    atomic_store(&most, bytes);
    Py_RETURN_NONE;
}

/* The names that are looked up for every wait; made once, and never changed. */
static PyObject *RETIMED, *PATIENCE;

static int is_retimed(PyObject *timers)
{
    PyObject *answer = PyObject_GetAttr(timers, RETIMED);
    int truth = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return truth;
}

/* Has the timers say how long a wait may take that began at that time. -1 with an exception set. */
static int ask_timers(wire *w, PyObject *timers, int64_t began)
{
    int64_t at = wire_now();
    PyObject *waited = PyFloat_FromDouble((double)(at - began) / 1e9);
    PyObject *answer = waited ? PyObject_CallMethodObjArgs(timers, PATIENCE, waited, NULL) : NULL;
    double seconds = answer ? PyFloat_AsDouble(answer) : -1;
    Py_XDECREF(waited);
    Py_XDECREF(answer);
    w->ask_at = !(seconds > 0) ? at : seconds > 1e6 ? INT64_MAX : at + (int64_t)(seconds * 1e9);
    return PyErr_Occurred() ? -1 : 0;
}

static int milliseconds_until(int64_t time)
{
    int64_t left = time - wire_now();
    return time == INT64_MAX ? -1 : left > 0 ? (int)(left / 1000000) + 1 : 0;
}

/* What a read of another kind than plain frames is told as. Its content is copied before anything of Python's runs: that may
 * read another stream into the same buffer. The timers are looked at next, and know from when on they run. */
static PyObject *ask(PyObject *const *args, int status, wire *w, const uint8_t *buffer, PyObject *list, int asked,
                     int64_t began)
{
    PyObject *content = PyBytes_FromStringAndSize((const char *)buffer, (Py_ssize_t)(status > WIRE_CLOSED ? w->size : 0));
    PyObject *answer = NULL;
    if (content && (asked || !ask_timers(w, args[4], began)))
        answer = PyObject_CallFunction(args[5], "iOO", status, content, list);
    Py_XDECREF(content);
    return answer;
}

#define PULL_ARGUMENTS 7

static PyObject *pull(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    if (!expect(n, PULL_ARGUMENTS))
        return NULL;
    wire *w = at(args[0]);
    sse_decoder *d = w ? at(args[1]) : NULL;
    int from = d ? descriptor(args[2]) : -1;
    int wake = PyErr_Occurred() ? -1 : descriptor(args[3]);
    uint8_t *buffer = PyErr_Occurred() ? NULL : wake < 0 ? shared : at(args[6]);
    PyObject *list = PyErr_Occurred() ? NULL : PyList_New(0);
    int64_t began = wake < 0 ? 0 : wire_now();
    int asked = wake < 0; /* since it was last returned to, or called */
    while (list) {
        int status;
        if (wake < 0) /* not worth a turn at the interpreter lock: it is over at once */
            status = wire_read(w, buffer, atomic_load(&most), from, -1, 0, d);
        else {
            /* What they said last holds, unless they say otherwise: content only puts them off. */
            int due = asked ? 0 : w->ask_at <= began ? 1 : is_retimed(args[4]);
            if (due < 0 || (due && ask_timers(w, args[4], began)))
                break;
            asked = asked || due;
            int milliseconds = milliseconds_until(w->ask_at);
            Py_BEGIN_ALLOW_THREADS
            status = wire_read(w, buffer, WIRE_READ, from, wake, milliseconds, d);
            Py_END_ALLOW_THREADS
        }
        if ((status == WIRE_SIGNAL || status == WIRE_TIME) && PyErr_CheckSignals())
            break;
        int early = status == WIRE_TIME && !asked;
        if (status == WIRE_SIGNAL || early) {
            w->ask_at = asked = 0;
            continue;
        }
        status = plain(d, buffer, w->size, status, list);
        if (PyErr_Occurred())
            break;
        if (!status)
            return list;
        PyObject *answer = ask(args, status, w, buffer, list, asked, began);
        if (!answer)
            break;
        if (answer != Py_None) {
            Py_DECREF(list);
            return answer;
        }
        Py_DECREF(answer);
        w->ask_at = 0;
        asked = wake < 0;
    }
    Py_XDECREF(list);
    return NULL;
}

/* A call without arguments: pull with those that were given to puller. */
static PyObject *pull_on(PyObject *given, PyObject *none)
{
    (void)none;
    PyObject *args[PULL_ARGUMENTS];
    for (Py_ssize_t i = 0; i < PULL_ARGUMENTS; i++)
        args[i] = PyTuple_GetItem(given, i);
    return pull(NULL, args, PULL_ARGUMENTS);
}

static PyMethodDef pull_method = {"pull", pull_on, METH_NOARGS, NULL};

static PyObject *puller(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    PyObject *given = expect(n, PULL_ARGUMENTS) ? PyTuple_New(n) : NULL;
    for (Py_ssize_t i = 0; given && i < n; i++)
        PyTuple_SetItem(given, i, Py_NewRef(args[i]));
    PyObject *function = given ? PyCFunction_New(&pull_method, given) : NULL;
    Py_XDECREF(given);
    return function;
}

/* More than that is copied into the kernel, or out of it, while others run. */
#define COPIED_AT_ONCE 65536

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static int would_block(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

static PyObject *receive(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    int from = expect(n, 2) ? descriptor(args[0]) : -1;
    size_t size = PyErr_Occurred() ? 0 : PyLong_AsSize_t(args[1]);
    if (PyErr_Occurred())
        return NULL;
    ssize_t came = recv(from, shared, size < sizeof shared ? size : sizeof shared, MSG_DONTWAIT);
    if (came >= 0)
        return PyBytes_FromStringAndSize((const char *)shared, came);
    if (would_block(errno))
        Py_RETURN_NONE;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *transmit(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    int to = expect(n, 2) ? descriptor(args[0]) : -1;
    Py_buffer data;
    if (PyErr_Occurred() || PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE))
        return NULL;
    ssize_t sent;
    if (data.len <= COPIED_AT_ONCE)
        sent = send(to, data.buf, (size_t)data.len, MSG_DONTWAIT | MSG_NOSIGNAL);
    else {
        Py_BEGIN_ALLOW_THREADS
        sent = send(to, data.buf, (size_t)data.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        Py_END_ALLOW_THREADS
    }
    int error = errno;
    PyBuffer_Release(&data);
    if (sent >= 0 || would_block(error))
        return PyLong_FromSsize_t(sent < 0 ? 0 : sent);
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *is_silent(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    int from = expect(n, 1) ? descriptor(args[0]) : -1;
    if (PyErr_Occurred())
        return NULL;
    uint8_t first;
    return PyBool_FromLong(recv(from, &first, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && would_block(errno));
}

static PyObject *content(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    char *raw;
    Py_ssize_t len;
    if (!expect(n, 2) || PyBytes_AsStringAndSize(args[1], &raw, &len))
        return NULL;
    wire *w = at(args[0]);
    if (!w)
        return NULL;
    int fits = (size_t)len <= sizeof shared;
    uint8_t *out = fits ? shared : PyMem_Malloc((size_t)len);
    if (!out)
        return PyErr_NoMemory();
    size_t written = body_feed(&w->body, (const uint8_t *)raw, (size_t)len, out);
    w->content += written;
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)out, (Py_ssize_t)written);
    if (!fits)
        PyMem_Free(out);
    return bytes;
}

static PyObject *begin_body(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    wire *w = expect(n, 3) ? at(args[0]) : NULL;
    long framing = w ? PyLong_AsLong(args[1]) : -1;
    unsigned long long length = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(args[2]);
    if (PyErr_Occurred())
        return NULL;
    wire_init(w, (int)framing, length);
    Py_RETURN_NONE;
}

static PyObject *begin_events(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    sse_decoder *d = expect(n, 2) ? at(args[0]) : NULL;
    size_t limit = d ? PyLong_AsSize_t(args[1]) : 0;
    if (PyErr_Occurred())
        return NULL;
    sse_init(d, limit);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    FUNCTION("take", take),
    FUNCTION("pull", pull),
    FUNCTION("puller", puller),
    FUNCTION("read_at_most", read_at_most),
    FUNCTION("begin_body", begin_body),
    FUNCTION("begin_events", begin_events),
    FUNCTION("content", content),
    FUNCTION("receive", receive),
    FUNCTION("transmit", transmit),
    FUNCTION("is_silent", is_silent),
    {NULL, NULL, 0, NULL},
};

int cpython_install(const char *name)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *module = PyDict_GetItemString(PyImport_GetModuleDict(), name); /* absent in a subinterpreter's parent */
    RETIMED = RETIMED ? RETIMED : PyUnicode_InternFromString("retimed");
    PATIENCE = PATIENCE ? PATIENCE : PyUnicode_InternFromString("patience");
    PyObject *type = module ? handover_type() : NULL;
    int failed = !type || !RETIMED || !PATIENCE || PyModule_AddFunctions(module, functions)
        || PyModule_AddFunctions(module, semaphore_functions) || PyModule_AddObjectRef(module, "Handover", type);
    Py_XDECREF(type);
    PyErr_Clear();
    PyGILState_Release(state);
    return failed ? -1 : 0;
}
