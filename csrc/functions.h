/* What functions of CPython's C API, in the limited one, have in common (cpython.h says which there are). */
#ifndef WORKER_ADAPTERS_FUNCTIONS_H
#define WORKER_ADAPTERS_FUNCTIONS_H

#define PY_SSIZE_T_CLEAN
#include <pyconfig.h>
#ifndef Py_GIL_DISABLED /* free-threaded Pythons have none: build_native.py */
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>
#include <limits.h>

#define FUNCTION(name, function) {name, (PyCFunction)(void (*)(void))(function), METH_FASTCALL, NULL}

static inline int expect(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments are wanted, not %zd", wanted, given);
    return given == wanted;
}

/* -1 if there is none; with an exception set, if that is no int. */
static inline int descriptor(PyObject *number)
{
    long value = PyLong_AsLong(number);
    if (value > INT_MAX) /* a cast would make it another one */
        PyErr_SetString(PyExc_OverflowError, "a descriptor is an int of C");
    return value < 0 || value > INT_MAX ? -1 : (int)value;
}

extern PyMethodDef semaphore_functions[];

/* Waits at a semaphore, once: until it is released, a signal was handled, or that many seconds have passed. -1: an exception. */
int wait_at(PyObject *semaphore, double seconds);
/* -1 with an exception set: that is no semaphore. */
int release_at(PyObject *semaphore);

/* A new reference to the type of handover.c, or NULL with an exception set. */
PyObject *handover_type(void);

#endif
