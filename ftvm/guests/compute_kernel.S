/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * compute's inner loop, in assembly so that its length does not depend on a compiler. Both sides of each branch are of
 * equal length, so every iteration retires the same number of instructions, whatever the data:
 *
 *   per iteration     COMPUTE_ITERATION   (compute.h)
 *   around the loop   COMPUTE_AROUND
 *
 * u64 compute_kernel(u64 *table, u64 iterations, u64 seed)
 *
 *   a0 table    a1 iterations left    a2 hash    a3 sum    a4, a5 multipliers    a6 address mask    a7 walk offset
 *   fa0 sum     fa1 factor            fa2 scratch          t0-t5 scratch
 */
#include "compute.h"

    .file "compute_kernel.S"
    .option norelax                     /* the linker would shorten the loads of symbols */

    .section .text.compute_kernel, "ax"
    .globl compute_kernel
    .balign 4
compute_kernel:
    /* 13: a symbol's load is auipc and load */
    addi    sp, sp, -16
    sd      ra, 8(sp)
    mv      a3, zero
    ld      a4, multiplier_1
    ld      a5, multiplier_2
    lui     a6, COMPUTE_TABLE_BYTES >> 12
    addi    a6, a6, -8
    mv      a7, zero
    fmv.d.x fa0, zero
    fld     fa1, factor, t0
iteration:
    /* hash: 9 */
    add     a2, a2, a4
    srli    t0, a2, 30
    xor     a2, a2, t0
    mul     a2, a2, a4
    srli    t0, a2, 27
    xor     a2, a2, t0
    mul     a2, a2, a5
    srli    t0, a2, 31
    xor     a2, a2, t0
    /* a random word of the table: 3 */
    and     t1, a2, a6
    add     t1, t1, a0
    ld      t2, 0(t1)
    /* an even branch on its lowest bit: 2 + 4 */
    andi    t3, t2, 1
    beqz    t3, 1f
    add     a3, a3, t2
    srli    t4, t2, 3
    xor     a3, a3, t4
    j       2f
1:  sub     a3, a3, a2
    slli    t4, t2, 1
    xor     a3, a3, t4
    addi    a3, a3, 1
2:  /* change it: 2 */
    add     t2, t2, a2
    sd      t2, 0(t1)
    /* walk through the table in order: 7 */
    add     t1, a0, a7
    lw      t3, 0(t1)
    lbu     t4, 5(t1)
    add     t3, t3, t4
    sw      t3, 4(t1)
    addi    a7, a7, 8
    and     a7, a7, a6
    /* an even branch that is taken seven times of eight: 3 + 4 */
    srli    t0, a2, 61
    addi    t0, t0, -7
    bnez    t0, 3f
    /* a division, and its remainder */
    ori     t3, t3, 1
    divu    t4, a2, t3
    remu    t5, a3, t3
    j       4f
3:  xor     t4, t3, a2
    sltu    t5, t4, a3
    sub     t4, t4, t5
    slli    t5, t5, 3
4:  add     a3, a3, t4
    xor     a3, a3, t5
    /* a call, and the return: 1 + 4 */
    jal     rotate
    /* floating point, bounded by the factor 1/2: 4 */
    srli    t0, a2, 44
    fcvt.d.l fa2, t0
    fmadd.d fa0, fa0, fa1, fa2
    fadd.d  fa0, fa0, fa1
    /* the loop: 2 */
    addi    a1, a1, -1
    bnez    a1, iteration
    /* 6 */
    fmv.x.d t0, fa0
    xor     a0, a2, a3
    xor     a0, a0, t0
    ld      ra, 8(sp)
    addi    sp, sp, 16
    ret

rotate:
    slli    t0, a3, 7
    srli    a3, a3, 57
    or      a3, a3, t0
    ret

    .section .rodata.compute_kernel, "a"
    .balign 8
multiplier_1:
    .dword  0xbf58476d1ce4e5b9
multiplier_2:
    .dword  0x94d049bb133111eb
factor:
    .dword  0x3fe0000000000000
