# SPDX-License-Identifier: GPL-2.0-or-later
"""Ordered, acknowledged delivery of opaque (sequence, bytes) between the two sides of a pair.

The files, from the wire upwards. Only `transport` touches sockets; nothing else here knows time, threads or chance:
whoever needs the time is given `now`, in monotonic seconds.

    errors            ChannelError: the peer or the wire is at fault
    frame             one frame as bytes: header, checksum, opaque body
    messages          the typed bodies: hello, ack, heartbeat, checkpoint transfer, goodbye
    session           who talks: (pair, term, session); `Admission` drops and counts everybody else's frames
    window            how far the backup may be behind: entries, bytes and milliseconds
    sender            primary's half: entries kept until acknowledged, resent after a reconnect
    receiver          backup's half: entries in order, acknowledgements, and to stop acknowledging for good
    digest_match      both sides' digests, compared in whichever order they come
    output_rule       outputs leave only when the backup holds everything that led to them
    failure_detector  suspicion, in words
    state_transfer    a checkpoint as chunks under credit
    endpoint          what the real and the simulated network have in common
    transport         the real one: ZeroMQ over TCP
    memory            the simulated one: delays, losses, partitions, late frames; seeded

Sequences begin at 1; 0 says "none yet" everywhere.
"""
