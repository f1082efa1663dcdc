# SPDX-License-Identifier: GPL-2.0-or-later
#
# Where the kernel enters: the stack holds argc, then argv. There is no libc and nothing to set up but the global pointer.
	.section .text.start, "ax"
	.globl _start
_start:
	.option push
	.option norelax
	la gp, __global_pointer$
	.option pop
	ld a0, 0(sp)
	addi a1, sp, 8
	andi sp, sp, -16
	call translate_main
	li a7, 94                # exit_group
	ecall
