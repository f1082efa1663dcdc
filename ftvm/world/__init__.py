# SPDX-License-Identifier: GPL-2.0-or-later
"""The only source of events and sink of outputs."""
