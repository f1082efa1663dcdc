/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Entry and trap vector. Entered in S-mode at 0x80200000 with a0 = hart id, a1 = address of the device tree; calls
 * guest_start(hart, dtb).
 *
 * The stack is guarded twice: a trap with sp outside [stack_limit, stack_top] goes to an emergency stack and panics, and
 * trap.c looks at the word at stack_limit before the guest sleeps. Only the integer registers that a C function may change are saved: handlers use no floating point.
 */
    .file "start.S"
    .option norvc

#define FRAME 128

    .section .text.start, "ax"
    .globl _start
_start:
    csrw    sie, zero
    csrci   sstatus, 2
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    la      sp, stack_top
    la      t0, trap_vector
    csrw    stvec, t0
    la      t0, bss_start
    la      t1, bss_end
1:  bgeu    t0, t1, 2f
    sd      zero, 0(t0)
    addi    t0, t0, 8
    j       1b
2:  call    guest_start
3:  wfi
    j       3b

    .balign 4
    .globl trap_vector
trap_vector:
    csrw    sscratch, t0
    la      t0, stack_limit
    bltu    sp, t0, stack_bad
    la      t0, stack_top
    bltu    t0, sp, stack_bad
    csrr    t0, sscratch
    addi    sp, sp, -FRAME
    sd      ra, 0(sp)
    sd      t0, 8(sp)
    sd      t1, 16(sp)
    sd      t2, 24(sp)
    sd      a0, 32(sp)
    sd      a1, 40(sp)
    sd      a2, 48(sp)
    sd      a3, 56(sp)
    sd      a4, 64(sp)
    sd      a5, 72(sp)
    sd      a6, 80(sp)
    sd      a7, 88(sp)
    sd      t3, 96(sp)
    sd      t4, 104(sp)
    sd      t5, 112(sp)
    sd      t6, 120(sp)
    csrr    a0, scause
    csrr    a1, sepc
    csrr    a2, stval
    call    trap_taken
    ld      ra, 0(sp)
    ld      t0, 8(sp)
    ld      t1, 16(sp)
    ld      t2, 24(sp)
    ld      a0, 32(sp)
    ld      a1, 40(sp)
    ld      a2, 48(sp)
    ld      a3, 56(sp)
    ld      a4, 64(sp)
    ld      a5, 72(sp)
    ld      a6, 80(sp)
    ld      a7, 88(sp)
    ld      t3, 96(sp)
    ld      t4, 104(sp)
    ld      t5, 112(sp)
    ld      t6, 120(sp)
    addi    sp, sp, FRAME
    sret

stack_bad:
    mv      a2, sp
    csrr    a0, scause
    csrr    a1, sepc
    la      sp, emergency_top
    tail    trap_stack_overflow

    .section .stack, "aw", @nobits
    .balign 16
    .skip   1024
emergency_top:
    .skip   1024                        /* the gap: an overflow that no trap saw yet lands here */
    .globl stack_limit
stack_limit:
    .skip   14336
stack_top:
