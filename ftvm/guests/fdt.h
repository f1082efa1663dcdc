/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A reader of the flattened device tree (Devicetree Specification 0.4, chapter 5): one walk, a callback for each node
 * with the properties that this project needs already picked out.
 */
#ifndef FDT_H
#define FDT_H

#include "base.h"

struct fdt_property {
    const u8 *data;                  /* 0 when the node has no such property */
    u32 length;
};

struct fdt_node {
    const char *name;                /* with its unit address: "memory@80000000" */
    u32 depth;                       /* 0 is the root */
    u32 address_cells, size_cells;   /* the parent's: how this node's `reg` reads */
    struct fdt_property compatible, reg, interrupts, interrupts_extended, device_type, bootargs, timebase;
};

/* Calls `visit` once for each node. Returns false when `tree` is no device tree or is cut short. */
bool fdt_walk(const void *tree, void (*visit)(const struct fdt_node *node));

bool fdt_lists(struct fdt_property list, const char *word);      /* is `word` one of its strings? */
u64 fdt_cells(struct fdt_property p, u32 index, u32 cells);      /* the number at cell `index`; 0 beyond its end */

#endif
