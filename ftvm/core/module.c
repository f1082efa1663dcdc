// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The Python type `ftvm._hart.Core`: a thin shell around `struct hart`. ftvm/hart.py is its only user and documents it.
 *
 * The interpreter lock is released while the engine runs and taken again around each callback. An exception in a
 * callback is kept, the epoch ends at the next block entry, and run() raises it; further callbacks are not made until
 * then. The object lends its RAM through the buffer protocol; RAM is unmapped when the last view of it is gone.
 */
#include "module.h"

#include "describe.h"

#define SAVE_MAGIC UINT64_C(0x54524148564d5446) /* "FTVMHART" */
#define SAVE_VERSION 1

struct hart *core_open(Core *self)
{
    if (!self->hart || !self->hart->uc) {
        PyErr_SetString(PyExc_ValueError, "this hart is closed");
        return NULL;
    }
    return self->hart;
}

/* For what must not happen inside a callback. */
struct hart *core_resting(Core *self)
{
    if (self->running) {
        PyErr_SetString(PyExc_RuntimeError, "not while the hart runs: only between epochs");
        return NULL;
    }
    return core_open(self);
}

/* For what must not happen in the middle of an epoch either, where a debugger may have paused. */
static struct hart *whole_hart(Core *self)
{
    struct hart *h = core_resting(self);
    if (h && h->paused) {
        PyErr_SetString(PyExc_RuntimeError, "not while the hart has paused inside an epoch: resume, or restore a state");
        return NULL;
    }
    return h;
}

/* Callbacks: entered with the lock released. */

static void keep_error(Core *self)
{
    PyErr_Fetch(&self->error_type, &self->error_value, &self->error_trace);
    hart_stop(self->hart);
}

static PyObject *call(Core *self, PyObject *callable, PyObject *const *args, size_t count)
{
    PyObject *result = NULL;
    bool whole = true;
    for (size_t i = 0; i < count; i++)
        whole = whole && args[i];
    if (whole)
        result = PyObject_Vectorcall(callable, args, count, NULL);
    for (size_t i = 0; i < count; i++)
        Py_XDECREF(args[i]);
    return result;
}

static bool enter_python(Core *self)
{
    PyEval_RestoreThread(self->thread);
    return !self->error_type;
}

static void leave_python(Core *self)
{
    self->thread = PyEval_SaveThread();
}

static uint64_t on_mmio_read(struct hart *h, uint64_t address, unsigned size)
{
    Core *self = h->up.owner;
    uint64_t value = 0;
    if (enter_python(self)) {
        PyObject *args[] = {PyLong_FromUnsignedLongLong(address), PyLong_FromUnsignedLong(size)};
        PyObject *result = call(self, self->mmio_read, args, 2);
        if (result)
            value = PyLong_AsUnsignedLongLongMask(result);
        Py_XDECREF(result);
        if (PyErr_Occurred()) {
            keep_error(self);
            value = 0;
        }
    }
    leave_python(self);
    return value;
}

static void on_mmio_write(struct hart *h, uint64_t address, unsigned size, uint64_t value)
{
    Core *self = h->up.owner;
    if (enter_python(self)) {
        PyObject *args[] = {PyLong_FromUnsignedLongLong(address), PyLong_FromUnsignedLong(size),
                            PyLong_FromUnsignedLongLong(value)};
        PyObject *result = call(self, self->mmio_write, args, 3);
        Py_XDECREF(result);
        if (!result)
            keep_error(self);
    }
    leave_python(self);
}

static PyObject *six_numbers(const uint64_t args[6])
{
    PyObject *tuple = PyTuple_New(6);
    for (int i = 0; tuple && i < 6; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(args[i]);
        if (!number)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, number);
    }
    return tuple;
}

static void take_pair(PyObject *pair, uint64_t result[2])
{
    if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
        PyErr_SetString(PyExc_TypeError, "the sbi callback must return (error, value)");
        return;
    }
    for (int i = 0; i < 2 && !PyErr_Occurred(); i++)
        result[i] = PyLong_AsUnsignedLongLongMask(PyTuple_GET_ITEM(pair, i));
}

static void on_sbi(struct hart *h, uint64_t extension, uint64_t function, const uint64_t numbers[6], uint64_t result[2])
{
    Core *self = h->up.owner;
    if (enter_python(self)) {
        PyObject *args[] = {PyLong_FromUnsignedLongLong(extension), PyLong_FromUnsignedLongLong(function),
                            six_numbers(numbers)};
        PyObject *pair = call(self, self->sbi, args, 3);
        if (pair)
            take_pair(pair, result);
        Py_XDECREF(pair);
        if (PyErr_Occurred())
            keep_error(self);
    }
    leave_python(self);
}

/* Life. */

static int Core_init(Core *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"ram_size", "mmio_read", "mmio_write", "sbi", "clock_hook", "debug", NULL};
    unsigned long long ram_size;
    PyObject *read, *write, *sbi;
    int clock_hook = 1, debug = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "KOOO|pp", names, &ram_size, &read, &write, &sbi, &clock_hook,
                                     &debug))
        return -1;
    if (self->hart) {
        PyErr_SetString(PyExc_RuntimeError, "this hart is initialised already");
        return -1;
    }
    if (ram_size == 0 || ram_size % (1 << 20) || ram_size > UINT64_C(64) << 30) {
        PyErr_Format(PyExc_ValueError, "RAM of %llu bytes: it must be a whole number of MiB, at most 64 GiB", ram_size);
        return -1;
    }
    self->mmio_read = Py_NewRef(read);
    self->mmio_write = Py_NewRef(write);
    self->sbi = Py_NewRef(sbi);
    struct upcalls up = {on_mmio_read, on_mmio_write, on_sbi, self};
    self->hart = hart_new(ram_size, &up, clock_hook, debug);
    if (!self->hart) {
        PyErr_SetString(PyExc_MemoryError, "the engine did not start: out of memory, or not the engine this was made for");
        return -1;
    }
    return 0;
}

static int Core_traverse(Core *self, visitproc visit, void *arg)
{
    Py_VISIT(self->mmio_read);
    Py_VISIT(self->mmio_write);
    Py_VISIT(self->sbi);
    Py_VISIT(self->error_type);
    Py_VISIT(self->error_value);
    Py_VISIT(self->error_trace);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int Core_clear(Core *self)
{
    Py_CLEAR(self->mmio_read);
    Py_CLEAR(self->mmio_write);
    Py_CLEAR(self->sbi);
    Py_CLEAR(self->error_type);
    Py_CLEAR(self->error_value);
    Py_CLEAR(self->error_trace);
    return 0;
}

static void Core_dealloc(Core *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Core_clear(self);
    if (self->hart)
        hart_free(self->hart);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *Core_close(Core *self, PyObject *unused)
{
    if (self->running) {
        PyErr_SetString(PyExc_RuntimeError, "not while the hart runs: only between epochs");
        return NULL;
    }
    if (self->hart)
        hart_close(self->hart);
    Py_RETURN_NONE;
}

static int Core_getbuffer(Core *self, Py_buffer *view, int flags)
{
    if (!self->hart) {
        PyErr_SetString(PyExc_BufferError, "this hart has no RAM");
        return -1;
    }
    return PyBuffer_FillInfo(view, (PyObject *)self, self->hart->ram, (Py_ssize_t)self->hart->ram_size, 0, flags);
}

/* Running. */

/* Run an epoch from these three numbers, or with NULL go on with the one that has paused. */
PyObject *core_run_epoch(Core *self, const uint64_t number[3])
{
    self->running = true;
    self->thread = PyEval_SaveThread();
    int reason = number ? hart_run(self->hart, number[0], number[1], number[2]) : hart_resume(self->hart);
    PyEval_RestoreThread(self->thread);
    self->running = false;
    if (self->error_type) {
        PyErr_Restore(self->error_type, self->error_value, self->error_trace);
        self->error_type = self->error_value = self->error_trace = NULL;
        return NULL;
    }
    return PyLong_FromLong(reason);
}

static PyObject *Core_run(Core *self, PyObject *const *args, Py_ssize_t count)
{
    struct hart *h = whole_hart(self);
    if (!h)
        return NULL;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "run(time, time_max, budget)");
        return NULL;
    }
    uint64_t number[3];
    for (int i = 0; i < 3; i++) {
        number[i] = PyLong_AsUnsignedLongLong(args[i]);
        if (PyErr_Occurred())
            return NULL;
    }
    if (number[0] < hart_time(h) || number[1] < number[0] || number[2] == 0) {
        PyErr_Format(PyExc_ValueError, "epoch from time %llu to %llu with budget %llu: time may not step back (now %llu), "
                     "and the budget must be positive", number[0], number[1], number[2], hart_time(h));
        return NULL;
    }
    return core_run_epoch(self, number);
}

static PyObject *Core_stop(Core *self, PyObject *unused)
{
    struct hart *h = core_open(self);
    if (!h)
        return NULL;
    hart_stop(h);
    Py_RETURN_NONE;
}

static PyObject *Core_set_external(Core *self, PyObject *level)
{
    struct hart *h = core_open(self);
    int truth = PyObject_IsTrue(level);
    if (!h || truth < 0)
        return NULL;
    hart_set_external(h, truth);
    Py_RETURN_NONE;
}

/* State. */

static PyObject *Core_digest(Core *self, PyObject *unused)
{
    struct hart *h = whole_hart(self);
    return h ? PyLong_FromUnsignedLongLong(state_digest(h)) : NULL;
}

static PyObject *Core_save(Core *self, PyObject *unused)
{
    struct hart *h = whole_hart(self);
    if (!h)
        return NULL;
    uint64_t words[2 + STATE_WORDS] = {SAVE_MAGIC, SAVE_VERSION};
    state_collect(h, words + 2);
    pages_flush_tlb(h);  /* as on the side that will restore it: what the TLB holds must not differ */
    return PyBytes_FromStringAndSize((char *)words, (Py_ssize_t)((2 + state_count()) * 8));
}

static const char *check_header(const uint64_t header[2])
{
    if (header[0] != SAVE_MAGIC)
        return "not the state of a hart";
    return header[1] == SAVE_VERSION ? NULL : "the state of a hart in a format of another version of ftvm";
}

static PyObject *Core_restore(Core *self, PyObject *args)
{
    Py_buffer data;
    uint64_t words[2 + STATE_WORDS] = {0};
    const char *wrong = NULL;
    int keep_code = 0;
    if (!PyArg_ParseTuple(args, "y*|p", &data, &keep_code))
        return NULL;
    struct hart *h = core_resting(self);
    if (h && (size_t)data.len != (2 + state_count()) * 8)
        wrong = "the saved state of a hart has the wrong size";
    if (h && !wrong) {
        memcpy(words, data.buf, (size_t)data.len);
        wrong = check_header(words);
    }
    if (h && !wrong)
        wrong = state_install(h, words + 2, keep_code);
    PyBuffer_Release(&data);
    if (!h)
        return NULL;
    if (wrong) {
        PyErr_SetString(PyExc_ValueError, wrong);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *Core_reset(Core *self, PyObject *args)
{
    unsigned long long pc, a0, a1;
    if (!PyArg_ParseTuple(args, "KKK", &pc, &a0, &a1))
        return NULL;
    struct hart *h = core_resting(self);
    if (!h)
        return NULL;
    state_reset(h, pc, a0, a1);
    Py_RETURN_NONE;
}

static bool put(PyObject *dict, const char *name, uint64_t value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    bool done = number && PyDict_SetItemString(dict, name, number) == 0;
    Py_XDECREF(number);
    return done;
}

static PyObject *Core_registers(Core *self, PyObject *unused)
{
    struct hart *h = core_resting(self);
    PyObject *dict = h ? PyDict_New() : NULL;
    if (!dict)
        return NULL;
    uint64_t words[STATE_WORDS];
    (h->paused ? state_look : state_collect)(h, words);
    for (unsigned i = 0; i < state_count(); i++)
        if (!put(dict, state_name(i), words[i])) {
            Py_DECREF(dict);
            return NULL;
        }
    return dict;
}

static PyObject *Core_counters(Core *self, PyObject *unused)
{
    struct hart *h = core_open(self);
    PyObject *dict = h ? PyDict_New() : NULL;
    if (!dict)
        return NULL;
#define COUNTER(name) put(dict, #name, h->count.name)
    bool done = COUNTER(slices) && COUNTER(traps) && COUNTER(sbi_calls) && COUNTER(time_reads) && COUNTER(counter_reads)
        && COUNTER(counter_misses) && COUNTER(counter_hooks) && COUNTER(halts) && COUNTER(fills) && COUNTER(faults)
        && COUNTER(faults_dropped) && COUNTER(address_unknown) && COUNTER(flushes) && COUNTER(removals)
        && COUNTER(code_to_writable) && COUNTER(writable_to_code) && COUNTER(mixed_pages) && COUNTER(hooked_pages)
        && COUNTER(mmio_reads) && COUNTER(mmio_writes) && COUNTER(host_writes_to_code) && COUNTER(pages_kept) && COUNTER(translations)
        && COUNTER(pc_corrected);
    if (!done)
        Py_CLEAR(dict);
    return dict;
}

static PyObject *get_clock(Core *self, void *unused)
{
    struct hart *h = core_open(self);
    return h ? PyLong_FromUnsignedLongLong(h->clock) : NULL;
}

static PyObject *get_time(Core *self, void *unused)
{
    struct hart *h = core_open(self);
    return h ? PyLong_FromUnsignedLongLong(hart_time(h)) : NULL;
}

static PyObject *get_deadline(Core *self, void *unused)
{
    struct hart *h = core_open(self);
    if (!h)
        return NULL;
    if (h->timer == NEVER || h->timer <= hart_time(h))
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(h->timer);
}

static PyObject *get_error(Core *self, void *unused)
{
    struct hart *h = core_open(self);
    return h ? PyUnicode_DecodeLatin1(h->error, (Py_ssize_t)strlen(h->error), NULL) : NULL;
}

static PyMethodDef Core_methods[] = {
    {"run", (PyCFunction)(void (*)(void))Core_run, METH_FASTCALL, NULL},
    {"stop", (PyCFunction)Core_stop, METH_NOARGS, NULL},
    {"set_external", (PyCFunction)Core_set_external, METH_O, NULL},
    {"digest", (PyCFunction)Core_digest, METH_NOARGS, NULL},
    {"save", (PyCFunction)Core_save, METH_NOARGS, NULL},
    {"restore", (PyCFunction)Core_restore, METH_VARARGS, NULL},
    {"reset", (PyCFunction)Core_reset, METH_VARARGS, NULL},
    {"registers", (PyCFunction)Core_registers, METH_NOARGS, NULL},
    {"counters", (PyCFunction)Core_counters, METH_NOARGS, NULL},
    {"close", (PyCFunction)Core_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Core_properties[] = {
    {"clock", (getter)get_clock, NULL, NULL, NULL},
    {"time", (getter)get_time, NULL, NULL, NULL},
    {"deadline", (getter)get_deadline, NULL, NULL, NULL},
    {"error", (getter)get_error, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot Core_slots[] = {
    {Py_tp_doc, "One hart; see ftvm.hart.Hart."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, Core_init},
    {Py_tp_dealloc, Core_dealloc},
    {Py_tp_traverse, Core_traverse},
    {Py_tp_clear, Core_clear},
    {Py_tp_methods, Core_methods},
    {Py_tp_getset, Core_properties},
    {Py_bf_getbuffer, Core_getbuffer},
    {0, NULL},
};

static PyType_Spec Core_spec = {
    .name = "ftvm._hart.Core",
    .basicsize = sizeof(Core),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = Core_slots,
};

static int add_methods(PyTypeObject *type, PyMethodDef *methods)
{
    for (PyMethodDef *method = methods; method->ml_name; method++) {
        PyObject *descriptor = PyDescr_NewMethod(type, method);
        int failed = !descriptor || PyObject_SetAttrString((PyObject *)type, method->ml_name, descriptor);
        Py_XDECREF(descriptor);
        if (failed)
            return -1;
    }
    return 0;
}

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&Core_spec);
    if (!type)
        return -1;
    PyTypeObject *core = (PyTypeObject *)type;
    int failed = add_methods(core, core_ram_methods) || add_methods(core, core_debug_methods)
        || PyModule_AddObjectRef(module, "Core", type);
    Py_DECREF(type);
    return failed || PyModule_AddIntConstant(module, "BYTES_PER_TICK", BYTES_PER_TICK)
        || PyModule_AddIntConstant(module, "BARREN_TRAPS_MAX", BARREN_TRAPS_MAX) || describe(module) ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ftvm._hart",
    .m_doc = "The C core of ftvm's hart.",
    .m_size = 0,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__hart(void)
{
    return PyModuleDef_Init(&module);
}
