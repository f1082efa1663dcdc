/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The bump allocator over [end of image, end of RAM), and the mem* functions, eight bytes at a time where both sides
 * are aligned. The device tree may lie in the heap's range: the board copies what it needs out of it beforehand.
 */
#include "memory.h"
#include "trap.h"

extern u8 image_end[];

static u64 heap_next, heap_end;

void memory_init(u64 ram_base, u64 ram_size)
{
    heap_next = (u64)image_end;
    heap_end = ram_base + ram_size;
    if (heap_next < ram_base || heap_next > heap_end)
        panic("memory: the image ends at %lx, outside RAM", heap_next);
}

u64 memory_left(void) { return heap_end - heap_next; }

void *memory_take_raw(u64 length, u64 alignment)
{
    u64 start = (heap_next + alignment - 1) & ~(alignment - 1);
    if (start > heap_end || heap_end - start < length)
        panic("memory: %lu bytes wanted, %lu left: the machine needs more RAM", length, memory_left());
    heap_next = start + length;
    return (void *)start;
}

void *memory_take(u64 length, u64 alignment)
{
    return memset(memory_take_raw(length, alignment), 0, length);
}

void *memcpy(void *to, const void *from, size_t length)
{
    u8 *t = to;
    const u8 *f = from;
    if ((((u64)t | (u64)f) & 7) == 0)
        for (; length >= 8; length -= 8, t += 8, f += 8)
            *(u64 *)t = *(const u64 *)f;
    while (length--)
        *t++ = *f++;
    return to;
}

void *memmove(void *to, const void *from, size_t length)
{
    u8 *t = to;
    const u8 *f = from;
    if (t <= f)
        return memcpy(to, from, length);
    while (length--)
        t[length] = f[length];
    return to;
}

void *memset(void *to, int value, size_t length)
{
    u8 *t = to;
    u64 word = (u8)value * 0x0101010101010101UL;
    if (((u64)t & 7) == 0)
        for (; length >= 8; length -= 8, t += 8)
            *(u64 *)t = word;
    while (length--)
        *t++ = (u8)value;
    return to;
}

int memcmp(const void *a, const void *b, size_t length)
{
    const u8 *x = a, *y = b;
    for (; length; length--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

bool same(const char *a, const char *b)
{
    size_t n = strlen(a);
    return strlen(b) == n && memcmp(a, b, n) == 0;
}
