/* The hand-over of a stream's runs of events, from one producer to one consumer; may wait for the next at a semaphore.
 *
 * Each of its operations is one step for everybody else, since it keeps the interpreter lock (or locks the object, where there is
 * no such lock), but for the wait, the call of `parked`, and what dies of a run that is emptied. Whatever is done then, to
 * this hand-over too, leaves it whole. So a run is in the queue, or in the consumer's hand, or finished with, and never between.
 *
 * As a few hundred bytecodes of Python this was an eighth of what a submitted stream's token cost (benchmarks/bench_crowd.py).
 */
#include "functions.h"

#include <stdint.h>
#include <string.h>

#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030d0000
#define ALONE(self) Py_BEGIN_CRITICAL_SECTION(self)
#define NO_MORE() Py_END_CRITICAL_SECTION()
#else
#define ALONE(self) {
#define NO_MORE() }
#endif

typedef struct {
    PyObject_HEAD
    PyObject **queue; /* runs (lists), or events by themselves: from `first` on, so many */
    Py_ssize_t room, first, count;
    PyObject *run, *hand; /* what the consumer was given last: a list, and its iterator */
    Py_ssize_t in_run;    /* events of it that have yet to be counted as finished with */
    Py_ssize_t put, done; /* events handed over, and finished with */
    PyObject *waiter;     /* the semaphore of who waits within `take`, which keeps it; else NULL */
    PyObject *parked;     /* called when the consumer has finished with a run; NULL: the producer does not wait for that */
    char woken;           /* by `wake`, since it was last waited for */
} handover;

/* Made once, and never changed. */
static PyObject *LENGTH_HINT;

#define KEPT 8 /* places of a queue that is empty: a stream may be silent for minutes */

static PyObject *handover_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    if (PyTuple_Size(args) || (named && PyDict_Size(named)))
        return PyErr_Format(PyExc_TypeError, "a hand-over is made of nothing");
    return PyType_GenericAlloc(type, 0);
}

static int handover_clear(PyObject *object)
{
    handover *self = (handover *)object;
    PyObject **queue = self->queue;
    Py_ssize_t first = self->first, count = self->count;
    self->queue = NULL;
    self->room = self->first = self->count = 0;
    for (Py_ssize_t i = 0; i < count; i++)
        Py_DECREF(queue[first + i]);
    PyMem_Free(queue);
    Py_CLEAR(self->run);
    Py_CLEAR(self->hand);
    Py_CLEAR(self->parked);
    return 0;
}

static int handover_traverse(PyObject *object, visitproc visit, void *arg)
{
    handover *self = (handover *)object;
    Py_VISIT(Py_TYPE(object));
    for (Py_ssize_t i = 0; i < self->count; i++)
        Py_VISIT(self->queue[self->first + i]);
    Py_VISIT(self->run);
    Py_VISIT(self->hand);
    Py_VISIT(self->parked);
    return 0;
}

static void handover_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    handover_clear(object);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

/* Place for one more; -1 with an exception set. */
static int make_room(handover *self)
{
    if (self->first + self->count < self->room)
        return 0;
    if (self->first > self->count) {
        memmove(self->queue, self->queue + self->first, (size_t)self->count * sizeof *self->queue);
        self->first = 0;
        return 0;
    }
    Py_ssize_t room = self->room ? 2 * self->room : 4;
    PyObject **queue = PyMem_Realloc(self->queue, (size_t)room * sizeof *queue);
    if (!queue) {
        PyErr_NoMemory();
        return -1;
    }
    self->queue = queue;
    self->room = room;
    return 0;
}

static PyObject *put_alone(handover *self, PyObject *run, PyObject *released)
{
    Py_ssize_t events = PyList_Check(run) ? PyList_Size(run) : 1;
    if (make_room(self))
        return NULL;
    if (self->waiter && (released == Py_None ? release_at(self->waiter) : PyList_Append(released, self->waiter)))
        return NULL;
    self->waiter = NULL; /* told once */
    self->queue[self->first + self->count++] = Py_NewRef(run);
    self->put += events;
    return PyLong_FromSsize_t(self->put - self->done);
}

static PyObject *put(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    PyObject *ahead;
    if (!expect(n, 2))
        return NULL;
    if (args[1] != Py_None && !PyList_Check(args[1]))
        return PyErr_Format(PyExc_TypeError, "a list for semaphores is wanted, or None");
    ALONE(object)
    ahead = put_alone((handover *)object, args[0], args[1]);
    NO_MORE()
    return ahead;
}

/* Events in the consumer's hand that it has yet to receive; -1 with an exception set. */
static Py_ssize_t left_in(PyObject *hand)
{
    PyObject *left = hand ? PyObject_CallMethodObjArgs(hand, LENGTH_HINT, NULL) : NULL;
    Py_ssize_t events = left ? PyLong_AsSsize_t(left) : hand ? -1 : 0;
    Py_XDECREF(left);
    return events;
}

/* Empties it. What dies of that may be anything, and use the hand-over: so it is kept meanwhile. */
static int take_back(PyObject *run)
{
    Py_XINCREF(run);
    int failed = run ? PyList_SetSlice(run, 0, PyList_Size(run), NULL) : 0;
    Py_XDECREF(run);
    return failed;
}

/* The consumer has all of its last run, which the layers have until the next read: it is emptied. -1 with an exception set. */
static int finish(handover *self)
{
    PyObject *hand = Py_NewRef(self->hand);
    self->done += self->in_run;
    self->in_run = 0;
    int failed = take_back(self->run);
    if (!failed && self->parked) {
        PyObject *parked = Py_NewRef(self->parked);
        PyObject *told = PyObject_CallNoArgs(parked); /* marked: Python's */
        Py_DECREF(parked);
        failed = told ? 0 : -1; /* it is told again */
        Py_XDECREF(told);
    }
    if (!failed && self->hand == hand) { /* else a signal handler has read on */
        Py_CLEAR(self->run);
        Py_CLEAR(self->hand);
    }
    Py_DECREF(hand);
    return failed;
}

/* What was given before counts as finished with, once it was received. Whether there is some of it left; -1. */
static int settle(handover *self)
{
    while (self->hand) { /* once, unless somebody has read on while it was finished with */
        Py_ssize_t left = left_in(self->hand);
        if (left)
            return left > 0 ? 1 : -1;
        if (finish(self))
            return -1;
    }
    return 0;
}

/* The next run, in the consumer's hand now. NULL: there is none, or an exception is set. */
static PyObject *next_hand(handover *self)
{
    if (!self->count)
        return NULL;
    PyObject *front = self->queue[self->first], *run = front, *hand;
    if (PyList_Check(front))
        Py_INCREF(run);
    else if (!(run = PyList_New(0)) || PyList_Append(run, front)) {
        Py_XDECREF(run);
        return NULL;
    }
    if (!(hand = PyObject_GetIter(run))) {
        Py_DECREF(run);
        return NULL;
    }
    self->first++;
    if (!--self->count) {
        self->first = 0;
        if (self->room > KEPT) {
            PyMem_Free(self->queue);
            self->queue = NULL;
            self->room = 0;
        }
    }
    self->in_run = PyList_Size(run);
    self->run = run;
    self->hand = hand;
    Py_DECREF(front);
    return Py_NewRef(hand);
}

static PyObject *take_alone(handover *self, PyObject *waiter, double seconds)
{
    int left = settle(self);
    if (left < 0)
        return NULL;
    if (!left && !self->count && !self->woken && waiter != Py_None && seconds > 0) {
        self->waiter = waiter;
        int failed = wait_at(waiter, seconds); /* marked: others go on, and a signal's handler may run */
        self->waiter = NULL;
        if (failed || (left = settle(self)) < 0)
            return NULL;
    }
    self->woken = 0;
    PyObject *hand = left ? Py_NewRef(self->hand) : next_hand(self);
    return hand || PyErr_Occurred() ? hand : Py_NewRef(Py_None);
}

static PyObject *take(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    PyObject *hand;
    double seconds = expect(n, 2) ? PyFloat_AsDouble(args[1]) : 0;
    if (PyErr_Occurred())
        return NULL;
    ALONE(object)
    hand = take_alone((handover *)object, args[0], seconds);
    NO_MORE()
    return hand;
}

static PyObject *finished(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    (void)args;
    int failed;
    handover *self = (handover *)object;
    if (!expect(n, 0))
        return NULL;
    ALONE(object)
    failed = settle(self) < 0;
    NO_MORE()
    return failed ? NULL : PyBool_FromLong(self->count > 0);
}

static PyObject *wake(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    (void)args;
    handover *self = (handover *)object;
    int failed;
    if (!expect(n, 0))
        return NULL;
    ALONE(object)
    self->woken = 1;
    failed = self->waiter && release_at(self->waiter);
    NO_MORE()
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *clear(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    (void)args;
    int failed;
    if (!expect(n, 0))
        return NULL;
    ALONE(object)
    failed = take_back(((handover *)object)->run);
    NO_MORE()
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *received(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    (void)args;
    Py_ssize_t left, events;
    handover *self = (handover *)object;
    if (!expect(n, 0))
        return NULL;
    ALONE(object)
    left = left_in(self->hand);
    events = self->done + self->in_run - left;
    NO_MORE()
    return left < 0 ? NULL : PyLong_FromSsize_t(events);
}

static PyObject *queued(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    (void)args;
    PyObject *list;
    handover *self = (handover *)object;
    if (!expect(n, 0))
        return NULL;
    ALONE(object)
    list = PyList_New(self->count);
    for (Py_ssize_t i = 0; list && i < self->count; i++)
        PyList_SetItem(list, i, Py_NewRef(self->queue[self->first + i]));
    NO_MORE()
    return list;
}

static PyObject *get_ahead(PyObject *object, void *closure)
{
    (void)closure;
    handover *self = (handover *)object;
    return PyLong_FromSsize_t(self->put - self->done);
}

static PyObject *get_parked(PyObject *object, void *closure)
{
    (void)closure;
    PyObject *parked = ((handover *)object)->parked;
    return Py_NewRef(parked ? parked : Py_None);
}

static int set_parked(PyObject *object, PyObject *value, void *closure)
{
    (void)closure;
    handover *self = (handover *)object;
    PyObject *before = self->parked;
    self->parked = value && value != Py_None ? Py_NewRef(value) : NULL;
    Py_XDECREF(before);
    return 0;
}

static Py_ssize_t length(PyObject *object)
{
    return ((handover *)object)->count;
}

static PyMethodDef methods[] = {
    FUNCTION("put", put),
    FUNCTION("take", take),
    FUNCTION("finished", finished),
    FUNCTION("wake", wake),
    FUNCTION("clear", clear),
    FUNCTION("received", received),
    FUNCTION("queued", queued),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"ahead", get_ahead, NULL, NULL, NULL},
    {"parked", get_parked, set_parked, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ISO C has no functions behind void pointers, CPython has. */
#define SLOT(function) ((void *)(uintptr_t)(function))

static PyType_Slot slots[] = {
    {Py_tp_new, SLOT(handover_new)},
    {Py_tp_dealloc, SLOT(handover_dealloc)},
    {Py_tp_traverse, SLOT(handover_traverse)},
    {Py_tp_clear, SLOT(handover_clear)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_mp_length, SLOT(length)},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "worker_adapters.codec.Handover",
    .basicsize = sizeof(handover),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyObject *handover_type(void)
{
    LENGTH_HINT = LENGTH_HINT ? LENGTH_HINT : PyUnicode_InternFromString("__length_hint__");
    return LENGTH_HINT ? PyType_FromSpec(&spec) : NULL;
}
