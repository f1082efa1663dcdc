# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair under a seeded simulated world: `python -m tests.sim SEED` replays what a seed does."""
