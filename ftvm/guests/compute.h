/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What compute.c and its assembly kernel share. The two counts are exact; the tests hold them against `instret`.
 */
#ifndef COMPUTE_H
#define COMPUTE_H

#define COMPUTE_TABLE_BYTES 0x100000
#define COMPUTE_ITERATION 47         /* instructions */
#define COMPUTE_AROUND 19

#endif
