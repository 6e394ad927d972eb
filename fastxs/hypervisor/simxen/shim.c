/*
 * libsimxen.so, the libxen* functions over simxen's files: LD_PRELOAD it into
 * Debian's xenstored or oxenstored, load it by its path, or put stub/ (the
 * libxen* sonames) on LD_LIBRARY_PATH of a program that loads the libraries at
 * run time.
 *
 * Each call that would be a hypercall makes one real system call, so that
 * daemons are compared by what they ask for.  SIMXEN_FAST, set, leaves out
 * those that only stand in.
 *
 * Like the libraries it plays: one thread at a time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include "shim.h"

struct sx shim;
static int attached, parity;

int shim_attach(void)
{
    if (attached)
        return 0;
    if (sx_attach(&shim, NULL) < 0)
        return -1;
    parity = getenv("SIMXEN_FAST") == NULL;
    attached = 1;
    return 0;
}

void shim_hypercall(void)
{
    uint32_t word = 0;

    if (parity && write(shim.null_fd, &word, 4) < 0)
        return;
}

int shim_refused(unsigned what)
{
    uint32_t n = atomic_load_explicit(&shim.hv->fail[what].count, memory_order_relaxed);

    if (!n)
        return 0;
    atomic_fetch_sub(&shim.hv->fail[what].count, 1);
    errno = (int)shim.hv->fail[what].error;
    return 1;
}

struct sx_dom *shim_known(uint32_t domid)
{
    return domid < SX_MAXDOM && shim.hv->dom[domid].state ? &shim.hv->dom[domid] : NULL;
}

SX_API void simxen_detach(void)
{
    if (!attached)
        return;
    evtchn_detach();
    pages_detach();
    sx_lock(&shim);
    sx_reap(&shim);
    sx_unlock(&shim);
    sx_detach(&shim);
    attached = 0;
}
