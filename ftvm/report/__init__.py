# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm report`: a recording as one page that a browser shows, without anything else."""
