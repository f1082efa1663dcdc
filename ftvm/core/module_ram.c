// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The methods of `ftvm._hart.Core` that concern RAM: what the host writes, dirty pages, and snapshots.
 *
 * Page numbers come and go as bytes objects of 32-bit numbers in the host's order. `snapshot_take` and `snapshot_look`
 * may be called by any thread at any time, and release the interpreter lock while they copy.
 */
#include "module.h"

#include <string.h>
#include <sys/mman.h>

#define TAKE_MAX 4096  /* pages in one batch */

static PyObject *Core_writes(Core *self, PyObject *const *args, Py_ssize_t count)
{
    struct hart *h = core_open(self);
    if (!h)
        return NULL;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "writes(address, length)");
        return NULL;
    }
    uint64_t address = PyLong_AsUnsignedLongLong(args[0]);
    uint64_t length = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    if (!in_ram(h, address) || length > h->ram_size - (address - RAM_BASE)) {
        PyErr_Format(PyExc_ValueError, "writes(0x%llx, %llu) is outside RAM", address, length);
        return NULL;
    }
    pages_host_writes(h, address, length);
    Py_RETURN_NONE;
}

static PyObject *Core_load_ram(Core *self, PyObject *args)
{
    unsigned long long offset;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "Ky*", &offset, &data))
        return NULL;
    struct hart *h = core_resting(self);
    if (h && (offset > h->ram_size || (uint64_t)data.len > h->ram_size - offset)) {
        PyErr_Format(PyExc_ValueError, "%zd bytes at offset %llu do not fit into RAM", data.len, offset);
        h = NULL;
    }
    if (h) {
        pages_host_writes(h, RAM_BASE + offset, (uint64_t)data.len);
        memcpy(h->ram + offset, data.buf, (size_t)data.len);
    }
    PyBuffer_Release(&data);
    if (!h)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *Core_zero_ram(Core *self, PyObject *unused)
{
    struct hart *h = core_resting(self);
    if (!h)
        return NULL;
    snapshot_keep_all(h);
    if (madvise(h->ram, h->ram_size, MADV_DONTNEED) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    pages_drop_all(h);
    for (uint64_t i = 0; i < h->pages_count; i++)
        h->pages[i].dirty = DIRTY_ALL;
    Py_RETURN_NONE;
}

static PyObject *Core_dirty(Core *self, PyObject *unused)
{
    struct hart *h = core_resting(self);
    if (!h)
        return NULL;
    PyObject *bitmap = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(h->pages_count / 8));
    if (!bitmap)
        return NULL;
    uint8_t *bytes = (uint8_t *)PyBytes_AS_STRING(bitmap);
    for (uint64_t i = 0; i < h->pages_count / 8; i++) {
        uint8_t byte = 0;
        for (int bit = 0; bit < 8; bit++)
            byte |= (uint8_t)((h->pages[i * 8 + (uint64_t)bit].dirty & DIRTY_DIGEST) << bit);
        bytes[i] = byte;
    }
    return bitmap;
}

static PyObject *Core_clear_dirty(Core *self, PyObject *unused)
{
    struct hart *h = core_resting(self);
    if (!h)
        return NULL;
    pages_clear_dirty(h);
    Py_RETURN_NONE;
}

/* Pages in bulk. */

static bool pages_fit(const struct hart *h, const uint32_t *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (numbers[i] >= h->pages_count) {
            PyErr_Format(PyExc_ValueError, "page %lu is outside RAM of %llu pages", (unsigned long)numbers[i],
                         (unsigned long long)h->pages_count);
            return false;
        }
    return true;
}

static void put_page(struct hart *h, uint64_t index, const uint8_t *content)
{
    uint8_t *page = h->ram + (index << PAGE_BITS);
    pages_host_writes(h, RAM_BASE + (index << PAGE_BITS), PAGE_BYTES);
    if (content)
        memcpy(page, content, PAGE_BYTES);
    else
        memset(page, 0, PAGE_BYTES);
}

static PyObject *Core_put_pages(Core *self, PyObject *args)
{
    Py_buffer numbers, content, zeros;
    if (!PyArg_ParseTuple(args, "y*y*y*", &numbers, &content, &zeros))
        return NULL;
    struct hart *h = core_resting(self);
    size_t count = (size_t)numbers.len / 4, zeros_count = (size_t)zeros.len / 4;
    if (h && (numbers.len % 4 || zeros.len % 4 || (size_t)content.len != count * PAGE_BYTES)) {
        PyErr_Format(PyExc_ValueError, "%zu page numbers come with %zd bytes of pages", count, content.len);
        h = NULL;
    }
    if (h && pages_fit(h, numbers.buf, count) && pages_fit(h, zeros.buf, zeros_count)) {
        for (size_t i = 0; i < count; i++)
            put_page(h, ((uint32_t *)numbers.buf)[i], (uint8_t *)content.buf + i * PAGE_BYTES);
        for (size_t i = 0; i < zeros_count; i++)
            put_page(h, ((uint32_t *)zeros.buf)[i], NULL);
    }
    PyBuffer_Release(&numbers);
    PyBuffer_Release(&content);
    PyBuffer_Release(&zeros);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* Snapshots. */

static struct series *open_series(const Core *self, int n)
{
    if (!self->hart || n < 1 || n >= SERIES_MAX || !self->hart->series[n].open) {
        PyErr_SetString(PyExc_ValueError, "this series of snapshots is closed");
        return NULL;
    }
    return &self->hart->series[n];
}

static PyObject *Core_series_open(Core *self, PyObject *unused)
{
    struct hart *h = core_open(self);
    if (!h)
        return NULL;
    int n = series_open(h);
    if (n < 0) {
        PyErr_Format(PyExc_RuntimeError, "%d series of snapshots are open already", SERIES_MAX - 1);
        return NULL;
    }
    return PyLong_FromLong(n);
}

static PyObject *Core_series_close(Core *self, PyObject *number)
{
    int n = (int)PyLong_AsLong(number);
    if (PyErr_Occurred() || !open_series(self, n))
        return NULL;
    series_close(self->hart, n);
    Py_RETURN_NONE;
}

static PyObject *Core_snapshot_begin(Core *self, PyObject *args)
{
    int n, changed, exact;
    struct hart *h = core_resting(self);
    if (!h || !PyArg_ParseTuple(args, "ipp", &n, &changed, &exact) || !open_series(self, n))
        return NULL;
    if (!snapshot_begin(h, n, changed, exact)) {
        PyErr_SetString(PyExc_MemoryError, "no address space for a snapshot's copies");
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(h->series[n].left);
}

static PyObject *Core_snapshot_end(Core *self, PyObject *number)
{
    int n = (int)PyLong_AsLong(number);
    if (PyErr_Occurred() || !open_series(self, n))
        return NULL;
    snapshot_end(self->hart, n);
    Py_RETURN_NONE;
}

static PyObject *Core_snapshot_state(Core *self, PyObject *number)
{
    int n = (int)PyLong_AsLong(number);
    const struct series *s = PyErr_Occurred() ? NULL : open_series(self, n);
    return s ? Py_BuildValue("KK", (unsigned long long)s->left, (unsigned long long)s->copies) : NULL;
}

/* Pages written since the series' latest snapshot began. */
static PyObject *Core_series_changed(Core *self, PyObject *number)
{
    int n = (int)PyLong_AsLong(number);
    if (PyErr_Occurred() || !open_series(self, n))
        return NULL;
    uint64_t count = 0;
    for (uint64_t i = 0; i < self->hart->pages_count; i++)
        count += self->hart->pages[i].dirty >> n & 1;
    return PyLong_FromUnsignedLongLong(count);
}

static PyObject *Core_snapshot_take(Core *self, PyObject *args)
{
    int n;
    unsigned max;
    if (!PyArg_ParseTuple(args, "iI", &n, &max) || !open_series(self, n))
        return NULL;
    if (max < 1 || max > TAKE_MAX) {
        PyErr_Format(PyExc_ValueError, "%u pages in a batch: from 1 to %d", max, TAKE_MAX);
        return NULL;
    }
    PyObject *numbers = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(max * sizeof(uint32_t)));
    PyObject *zeros = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(snapshot_zeros_max(max) * sizeof(uint32_t)));
    PyObject *content = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(max * PAGE_BYTES));
    if (!numbers || !zeros || !content) {
        Py_XDECREF(numbers);
        Py_XDECREF(zeros);
        Py_XDECREF(content);
        return NULL;
    }
    struct batch batch = {(uint32_t *)PyBytes_AS_STRING(numbers), (uint32_t *)PyBytes_AS_STRING(zeros),
                          (uint8_t *)PyBytes_AS_STRING(content), 0, 0};
    uint64_t ends = self->hart->series[n].ends;
    Py_BEGIN_ALLOW_THREADS
    snapshot_take(self->hart, n, ends, max, &batch);
    Py_END_ALLOW_THREADS
    _PyBytes_Resize(&numbers, (Py_ssize_t)(batch.count * sizeof(uint32_t)));
    _PyBytes_Resize(&zeros, (Py_ssize_t)(batch.zeros_count * sizeof(uint32_t)));
    _PyBytes_Resize(&content, (Py_ssize_t)(batch.count * PAGE_BYTES));
    return Py_BuildValue("NNN", numbers, content, zeros);
}

static PyObject *Core_snapshot_look(Core *self, PyObject *args)
{
    int n;
    unsigned long long page;
    uint8_t content[PAGE_BYTES];
    if (!PyArg_ParseTuple(args, "iK", &n, &page) || !open_series(self, n))
        return NULL;
    if (page >= self->hart->pages_count) {
        PyErr_Format(PyExc_ValueError, "page %llu is outside RAM", page);
        return NULL;
    }
    if (!snapshot_look(self->hart, n, page, content))
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize((char *)content, PAGE_BYTES);
}

PyMethodDef core_ram_methods[] = {
    {"writes", (PyCFunction)(void (*)(void))Core_writes, METH_FASTCALL, NULL},
    {"load_ram", (PyCFunction)Core_load_ram, METH_VARARGS, NULL},
    {"zero_ram", (PyCFunction)Core_zero_ram, METH_NOARGS, NULL},
    {"dirty", (PyCFunction)Core_dirty, METH_NOARGS, NULL},
    {"clear_dirty", (PyCFunction)Core_clear_dirty, METH_NOARGS, NULL},
    {"put_pages", (PyCFunction)Core_put_pages, METH_VARARGS, NULL},
    {"series_open", (PyCFunction)Core_series_open, METH_NOARGS, NULL},
    {"series_close", (PyCFunction)Core_series_close, METH_O, NULL},
    {"series_changed", (PyCFunction)Core_series_changed, METH_O, NULL},
    {"snapshot_begin", (PyCFunction)Core_snapshot_begin, METH_VARARGS, NULL},
    {"snapshot_end", (PyCFunction)Core_snapshot_end, METH_O, NULL},
    {"snapshot_state", (PyCFunction)Core_snapshot_state, METH_O, NULL},
    {"snapshot_take", (PyCFunction)Core_snapshot_take, METH_VARARGS, NULL},
    {"snapshot_look", (PyCFunction)Core_snapshot_look, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
