/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What every guest source may assume: types, memory-mapped access, fences, CSRs, byte order and the four mem* functions
 * that the compiler may call. The guests run in S-mode with paging off, so an address is a physical address.
 */
#ifndef BASE_H
#define BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

#define R8(address) (*(volatile u8 *)(u64)(address))
#define R32(address) (*(volatile u32 *)(u64)(address))

/* The first orders memory against memory, the second also against device registers. */
#define fence_memory() __asm__ volatile("fence rw, rw" ::: "memory")
#define fence_device() __asm__ volatile("fence iorw, iorw" ::: "memory")

#define csr_read(name) ({ u64 value_; __asm__ volatile("csrr %0, " #name : "=r"(value_)); value_; })
#define csr_write(name, value) __asm__ volatile("csrw " #name ", %0" :: "r"((u64)(value)) : "memory")
#define csr_set(name, value) __asm__ volatile("csrs " #name ", %0" :: "r"((u64)(value)) : "memory")
#define csr_clear(name, value) __asm__ volatile("csrc " #name ", %0" :: "r"((u64)(value)) : "memory")

#define SSTATUS_SIE (1UL << 1)
#define SIE_STIE (1UL << 5)
#define SIE_SEIE (1UL << 9)

static inline u64 read_time(void)
{
    u64 value;
    __asm__ volatile("rdtime %0" : "=r"(value));
    return value;
}

/* Unaligned big-endian fields, as the device tree and network protocols have them. */
static inline u32 get_be16(const void *p) { const u8 *b = p; return (u32)b[0] << 8 | b[1]; }
static inline u32 get_be32(const void *p) { return get_be16(p) << 16 | get_be16((const u8 *)p + 2); }
static inline u64 get_be64(const void *p) { return (u64)get_be32(p) << 32 | get_be32((const u8 *)p + 4); }
static inline void put_be16(void *p, u32 v) { u8 *b = p; b[0] = (u8)(v >> 8); b[1] = (u8)v; }
static inline void put_be32(void *p, u32 v) { put_be16(p, v >> 16); put_be16((u8 *)p + 2, v); }

static inline u64 min_u64(u64 a, u64 b) { return a < b ? a : b; }

void *memcpy(void *to, const void *from, size_t length);
void *memmove(void *to, const void *from, size_t length);
void *memset(void *to, int value, size_t length);
int memcmp(const void *a, const void *b, size_t length);
size_t strlen(const char *s);
bool same(const char *a, const char *b);

#endif
