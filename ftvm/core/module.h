// SPDX-License-Identifier: GPL-2.0-or-later
/* The Python object, for the files that hold its methods. */
#ifndef FTVM_MODULE_H
#define FTVM_MODULE_H

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include "hart.h"

typedef struct {
    PyObject_HEAD
    struct hart *hart;
    PyObject *mmio_read, *mmio_write, *sbi;
    PyObject *error_type, *error_value, *error_trace;
    PyThreadState *thread;
    bool running;
} Core;

/* The hart, or NULL with an exception: closed, or (for what must not happen inside a callback) running. */
struct hart *core_open(Core *);
struct hart *core_resting(Core *);

/* module_ram.c */
extern PyMethodDef core_ram_methods[];

#endif
