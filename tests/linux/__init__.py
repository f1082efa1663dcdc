# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock guests from Debian's packages, on the machine and in a pair."""
