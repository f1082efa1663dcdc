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

/* Run an epoch from these three numbers, or with NULL go on with the one that has paused. */
PyObject *core_run_epoch(Core *, const uint64_t number[3]);

/* module_ram.c, module_debug.c */
extern PyMethodDef core_ram_methods[], core_debug_methods[];

#endif
