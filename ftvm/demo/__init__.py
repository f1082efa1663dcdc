# SPDX-License-Identifier: GPL-2.0-or-later
"""The demonstration: verified client load on a pair whose primary and whose driver are killed in mid-load."""
