/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The structure block is a stream of big-endian tokens: BEGIN_NODE name, PROP length name-offset value, END_NODE, NOP,
 * END. A node's properties come before its children, so a node is complete when its first child begins or it ends.
 * Every read is checked against the block's end: the tree was written by somebody else.
 */
#include "fdt.h"

#define FDT_MAGIC 0xd00dfeed
#define BEGIN_NODE 1
#define END_NODE 2
#define PROP 3
#define NOP 4
#define END 9

#define DEPTH_MAX 12

static struct level {
    struct fdt_node node;
    u32 child_address_cells, child_size_cells;
    bool told;
} levels[DEPTH_MAX];

static void keep(struct level *l, const char *name, struct fdt_property p)
{
    static const struct {
        const char *name;
        u32 field;
    } wanted[] = {
        {"compatible", offsetof(struct fdt_node, compatible)},
        {"reg", offsetof(struct fdt_node, reg)},
        {"interrupts", offsetof(struct fdt_node, interrupts)},
        {"interrupts-extended", offsetof(struct fdt_node, interrupts_extended)},
        {"device_type", offsetof(struct fdt_node, device_type)},
        {"bootargs", offsetof(struct fdt_node, bootargs)},
        {"timebase-frequency", offsetof(struct fdt_node, timebase)},
    };
    for (u32 i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if (same(name, wanted[i].name))
            *(struct fdt_property *)((u8 *)&l->node + wanted[i].field) = p;
    if (same(name, "#address-cells"))
        l->child_address_cells = (u32)fdt_cells(p, 0, 1);
    if (same(name, "#size-cells"))
        l->child_size_cells = (u32)fdt_cells(p, 0, 1);
}

static void begin(u32 depth, const char *name)
{
    struct level *l = &levels[depth];
    memset(l, 0, sizeof *l);
    l->node.name = name;
    l->node.depth = depth;
    l->node.address_cells = depth ? levels[depth - 1].child_address_cells : 2;
    l->node.size_cells = depth ? levels[depth - 1].child_size_cells : 1;
    l->child_address_cells = 2;
    l->child_size_cells = 1;
}

static void tell(struct level *l, void (*visit)(const struct fdt_node *node))
{
    if (!l->told)
        visit(&l->node);
    l->told = true;
}

bool fdt_walk(const void *tree, void (*visit)(const struct fdt_node *node))
{
    const u8 *t = tree;
    if (!t || get_be32(t) != FDT_MAGIC)
        return false;
    const u8 *at = t + get_be32(t + 8), *end = t + get_be32(t + 4);
    const char *strings = (const char *)t + get_be32(t + 12);
    u32 depth = 0;                                         /* nodes open */
    while (at + 4 <= end) {
        u32 token = get_be32(at);
        at += 4;
        if (token == BEGIN_NODE) {
            if (depth == DEPTH_MAX)
                return false;
            if (depth)
                tell(&levels[depth - 1], visit);
            begin(depth++, (const char *)at);
            at += (strlen((const char *)at) + 4) & ~3UL;
        } else if (token == PROP && depth && at + 8 <= end) {
            u32 length = get_be32(at), name = get_be32(at + 4);
            if (length > (u64)(end - at) - 8)
                return false;
            keep(&levels[depth - 1], strings + name, (struct fdt_property){at + 8, length});
            at += 8 + ((length + 3UL) & ~3UL);
        } else if (token == END_NODE && depth) {
            tell(&levels[--depth], visit);
        } else if (token == END) {
            return depth == 0;
        } else if (token != NOP) {
            return false;
        }
    }
    return false;
}

bool fdt_lists(struct fdt_property list, const char *word)
{
    u32 at = 0;
    while (list.data && at < list.length) {
        const char *s = (const char *)list.data + at;
        if (same(s, word))
            return true;
        at += (u32)strlen(s) + 1;
    }
    return false;
}

u64 fdt_cells(struct fdt_property p, u32 index, u32 cells)
{
    u64 value = 0;
    for (u32 i = index; i < index + cells; i++)
        value = value << 32 | (p.data && 4UL * i + 4 <= p.length ? get_be32(p.data + 4UL * i) : 0);
    return value;
}
