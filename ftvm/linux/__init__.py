# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Linux and U-Boot as guests: brought from Debian's packages, unmodified."""
