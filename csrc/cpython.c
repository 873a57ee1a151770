#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "cpython.h"
#include "wire.h"

/* Whether the records are spans and nothing is left to do but to cut them out. */
static int only_spans(int status)
{
    return status >= 0 && (status & ~SSE_FIRST_CARRIED) <= SSE_N_SPANS_MASK;
}

static PyObject *cut(const sse_decoder *d, const uint8_t *chunk)
{
    PyObject *list = PyList_New((Py_ssize_t)d->n_spans);
    if (!list)
        return NULL;
    for (uint32_t i = 0; i < d->n_spans; i++) {
        const uint8_t *source = !i && d->first_carried ? d->room : chunk;
        uint32_t begin = d->spans[2 * i], end = d->spans[2 * i + 1];
        PyObject *data = PyBytes_FromStringAndSize((const char *)source + begin, (Py_ssize_t)(end - begin));
        if (!data || PyList_SetItem(list, (Py_ssize_t)i, data)) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
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
    if (!expect(n, 2) || PyBytes_AsStringAndSize(args[1], &chunk, &len))
        return NULL;
    sse_decoder *d = at(args[0]);
    if (!d)
        return NULL;
    int status = sse_feed(d, (const uint8_t *)chunk, (size_t)len);
    return only_spans(status) ? cut(d, (const uint8_t *)chunk) : PyLong_FromLong(status);
}

static PyObject *pull(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    if (!expect(n, 4))
        return NULL;
    wire *w = at(args[0]);
    sse_decoder *d = w ? at(args[1]) : NULL;
    long descriptor = d ? PyLong_AsLong(args[2]) : -1;
    if (PyErr_Occurred())
        return NULL;
    for (;;) {
        int status;
        Py_BEGIN_ALLOW_THREADS
        status = wire_read(w, (int)descriptor, d);
        Py_END_ALLOW_THREADS
        if (only_spans(status))
            return cut(d, w->buffer);
        if (status == WIRE_SIGNAL) {
            if (PyErr_CheckSignals())
                return NULL;
            continue;
        }
        PyObject *other = PyObject_CallFunction(args[3], "i", status);
        if (other != Py_None)
            return other;
        Py_DECREF(other);
    }
}

static PyMethodDef functions[] = {
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL, NULL},
    {"pull", (PyCFunction)(void (*)(void))pull, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

int cpython_install(const char *name)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *module = PyImport_AddModule(name);
    int failed = !module || PyModule_AddFunctions(module, functions);
    PyErr_Clear();
    PyGILState_Release(state);
    return failed ? -1 : 0;
}
