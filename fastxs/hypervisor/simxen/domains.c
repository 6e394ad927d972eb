/*
 * libxenctrl's and libxenmanage's view of domains, as libsimxen.so plays them.
 * Knows neither ports nor pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "shim.h"
#include "xen.h"

static char the_ctrl, the_manage;

SX_API void *xc_interface_open(void *a, void *b, unsigned flags)
{
    (void)a; (void)b; (void)flags;
    return shim_attach() < 0 ? NULL : &the_ctrl;
}
SX_API int xc_interface_close(void *x) { (void)x; return 0; }
SX_API const xc_error *xc_get_last_error(void *x)
{
    static xc_error none;

    (void)x;
    return &none;
}

static void query(void)
{
    atomic_fetch_add_explicit(&shim.hv->n_getinfo, 1, memory_order_relaxed);
    shim_hypercall();
}

/* Both count from the first existing domid on. */
static uint32_t existing(uint32_t d)
{
    while (d < shim.hv->top && !shim.hv->dom[d].state)
        d++;
    return d;
}

/* What a toolstack gives each domain that it creates: a UUID, here made of what
 * differs for every creation.  dom0's is zero. */
static struct handle { uint8_t bytes[16]; } handle_of(uint32_t domid)
{
    struct handle h = { { 0x66, 0x61, 0x73, 0x74, 0x78, 0x73, 0x40, 0x00 } };
    uint64_t uid = shim.hv->dom[domid].uid;

    memcpy(h.bytes + 8, &uid, sizeof uid);
    return domid ? h : (struct handle) { { 0 } };
}

SX_API int xc_domain_getinfo(void *x, uint32_t first, unsigned max, xc_dominfo *info)
{
    unsigned n = 0;
    uint32_t d, st;

    (void)x;
    query();
    for (d = first; n < max && (d = existing(d)) < shim.hv->top; d++) {
        st = shim.hv->dom[d].state;
        info[n++] = (xc_dominfo) {
            .domid = d,
            .flags = (st == SX_ALIVE ? XC_RUNNING : 0) | (st & SX_SHUTDOWN ? XC_SHUTDOWN : 0) |
                     (st & SX_DEAD ? XC_DYING : 0),
            .nr_pages = 65536, .nr_online_vcpus = 1,
        };
        memcpy(info[n - 1].handle, handle_of(d).bytes, sizeof info->handle);
    }
    if (n)
        return (int)n;
    errno = ESRCH;
    return -1;
}

SX_API int xc_domain_getinfolist(void *x, uint32_t first, unsigned max, xc_domaininfo *info)
{
    unsigned n = 0;
    uint32_t d, st;

    (void)x;
    query();
    for (d = first; n < max && (d = existing(d)) < shim.hv->top; d++) {
        st = shim.hv->dom[d].state;
        info[n++] = (xc_domaininfo) {
            .domain = (uint16_t)d,
            .flags = (st == SX_ALIVE ? XEN_FLAG_RUNNING : 0) | (st & SX_SHUTDOWN ? XEN_FLAG_SHUTDOWN : 0) |
                     (st & SX_DEAD ? XEN_FLAG_DYING : 0),
            .tot_pages = 65536, .nr_online_vcpus = 1,
        };
        memcpy(info[n - 1].handle, handle_of(d).bytes, sizeof info->handle);
    }
    return (int)n;
}

/* ---------------------------------------------- libxenmanage (Xen 4.21 on) */

/* $SIMXEN_XEN is the version that is played, the newest if it is not set. */
static int before_libxenmanage(void)
{
    const char *version = getenv("SIMXEN_XEN");
    unsigned major, minor;

    return version && sscanf(version, "%u.%u", &major, &minor) == 2 && (major < 4 || (major == 4 && minor < 21));
}

SX_API void *xenmanage_open(void *logger, unsigned flags)
{
    (void)logger; (void)flags;
    if (before_libxenmanage()) {
        errno = ENOSYS;
        return NULL;
    }
    return shim_attach() < 0 ? NULL : &the_manage;
}
SX_API int xenmanage_close(void *x) { (void)x; return 0; }

static void describe(uint32_t d, unsigned *state, unsigned *caps, uint64_t *uid)
{
    uint32_t st = shim.hv->dom[d].state;

    if (state)
        *state = (st ? XM_EXIST : 0) | (st & SX_SHUTDOWN ? XM_SHUTDOWN : 0) |
                 (st & SX_DEAD ? XM_DEAD : st & SX_DYING ? XM_DYING : 0);
    if (caps)
        *caps = d ? 0 : XM_CAP_CONTROL | XM_CAP_HARDWARE | XM_CAP_XENSTORE;
    if (uid)
        *uid = st ? shim.hv->dom[d].uid : 0;
}

SX_API int xenmanage_get_domain_info(void *x, unsigned domid, unsigned *state, unsigned *caps, uint64_t *uid)
{
    (void)x;
    query();
    if (!shim_known(domid)) {
        errno = ESRCH;
        return -1;
    }
    describe(domid, state, caps, uid);
    return 0;
}

SX_API int xenmanage_poll_changed_domain(void *x, unsigned *domid, unsigned *state, unsigned *caps, uint64_t *uid)
{
    uint64_t bits;
    uint32_t w;

    (void)x;
    query();
    for (w = 0; shim.hv->virq_dom_exc && w < sizeof shim.hv->changed / 8; w++)
        if ((bits = shim.hv->changed[w])) {
            *domid = w * 64 + (uint32_t)__builtin_ctzll(bits);
            atomic_fetch_and(&shim.hv->changed[w], ~(1ull << *domid % 64));
            describe(*domid, state, caps, uid);
            return 0;
        }
    errno = ENOENT;
    return -1;
}
