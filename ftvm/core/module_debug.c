// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The methods of `ftvm._hart.Core` that a debugger uses; ftvm/hart.py documents them. All are for a hart that was made for
 * debugging, except `translate`.
 */
#include "module.h"

static struct hart *debugged_hart(Core *self)
{
    struct hart *h = core_resting(self);
    if (h && !h->debug.on) {
        PyErr_SetString(PyExc_RuntimeError, "this hart was not made for debugging");
        return NULL;
    }
    return h;
}

static PyObject *Core_pause_at(Core *self, PyObject *clock)
{
    struct hart *h = debugged_hart(self);
    if (!h)
        return NULL;
    uint64_t pause = clock == Py_None ? NEVER : PyLong_AsUnsignedLongLong(clock);
    if (PyErr_Occurred())
        return NULL;
    h->debug.pause = pause;
    Py_RETURN_NONE;
}

static PyObject *Core_resume(Core *self, PyObject *unused)
{
    struct hart *h = debugged_hart(self);
    if (!h)
        return NULL;
    if (!h->paused) {
        PyErr_SetString(PyExc_RuntimeError, "the hart has not paused: there is nothing to resume");
        return NULL;
    }
    return core_run_epoch(self, NULL);
}

static PyObject *Core_cut(Core *self, PyObject *unused)
{
    struct hart *h = debugged_hart(self);
    if (!h)
        return NULL;
    if (!h->paused) {
        PyErr_SetString(PyExc_RuntimeError, "the hart has not paused: there is no epoch to cut");
        return NULL;
    }
    hart_cut_epoch(h);
    Py_RETURN_NONE;
}

/* breakpoints(addresses: list[int], record: bool) */
static PyObject *Core_breakpoints(Core *self, PyObject *args)
{
    PyObject *list;
    int record;
    struct hart *h = debugged_hart(self);
    if (!h || !PyArg_ParseTuple(args, "O!p", &PyList_Type, &list, &record))
        return NULL;
    size_t count = (size_t)PyList_GET_SIZE(list);
    uint64_t *addresses = PyMem_Calloc(count + 1, sizeof *addresses);
    if (!addresses)
        return PyErr_NoMemory();
    for (size_t i = 0; i < count && !PyErr_Occurred(); i++)
        addresses[i] = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(list, (Py_ssize_t)i));
    bool done = !PyErr_Occurred() && debug_set_breakpoints(h, addresses, count, record);
    PyMem_Free(addresses);
    if (PyErr_Occurred())
        return NULL;
    if (!done)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* watch(ranges: list[tuple[int, int, int]]): physical address, length, 1 reads | 2 writes; an empty list ends all watching */
static PyObject *Core_watch(Core *self, PyObject *args)
{
    PyObject *list;
    struct hart *h = debugged_hart(self);
    if (!h || !PyArg_ParseTuple(args, "O!", &PyList_Type, &list))
        return NULL;
    debug_unwatch(h);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        unsigned long long first, length;
        unsigned access;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, i), "KKI", &first, &length, &access))
            return NULL;
        if (!in_ram(h, first) || !length || length > h->ram_size - (first - RAM_BASE) || !access || access > 3)
            return PyErr_Format(PyExc_ValueError, "%llu bytes at physical address 0x%llx cannot be watched: that is not RAM",
                                length, first);
        if (!debug_watch(h, first, length, access))
            return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

/* All hits since the last call, in order: list[tuple[clock, address, value, size, kind]]. Of very many, those in the middle are missing. */
static PyObject *Core_hits(Core *self, PyObject *unused)
{
    struct hart *h = debugged_hart(self);
    if (!h)
        return NULL;
    debug_confirm(h);
    struct list *hits = &h->debug.hits;
    PyObject *result = PyList_New((Py_ssize_t)(hits->count / HIT_WORDS));
    for (size_t i = 0; result && i < hits->count / HIT_WORDS; i++) {
        const uint64_t *word = hits->items + i * HIT_WORDS;
        PyObject *item = Py_BuildValue("KKKKK", word[0], word[1], word[2], word[3] >> 8, word[3] & 255);
        if (item)
            PyList_SET_ITEM(result, (Py_ssize_t)i, item);
        else
            Py_CLEAR(result);
    }
    hits->count = 0;
    return result;
}

/* The physical address behind a virtual one, by the present page tables; None. Changes nothing. */
static PyObject *Core_translate(Core *self, PyObject *number)
{
    struct hart *h = core_resting(self);
    if (!h)
        return NULL;
    uint64_t address = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred())
        return NULL;
    struct view view;
    struct translation to;
    fill_view(h, &view);
    view.priv = SUPERVISOR;  /* who, with these bits, may read everything that is mapped */
    view.status |= SSTATUS_SUM | SSTATUS_MXR;
    if (walk(h, &view, address, ACCESS_READ, false, &to))
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(to.physical);
}

PyMethodDef core_debug_methods[] = {
    {"pause_at", (PyCFunction)Core_pause_at, METH_O, NULL},
    {"resume", (PyCFunction)Core_resume, METH_NOARGS, NULL},
    {"cut", (PyCFunction)Core_cut, METH_NOARGS, NULL},
    {"breakpoints", (PyCFunction)Core_breakpoints, METH_VARARGS, NULL},
    {"watch", (PyCFunction)Core_watch, METH_VARARGS, NULL},
    {"hits", (PyCFunction)Core_hits, METH_NOARGS, NULL},
    {"translate", (PyCFunction)Core_translate, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
