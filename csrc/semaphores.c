/* Threads that wait, and are woken by one that does not hold the interpreter lock.
 *
 * A thread that is woken wants that lock first thing. Woken by one that holds it, it goes to sleep for it again at once, to
 * be woken a second time: that was an eighth of what it cost to hand a token over (benchmarks/bench_crowd.py). So a loop releases
 * the semaphores of those for whom there is something when it has given up the lock anyway, to wait for what is next.
 *
 * A semaphore is binary: released twice, it lets its owner through once. It is CPython's own lock (PEP 384), which works without
 * the interpreter lock, and a flag that says whether it was released since. Only its owner acquires it.
 */
#include "functions.h"

#include <errno.h>
#include <stdatomic.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif

#include "wire.h"

typedef struct {
    PyThread_type_lock lock;
    atomic_int released; /* the lock is open, or was when its owner has come through, who will look at everything then */
} semaphore;

#define NAME "worker_adapters.semaphore"

static void destroy(PyObject *capsule)
{
    semaphore *s = PyCapsule_GetPointer(capsule, NAME);
    PyThread_free_lock(s->lock);
    PyMem_Free(s);
}

static void release(semaphore *s)
{
    if (!atomic_exchange(&s->released, 1))
        PyThread_release_lock(s->lock);
}

static PyObject *new_semaphore(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module, (void)args;
    if (!expect(n, 0))
        return NULL;
    semaphore *s = PyMem_Malloc(sizeof *s);
    PyThread_type_lock lock = s ? PyThread_allocate_lock() : NULL;
    if (!lock) {
        PyMem_Free(s);
        return PyErr_NoMemory();
    }
    PyThread_acquire_lock(lock, NOWAIT_LOCK);
    s->lock = lock;
    atomic_init(&s->released, 0);
    PyObject *capsule = PyCapsule_New(s, NAME, destroy);
    if (!capsule) {
        PyThread_free_lock(lock);
        PyMem_Free(s);
    }
    return capsule;
}

int release_at(PyObject *semaphore_)
{
    semaphore *s = PyCapsule_GetPointer(semaphore_, NAME);
    if (s)
        release(s);
    return s ? 0 : -1;
}

static PyObject *release_one(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    if (!expect(n, 1) || release_at(args[0]))
        return NULL;
    Py_RETURN_NONE;
}

/* Microseconds of a wait; those of a day or more never end, as far as anybody can tell. */
static int64_t microseconds_of(double seconds)
{
    return seconds >= 86400 ? -1 : seconds > 0 ? (int64_t)(seconds * 1e6) : 0;
}

/* One wait; whether a signal has ended it, whose handler has yet to run. */
static int is_interrupted(semaphore *s, int64_t microseconds)
{
    PyLockStatus status = PyThread_acquire_lock_timed(s->lock, 0, 0);
    if (status != PY_LOCK_ACQUIRED && microseconds) {
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(s->lock, microseconds, 1);
        Py_END_ALLOW_THREADS
    }
    if (status == PY_LOCK_ACQUIRED)
        atomic_store(&s->released, 0);
    return status == PY_LOCK_INTR;
}

int wait_at(PyObject *semaphore_, double seconds)
{
    semaphore *s = PyCapsule_GetPointer(semaphore_, NAME);
    return !s || (is_interrupted(s, microseconds_of(seconds)) && PyErr_CheckSignals()) ? -1 : 0;
}

static PyObject *acquire(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    semaphore *s = expect(n, 2) ? PyCapsule_GetPointer(args[0], NAME) : NULL;
    double seconds = s ? PyFloat_AsDouble(args[1]) : 0;
    if (PyErr_Occurred())
        return NULL;
    int64_t left = microseconds_of(seconds);
    int64_t until = left < 0 ? 0 : wire_now() + left * 1000;
    while (is_interrupted(s, left)) {
        if (PyErr_CheckSignals())
            return NULL;
        int64_t now = left < 0 ? 0 : wire_now();
        left = left < 0 ? -1 : now < until ? (until - now) / 1000 + 1 : 0;
    }
    Py_RETURN_NONE;
}

#ifdef __linux__
#define MOST_READY 256 /* the others are ready the next time */
#define MOST_RELEASED 256 /* without the interpreter lock: any more with it */

static PyObject *release_and_poll(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    int epoll = expect(n, 3) ? descriptor(args[0]) : -1;
    double seconds = PyErr_Occurred() ? 0 : PyFloat_AsDouble(args[1]);
    if (PyErr_Occurred())
        return NULL;
    if (!PyList_Check(args[2]))
        return PyErr_Format(PyExc_TypeError, "a list of semaphores is wanted");
    Py_ssize_t count = PyList_Size(args[2]);
    semaphore *released[MOST_RELEASED];
    for (Py_ssize_t i = 0; i < count; i++) { /* the caller's list keeps them */
        semaphore *s = PyCapsule_GetPointer(PyList_GetItem(args[2], i), NAME);
        if (!s)
            return NULL;
        if (i < MOST_RELEASED)
            released[i] = s;
        else
            release(s);
    }
    int64_t left = microseconds_of(seconds);
    struct epoll_event events[MOST_READY];
    int ready, error;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count && i < MOST_RELEASED; i++)
        release(released[i]);
    ready = epoll_wait(epoll, events, MOST_READY, left < 0 ? -1 : (int)((left + 999) / 1000));
    error = errno;
    Py_END_ALLOW_THREADS
    if (PyList_SetSlice(args[2], 0, count, NULL))
        return NULL;
    if (ready < 0 && error != EINTR) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *descriptors = PyList_New(ready < 0 ? 0 : ready);
    for (int i = 0; descriptors && i < ready; i++) {
        PyObject *one = PyLong_FromLong(events[i].data.fd);
        if (!one || PyList_SetItem(descriptors, i, one))
            Py_CLEAR(descriptors);
    }
    return descriptors;
}
#endif

PyMethodDef semaphore_functions[] = {
    FUNCTION("semaphore", new_semaphore),
    FUNCTION("acquire", acquire),
    FUNCTION("release", release_one),
#ifdef __linux__
    FUNCTION("release_and_poll", release_and_poll),
#endif
    {NULL, NULL, 0, NULL},
};
