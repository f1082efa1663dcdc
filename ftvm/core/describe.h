// SPDX-License-Identifier: GPL-2.0-or-later
/* Constants of the module that describe the machine; see describe.c. */
#ifndef FTVM_DESCRIBE_H
#define FTVM_DESCRIBE_H

#include <Python.h>

int describe(PyObject *module);

#endif
