// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the core's own tables say, as Python tuples: the machine's reference page is made from them.
 *
 *   WINDOWS    ((base, size), ...)
 *   FIRMWARE   ((extension, name, ((function's name, what it does), ...)), ...)
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "describe.h"
#include "hart.h"

/* A tuple of what `item` makes of 0, 1, ... until it returns NULL, without an error if that was the end. */
static PyObject *tuple_of(PyObject *(*item)(unsigned index, const void *of), const void *of)
{
    PyObject *list = PyList_New(0), *next;
    for (unsigned index = 0; list && (next = item(index, of)); index++) {
        if (PyList_Append(list, next))
            Py_CLEAR(list);
        Py_DECREF(next);
    }
    PyObject *tuple = list && !PyErr_Occurred() ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return tuple;
}

static PyObject *window(unsigned index, const void *of)
{
    (void)of;
    const struct window *found = mmio_window(index);
    return found ? Py_BuildValue("(KK)", (unsigned long long)found->base, (unsigned long long)found->size) : NULL;
}

static PyObject *function(unsigned index, const void *of)
{
    const struct sbi_function *functions = of;
    bool there = index < SBI_FUNCTIONS_MAX && functions[index].name;
    return there ? Py_BuildValue("(ss)", functions[index].name, functions[index].does) : NULL;
}

static PyObject *extension(unsigned index, const void *of)
{
    (void)of;
    uint64_t id;
    const char *name;
    const struct sbi_function *functions = sbi_functions(index, &id, &name);
    PyObject *described = functions ? tuple_of(function, functions) : NULL;
    return described ? Py_BuildValue("(KsN)", (unsigned long long)id, name, described) : NULL;
}

static int add(PyObject *module, const char *name, PyObject *value)
{
    int failed = value ? PyModule_AddObjectRef(module, name, value) : -1;
    Py_XDECREF(value);
    return failed;
}

int describe(PyObject *module)
{
    return add(module, "WINDOWS", tuple_of(window, NULL)) || add(module, "FIRMWARE", tuple_of(extension, NULL)) ? -1 : 0;
}
