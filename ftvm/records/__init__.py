# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings as typed objects: for scripts (by way of `ftvm.scripting`), and for what prints and exports them."""
