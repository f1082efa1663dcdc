# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock Linux kernel on a network card, and what it serves there.

| port | what                                                                                             |
|------|--------------------------------------------------------------------------------------------------|
| 23   | telnet: a shell on a terminal                                                                    |
| 80   | HTTP: `block`, a megabyte; `cgi-bin/stream?N`, N of them, numbered                                |
| 5001 | echo                                                                                             |
| 5002 | SHA-256 of what is sent until its end                                                            |
| 5201 | iperf3                                                                                           |

All of it is Debian's: busybox and iperf3.
"""

from __future__ import annotations

from pathlib import Path

from ftvm.linux import newc
from ftvm.linux.fetch import Wanted
from tests.linux.stock import Stock, stock_or_skip

READY = "NET-READY"
FEATURES = "NET-FEATURES "  # followed by the driver's feature bits, the lowest first
CARRIER = "NET-CARRIER "  # followed by 1 or 0, whenever the guest's link changes
ECHO_PORT, SUM_PORT, IPERF_PORT = 5001, 5002, 5201
BLOCK_BYTES = 1 << 20
SCRIPT = f"""\
#!/bin/sh
echo {FEATURES}$(cat /sys/class/net/eth0/device/features)
(
    seen=
    while :; do
        read -r carrier < /sys/class/net/eth0/carrier
        [ "$carrier" = "$seen" ] || echo {CARRIER}$carrier
        seen=$carrier
        usleep 200000
    done
) &
mkdir -p /srv
cp -r /etc/cgi-bin /srv/cgi-bin
head -c {BLOCK_BYTES} /dev/urandom > /srv/block
telnetd -l /bin/sh
httpd -h /srv
nc -ll -p {ECHO_PORT} -e /bin/cat &
nc -ll -p {SUM_PORT} -e /bin/sha256sum &
iperf3 -s -D
for port in 23 80 {ECHO_PORT} {SUM_PORT} {IPERF_PORT}; do
    until netstat -ltn | grep -q ":$port "; do usleep 50000; done
done
echo {READY}
wait
"""
STREAM = """\
#!/bin/sh
echo "Content-Type: application/octet-stream"
echo
number=0
while [ "$number" -lt "$QUERY_STRING" ]; do
    printf %08d "$number"
    cat /srv/block
    number=$((number + 1))
done
"""
MACHINE = """\
name = "linux"
[machine]
kernel = "{kernel}"
initrd = "{initrd}"
memory = "128 MiB"
cmdline = "console=ttyS0 quiet ip=10.0.2.15/24 script=/bin/serve"
[[network]]
backend = "{backend}"
"""


def stock() -> Stock:
    """Kernel and initramfs; pytest.skip without."""
    return stock_or_skip(Wanted(packages=("iperf3",)))


def machine(directory: Path, backend: str) -> str:
    """A machine file for Linux that serves; pytest.skip without a kernel."""
    found = stock()
    programs = {"usr/bin/serve": SCRIPT, "etc/cgi-bin/stream": STREAM}
    tree = {"etc/cgi-bin": newc.directory()}
    tree |= {name: newc.regular(text.encode(), 0o755) for name, text in programs.items()}
    initrd = found.with_files(directory / "initramfs", tree)
    return MACHINE.format(kernel=found.kernel, initrd=initrd, backend=backend)
