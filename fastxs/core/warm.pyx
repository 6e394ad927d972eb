"""Memory before it is needed.

Owns the threads that touch it first.  A huge page is zeroed, and in a virtual machine found by the host, when it is
touched for the first time: 0.3 to 8 ms in one piece, measured, for which a turn would stop.  A thread lives as long as
its page takes, holds no lock and blocks all signals; a fork has none of them.
"""
from libc.stdlib cimport free, malloc

cdef extern from "sys/mman.h" nogil:
    int madvise(void *p, size_t n, int advice)

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "signal.h" nogil:
    enum:
        SIG_SETMASK
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *set)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_t:
        pass
    int pthread_create(pthread_t *thread, const void *attributes, void *(*run)(void *) noexcept nogil, void *argument)
    int pthread_detach(pthread_t thread)

cdef extern from *:
    """
    #include <pthread.h>
    static int fx_warming;
    static void fx_forked(void) { fx_warming = 0; }     /* a child has none of the threads */
    static int fx_watch_forks(void) { return pthread_atfork(NULL, NULL, fx_forked); }
    static inline int fx_warming_add(int n) { return __atomic_add_fetch(&fx_warming, n, __ATOMIC_ACQ_REL); }
    static inline void fx_touch(char *p) { __atomic_fetch_add(p, 0, __ATOMIC_RELAXED); }
    """
    int fx_watch_forks() noexcept nogil
    int fx_warming_add(int n) noexcept nogil
    void fx_touch(char *p) noexcept nogil

cdef enum:
    PAGE = 4096
    MOST = 8                    # threads
    COLLAPSE = 25               # MADV_COLLAPSE, which older headers lack; a kernel before 6.1 lacks it too


if fx_watch_forks():
    raise MemoryError


cdef struct Region:             # owned by the thread that it is for
    char *p
    size_t size
    bint collapse


cdef void *bring_in(void *argument) noexcept nogil:
    cdef Region *region = <Region *>argument
    cdef size_t i = 0
    if region.collapse:
        madvise(region.p, region.size, COLLAPSE)
    while i < region.size:
        fx_touch(region.p + i)                  # nothing changes, whoever writes there meanwhile
        i += PAGE
    free(region)
    fx_warming_add(-1)
    return NULL


cdef void warm_up(char *p, size_t size, bint collapse) noexcept nogil:
    cdef Region *region
    cdef pthread_t thread
    cdef sigset_t all, before
    if fx_warming_add(1) > MOST:
        fx_warming_add(-1)
        return
    region = <Region *>malloc(sizeof(Region))
    if region == NULL:
        fx_warming_add(-1)
        return
    region.p = p
    region.size = size
    region.collapse = collapse
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &before)
    if pthread_create(&thread, NULL, bring_in, region):
        free(region)
        fx_warming_add(-1)
    else:
        pthread_detach(thread)
    pthread_sigmask(SIG_SETMASK, &before, NULL)


cdef void warm_wait() noexcept nogil:
    while fx_warming_add(0):
        sched_yield()
