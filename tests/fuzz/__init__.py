# SPDX-License-Identifier: GPL-2.0-or-later
"""A small fuzzer for every parser of ftvm; see `__main__`."""
