# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundled guests, run on QEMU's `virt` machine: they need no ftvm to be right."""
