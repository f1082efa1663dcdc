# SPDX-License-Identifier: GPL-2.0-or-later
"""What guests are connected to: backends, ports, and whole pairs on real networks."""
