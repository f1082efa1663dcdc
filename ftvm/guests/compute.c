/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * compute: a mixed loop of a known number of instructions (integer, multiply, divide, loads and stores over 1 MiB, calls,
 * even and predictable branches, some double-precision floating point), a checksum, power-off.
 * Boot arguments: insns=N (1800000000): the loop's instructions, rounded up to whole iterations (compute.h says how many
 * instructions one has; the few hundred around it are not counted); measure=on: also print how many `instret` counted, for
 * machines where it counts instructions.
 */
#include "base.h"
#include "board.h"
#include "compute.h"
#include "print.h"

#define SSTATUS_FS_INITIAL (1UL << 13)

u64 compute_kernel(u64 *table, u64 iterations, u64 seed);

static u64 table[COMPUTE_TABLE_BYTES / sizeof(u64)];

void guest_main(void)
{
    u64 wanted = argument_number("insns", 1800000000);
    u64 iterations = wanted > COMPUTE_AROUND ? (wanted - COMPUTE_AROUND + COMPUTE_ITERATION - 1) / COMPUTE_ITERATION : 0;
    bool measure = argument_is("measure", "on");
    iterations += iterations == 0;
    csr_set(sstatus, SSTATUS_FS_INITIAL);
    print("compute: ready\n");
    u64 before = measure ? csr_read(instret) : 0;
    u64 sum = compute_kernel(table, iterations, 0x9e3779b97f4a7c15);
    u64 after = measure ? csr_read(instret) : 0;
    print("compute: %lu instructions, checksum %lx\n", COMPUTE_AROUND + COMPUTE_ITERATION * iterations, sum);
    if (measure)
        print("compute: instret counted %lu\n", after - before);
}
