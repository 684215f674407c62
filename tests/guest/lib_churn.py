# SPDX-License-Identifier: GPL-2.0-only
"""A process that makes and removes names in the current directory until it is killed."""
import os


def churn(keep):
    """Starts it; the last `keep` names t0, t1, ... are there at any time. Gives its process number."""
    pid = os.fork()
    n = 0
    while pid == 0:
        os.close(os.open("t%d" % n, os.O_CREAT | os.O_WRONLY))
        if n >= keep:
            os.unlink("t%d" % (n - keep))
        n += 1
    return pid
