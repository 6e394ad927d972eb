"""What is tried: named points of a turn at which a test ends the process, or has the image fail."""
from libc.stdint cimport uint32_t

from fastxs.core.model cimport Store, Trial

cdef extern from "signal.h" nogil:
    enum:
        SIGKILL
    int kill(int pid, int signal)

cdef extern from "unistd.h" nogil:
    int getpid()

cdef enum:                      # a crash, in the order of a turn; `_core.TRIALS` has their names
    AT_GATHERED = 1             # it is known who is ready
    AT_RECEIVED                 # bytes were taken from a socket and not kept yet
    AT_APPLIED                  # a batch was served, nothing left, nothing is kept
    AT_STORED                   # the slots are stored, the image has not the turn yet
    AT_COMMITTED                # it has
    AT_BEGUN                    # rings that begin are set up, nobody was answered
    AT_COPIED                   # answers lie in a ring, its indices do not say so yet
    AT_INDEXED                  # they do, the guest was not notified
    AT_SENT                     # bytes left through a socket, and the slot does not know yet
    AT_PUBLISHED                # everybody has what he is to have
    AT_RECOVERED                # a recovery is done, and not committed yet

    FAULT_COMMIT                # a failure, `_core.FAULTS`: the log has no room for the turn
    FAULT_FOLD                  # the turn is in the log, LMDB takes none of it

cdef inline bint fails_at(Trial *trial, uint32_t point) noexcept nogil:
    if trial == NULL or trial.at != point:
        return False
    trial.count -= 1
    return trial.count == 0

cdef inline void at_point(Store *s, uint32_t point) noexcept nogil:
    if fails_at(&s.trial, point):
        kill(getpid(), SIGKILL)
