# SPDX-License-Identifier: GPL-2.0-or-later
"""Atomic test-and-set on a term: at most one side goes live per term."""
