# SPDX-License-Identifier: GPL-2.0-or-later
"""A replicated disk: each side's own image, what is durable of it, and which image is the newest after a cold start."""
