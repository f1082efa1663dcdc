# SPDX-License-Identifier: GPL-2.0-or-later
"""Benchmarks: every figure is a ratio against a baseline in the same run, or a latency measured in it."""
