#define PY_SSIZE_T_CLEAN
#include <pyconfig.h>
#ifndef Py_GIL_DISABLED /* free-threaded Pythons have none: build_native.py */
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>
#include <limits.h>

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

static int expect(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments are wanted, not %zd", wanted, given);
    return given == wanted;
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

/* For reads that never wait: they hold the interpreter lock throughout, and nothing is in here once a call of pull has returned,
 * or calls back; where there is no such lock, each thread has one of its own. Who waits brings the thread's own buffer. It is
 * all that these sources have of static state that changes. */
#ifdef Py_GIL_DISABLED
static _Thread_local uint8_t shared[WIRE_READ];
#else
static uint8_t shared[WIRE_READ];
#endif

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

/* -1 if there is none; with an exception set, if that is no int. */
static int descriptor(PyObject *number)
{
    long value = PyLong_AsLong(number);
    if (value > INT_MAX) /* a cast would make it another one */
        PyErr_SetString(PyExc_OverflowError, "a descriptor is an int of C");
    return value < 0 || value > INT_MAX ? -1 : (int)value;
}

static PyObject *pull(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    if (!expect(n, 7))
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
            status = wire_read(w, buffer, from, -1, 0, d);
        else {
            /* What they said last holds, unless they say otherwise: content only puts them off. */
            int due = asked ? 0 : w->ask_at <= began ? 1 : is_retimed(args[4]);
            if (due < 0 || (due && ask_timers(w, args[4], began)))
                break;
            asked = asked || due;
            int milliseconds = milliseconds_until(w->ask_at);
            Py_BEGIN_ALLOW_THREADS
            status = wire_read(w, buffer, from, wake, milliseconds, d);
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

static PyMethodDef functions[] = {
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL, NULL},
    {"pull", (PyCFunction)(void (*)(void))pull, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

int cpython_install(const char *name)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *module = PyDict_GetItemString(PyImport_GetModuleDict(), name); /* absent in a subinterpreter's parent */
    RETIMED = RETIMED ? RETIMED : PyUnicode_InternFromString("retimed");
    PATIENCE = PATIENCE ? PATIENCE : PyUnicode_InternFromString("patience");
    int failed = !module || !RETIMED || !PATIENCE || PyModule_AddFunctions(module, functions);
    PyErr_Clear();
    PyGILState_Release(state);
    return failed ? -1 : 0;
}
