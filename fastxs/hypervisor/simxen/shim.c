/*
 * libsimxen.so's libxen* functions: LD_PRELOAD it into Debian's xenstored or
 * oxenstored, load it by its path, or put stub/ (the libxen* sonames) on
 * LD_LIBRARY_PATH of a program that loads the libraries at run time.
 *
 * Each call that would be a hypercall makes one real system call, so that
 * daemons are compared by what they ask for.  SIMXEN_FAST, set, leaves out
 * those that only stand in.
 *
 * Like the libraries it plays: one thread at a time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "simxen.h"
#include "shim.h"
#include "xen.h"

static struct sx S;
static int attached, parity;
static int guest_fd[SX_SLOTS];          /* write side of guest.K, 0: not open yet */

int shim_attach(void)
{
    if (attached)
        return 0;
    if (sx_attach(&S) < 0)
        return -1;
    parity = getenv("SIMXEN_FAST") == NULL;
    attached = 1;
    return 0;
}

static void hypercall(void)
{
    uint32_t word = 0;

    if (parity && write(S.null_fd, &word, 4) < 0)
        return;
}

static int refused(unsigned what)
{
    uint32_t n = atomic_load_explicit(&S.hv->fail[what].count, memory_order_relaxed);

    if (!n)
        return 0;
    atomic_fetch_sub(&S.hv->fail[what].count, 1);
    errno = (int)S.hv->fail[what].error;
    return 1;
}

static struct sx_dom *known(uint32_t domid)
{
    return domid < SX_MAXDOM && S.hv->dom[domid].state ? &S.hv->dom[domid] : NULL;
}

/* ------------------------------------------------------------ libxenevtchn */

typedef struct { int fd; unsigned k; } handle;
static handle handles[SX_HANDLES];      /* fd 0: none (0 is never ours) */

static handle *new_handle(int fd, unsigned k)
{
    unsigned i;

    for (i = 0; i < SX_HANDLES; i++)
        if (!handles[i].fd) {
            handles[i].fd = fd;
            handles[i].k = k;
            return &handles[i];
        }
    errno = EMFILE;
    return NULL;
}

SX_API handle *xenevtchn_open(void *logger, unsigned flags)
{
    char junk[4096];
    handle *h = NULL;
    unsigned k;
    int fd = -1;

    (void)logger;
    if (shim_attach() < 0)
        return NULL;
    sx_lock(&S);
    sx_reap(&S);
    for (k = 0; k < SX_HANDLES && fd < 0; k++)
        if (!(S.hv->handles & 1u << k))
            fd = sx_take(&S, "evtchn", k, flags & XEN_NO_CLOEXEC ? 0 : O_CLOEXEC);
    if (fd >= 0 && (h = new_handle(fd, k - 1))) {
        fcntl(fd, F_SETPIPE_SZ, 1 << 19);       /* room for every port, twice */
        while (read(fd, junk, sizeof junk) > 0)
            ;
        fcntl(fd, F_SETFL, 0);                  /* the device waits, too */
        S.hv->handles |= 1u << h->k;
    }
    sx_unlock(&S);
    if (!h && fd >= 0)
        close(fd);
    return h;
}

/* A descriptor that came over exec: its ports are still bound. */
SX_API handle *xenevtchn_fdopen(void *logger, int fd, unsigned flags)
{
    struct stat mine, st;
    char path[200];
    unsigned k;

    (void)logger;
    if (shim_attach() < 0 || fstat(fd, &mine) < 0)
        return NULL;
    for (k = 0; k < SX_HANDLES; k++) {
        snprintf(path, sizeof path, "%s/evtchn.%u", S.dir, k);
        if (syscall(SYS_newfstatat, AT_FDCWD, path, &st, 0) == 0 && st.st_ino == mine.st_ino &&
            st.st_dev == mine.st_dev) {
            if (!(flags & XEN_NO_CLOEXEC))
                fcntl(fd, F_SETFD, FD_CLOEXEC);
            return new_handle(fd, k);
        }
    }
    errno = EBADF;
    return NULL;
}

SX_API int xenevtchn_close(handle *h)
{
    if (!h)
        return 0;
    close(h->fd);
    h->fd = 0;
    sx_lock(&S);
    sx_reap(&S);                        /* unless another copy is open */
    sx_unlock(&S);
    return 0;
}

SX_API int xenevtchn_fd(handle *h) { return h->fd; }

/* The lowest free one, as Xen does; under the lock. */
static uint32_t new_port(handle *h, uint32_t kind, uint32_t domid, uint32_t rport)
{
    struct sx_port *p;
    uint32_t i;

    for (i = S.hv->free_hint; i < SX_MAXPORT; i++) {
        p = &S.hv->port[i];
        if (p->kind != SX_FREE || p->state)
            continue;
        p->handle = h->k;
        p->domid = domid;
        p->rport = rport;
        p->kind = kind;
        S.hv->free_hint = i + 1;
        return i;
    }
    errno = ENOSPC;
    return 0;
}

SX_API int xenevtchn_bind_interdomain(handle *h, uint32_t domid, uint32_t rport)
{
    struct sx_dom *d;
    uint32_t port = 0;

    sx_lock(&S);
    d = known(domid);
    if (refused(SX_FAIL_BIND))
        ;
    else if (!d)
        errno = ESRCH;
    else if (!rport || d->rport != rport || d->lport)
        errno = EINVAL;                 /* not offered, or bound to somebody */
    else if ((port = new_port(h, SX_INTER, domid, rport))) {
        d->lport = port;
        sx_deliver(&S, port);           /* the guest may have called before */
    }
    sx_unlock(&S);
    return port ? (int)port : -1;
}

SX_API int xenevtchn_bind_virq(handle *h, unsigned virq)
{
    uint32_t port = 0, d;

    sx_lock(&S);
    if (refused(SX_FAIL_BIND))
        ;
    else if (virq >= XEN_NR_VIRQS)
        errno = EINVAL;
    else if (virq == XEN_VIRQ_DOM_EXC && S.hv->virq_dom_exc)
        errno = EEXIST;
    else if ((port = new_port(h, SX_VIRQ, 0, virq)) && virq == XEN_VIRQ_DOM_EXC) {
        S.hv->virq_dom_exc = port;
        memset(S.hv->changed, 0, sizeof S.hv->changed);
        for (d = 0; d < S.hv->top; d++)
            if (S.hv->dom[d].state)
                sx_changed(&S, d);
    }
    sx_unlock(&S);
    return port ? (int)port : -1;
}

/* A port that this handle bound. */
static struct sx_port *bound(handle *h, uint32_t port)
{
    struct sx_port *p = &S.hv->port[port];

    if (port < SX_MAXPORT && p->kind != SX_FREE && p->handle == h->k)
        return p;
    errno = port < SX_MAXPORT ? ENOTCONN : EINVAL;
    return NULL;
}

SX_API int xenevtchn_unbind(handle *h, uint32_t port)
{
    if (!bound(h, port))
        return -1;
    sx_lock(&S);
    sx_free_port(&S, port);
    sx_unlock(&S);
    return 0;
}

SX_API int xenevtchn_notify(handle *h, uint32_t port)
{
    struct sx_port *p = bound(h, port);
    struct sx_dom *d;
    char path[200];
    uint32_t slot;

    if (!p || refused(SX_FAIL_NOTIFY))
        return -1;
    atomic_fetch_add_explicit(&S.hv->n_notify, 1, memory_order_relaxed);
    d = &S.hv->dom[p->domid];
    slot = d->owner;
    if (d->lport != port || !slot || slot >= SX_SLOTS || atomic_exchange(&d->gpend, 1)) {
        hypercall();                    /* nobody there, or told already */
        return 0;
    }
    if (!guest_fd[slot]) {
        snprintf(path, sizeof path, "%s/guest.%u", S.dir, slot);
        guest_fd[slot] = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_NONBLOCK | O_CLOEXEC, 0);
        if (guest_fd[slot] < 0) {
            guest_fd[slot] = 0;
            return 0;
        }
    }
    while (write(guest_fd[slot], &p->domid, 4) < 0 && errno == EINTR)
        ;
    return 0;
}

SX_API int xenevtchn_pending(handle *h)
{
    uint32_t port;

    atomic_fetch_add_explicit(&S.hv->n_pending, 1, memory_order_relaxed);
    return read(h->fd, &port, 4) == 4 ? (int)port : -1;
}

/* Bound here, or unbound with its last event not unmasked yet (which the
 * device forgives, since a reader cannot know).  1: must be queued again. */
static int unmask(handle *h, uint32_t port)
{
    struct sx_port *p = &S.hv->port[port];

    if (port >= SX_MAXPORT || p->handle != h->k || (p->kind == SX_FREE && !(p->state & SX_MASKED))) {
        errno = EINVAL;
        return -1;
    }
    return sx_unmask(&S, port);
}

SX_API int simxen_unmask_many(void *evtchn_handle, const uint32_t *ports, unsigned n)
{
    handle *h = evtchn_handle;
    uint32_t again[1024];
    unsigned i, k = 0, wrote = 0;
    int r = 0, is;

    for (i = 0; i < n; i++) {
        is = unmask(h, ports[i]);
        if (is < 0)
            r = -1;
        else if (is)
            again[k++] = ports[i];
        if (k == sizeof again / sizeof *again || (k && i == n - 1)) {
            sx_push(&S, h->k, again, k);
            k = 0;
            wrote = 1;
        }
    }
    atomic_fetch_add_explicit(&S.hv->n_unmask, n, memory_order_relaxed);
    if (!wrote)
        hypercall();
    return r;
}

SX_API int xenevtchn_unmask(handle *h, uint32_t port)
{
    return simxen_unmask_many(h, &port, 1);
}

/* ------------------------------ libxengnttab, libxenforeignmemory: the pages
 *
 * A mapped page lies at a fixed place of a reserved range, from which its
 * domain follows: PLANES mappings of each domain's page at a time.  What is
 * mapped how is noted in `how`. */

#define PLANES 4u
enum { NOT, GRANT, FOREIGN };
static char *range = MAP_FAILED;
static uint8_t how[PLANES * SX_MAXDOM];
static int space_fd = -1;
static unsigned space;
#define RANGE_SIZE ((size_t)PLANES * SX_MAXDOM * SX_PAGE)

/* Straight to the kernel: preload.c stands in front of munmap(). */
static int reserve(char *at, size_t size)
{
    void *a = mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);

    if (!at)
        range = a;
    return a == MAP_FAILED ? -1 : 0;
}

static int take_space(void)
{
    unsigned k;

    if (space_fd >= 0)
        return 0;
    for (k = 0; k < SX_SPACES; k++)
        if (!(S.hv->spaces & 1u << k) && (space_fd = sx_take(&S, "space", k, O_CLOEXEC)) >= 0) {
            space = k;
            S.hv->spaces |= 1u << k;
            return 0;
        }
    errno = EMFILE;
    return -1;
}

static void *map_page(uint32_t domid, int prot, int as)
{
    void *a = NULL;
    struct sx_dom *d;
    uint32_t i;

    sx_lock(&S);
    d = known(domid);
    if (refused(SX_FAIL_MAP))
        goto out;
    if (!d || d->state & (SX_DYING | SX_DEAD)) {
        errno = as == GRANT ? EINVAL : ESRCH;
        goto out;
    }
    for (i = domid; i < PLANES * SX_MAXDOM && how[i]; i += SX_MAXDOM)
        ;
    if (i >= PLANES * SX_MAXDOM) {
        errno = ENOSPC;
        goto out;
    }
    if (take_space() < 0 || (range == MAP_FAILED && reserve(NULL, RANGE_SIZE) < 0))
        goto out;
    a = mmap(range + (size_t)i * SX_PAGE, SX_PAGE, prot, MAP_SHARED | MAP_FIXED, S.rings_fd, (off_t)d->page * SX_PAGE);
    if (a == MAP_FAILED) {
        a = NULL;
        goto out;
    }
    how[i] = (uint8_t)as;
    d->maps[space]++;
    d->mapped++;
out:
    sx_unlock(&S);
    return a;
}

int shim_is_page(const void *a)
{
    return range != MAP_FAILED && (const char *)a >= range && (const char *)a < range + RANGE_SIZE;
}

static int unmap_page(void *a, int as)
{
    size_t i = shim_is_page(a) ? (size_t)((char *)a - range) / SX_PAGE : 0;

    if (!shim_is_page(a) || (uintptr_t)a % SX_PAGE || how[i] == NOT || (as && how[i] != as)) {
        errno = EINVAL;
        return -1;
    }
    if (reserve(a, SX_PAGE) < 0)
        return -1;
    how[i] = NOT;
    sx_lock(&S);
    sx_drop_map(&S, i % SX_MAXDOM, space);
    sx_unlock(&S);
    return 0;
}

int shim_munmap(void *a)
{
    return unmap_page(a, NOT);
}

static int one(size_t n)
{
    if (n == 1)
        return 1;
    errno = EINVAL;
    return 0;
}

static char the_gnttab, the_memory, the_ctrl, the_manage;

SX_API void *xengnttab_open(void *logger, unsigned flags)
{
    (void)logger; (void)flags;
    return shim_attach() < 0 ? NULL : &the_gnttab;
}
SX_API int xengnttab_close(void *x) { (void)x; return 0; }  /* mapped pages stay */
SX_API int xengnttab_set_max_grants(void *x, uint32_t n) { (void)x; (void)n; return 0; }
SX_API void *xengnttab_map_grant_ref(void *x, uint32_t domid, uint32_t ref, int prot)
{
    (void)x;
    return one(ref == SX_GRANT) ? map_page(domid, prot, GRANT) : NULL;
}
SX_API int xengnttab_unmap(void *x, void *a, uint32_t n)
{
    (void)x;
    return one(n) ? unmap_page(a, GRANT) : -1;
}

SX_API void *xenforeignmemory_open(void *logger, unsigned flags)
{
    (void)logger; (void)flags;
    return shim_attach() < 0 ? NULL : &the_memory;
}
SX_API int xenforeignmemory_close(void *x) { (void)x; return 0; }
SX_API void *xenforeignmemory_map(void *x, uint32_t domid, int prot, size_t n, const uint64_t gfn[], int err[])
{
    void *a;

    (void)x; (void)gfn;                 /* a domain has one page here, at every frame */
    if (!one(n))
        return NULL;
    a = map_page(domid, prot, FOREIGN);
    if (err)
        err[0] = a ? 0 : -errno;
    return a;
}
SX_API int xenforeignmemory_unmap(void *x, void *a, size_t n)
{
    (void)x;
    return one(n) ? unmap_page(a, FOREIGN) : -1;
}
SX_API void *xc_map_foreign_range(void *x, uint32_t domid, int size, int prot, unsigned long gfn)
{
    (void)x; (void)gfn;                 /* taken down by plain munmap() */
    return one(size > 0 && size <= (int)SX_PAGE) ? map_page(domid, prot, FOREIGN) : NULL;
}

SX_API void *simxen_dom0_map(void)
{
    void *a;

    if (shim_attach() < 0)
        return NULL;
    a = mmap(NULL, SX_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, S.rings_fd, 0);
    return a == MAP_FAILED ? NULL : a;
}
SX_API uint32_t simxen_dom0_port(void) { return SX_DOM0_PORT; }

/* ------------------------------------------------------------- libxenctrl */

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
    atomic_fetch_add_explicit(&S.hv->n_getinfo, 1, memory_order_relaxed);
    hypercall();
}

/* Both count from the first existing domid on. */
static uint32_t existing(uint32_t d)
{
    while (d < S.hv->top && !S.hv->dom[d].state)
        d++;
    return d;
}

SX_API int xc_domain_getinfo(void *x, uint32_t first, unsigned max, xc_dominfo *info)
{
    unsigned n = 0;
    uint32_t d, st;

    (void)x;
    query();
    for (d = existing(first); n < max && d < S.hv->top; d = existing(d + 1)) {
        st = S.hv->dom[d].state;
        info[n++] = (xc_dominfo) {
            .domid = d,
            .flags = XC_RUNNING | (st & SX_SHUTDOWN ? XC_SHUTDOWN : 0) | (st & SX_DEAD ? XC_DYING : 0),
            .nr_pages = 65536, .nr_online_vcpus = 1,
        };
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
    for (d = existing(first); n < max && d < S.hv->top; d = existing(d + 1)) {
        st = S.hv->dom[d].state;
        info[n++] = (xc_domaininfo) {
            .domain = (uint16_t)d,
            .flags = XEN_FLAG_RUNNING | (st & SX_SHUTDOWN ? XEN_FLAG_SHUTDOWN : 0) |
                     (st & SX_DEAD ? XEN_FLAG_DYING : 0),
            .tot_pages = 65536, .nr_online_vcpus = 1,
        };
    }
    return (int)n;
}

/* Of a port of ours (dom 0 or DOMID_SELF): what its other end is. */
SX_API int xc_evtchn_status(void *x, xc_evtchn *st)
{
    struct sx_port *p = &S.hv->port[st->port < SX_MAXPORT ? st->port : 0];

    (void)x;
    hypercall();
    if ((st->dom != 0 && st->dom != 0x7ff0) || st->port >= SX_MAXPORT) {
        errno = st->port >= SX_MAXPORT ? EINVAL : ESRCH;
        return -1;
    }
    memset(&st->u, 0, sizeof st->u);
    st->vcpu = 0;
    st->status = XEN_PORT_CLOSED;
    if (p->kind == SX_VIRQ) {
        st->status = XEN_PORT_VIRQ;
        st->u.virq = p->rport;
    } else if (p->kind == SX_INTER && S.hv->dom[p->domid].lport == st->port) {
        st->status = XEN_PORT_INTERDOMAIN;
        st->u.interdomain.dom = (uint16_t)p->domid;
        st->u.interdomain.port = p->rport;
    } else if (p->kind == SX_INTER) {
        st->status = XEN_PORT_UNBOUND;  /* the guest closed its end */
        st->u.unbound.dom = (uint16_t)p->domid;
    }
    return 0;
}

/* ---------------------------------------------- libxenmanage (Xen 4.21 on) */

SX_API void *xenmanage_open(void *logger, unsigned flags)
{
    (void)logger; (void)flags;
    return shim_attach() < 0 ? NULL : &the_manage;
}
SX_API int xenmanage_close(void *x) { (void)x; return 0; }

static void describe(uint32_t d, unsigned *state, unsigned *caps, uint64_t *uid)
{
    uint32_t st = S.hv->dom[d].state;

    if (state)
        *state = (st ? XM_EXIST : 0) | (st & SX_SHUTDOWN ? XM_SHUTDOWN : 0) |
                 (st & SX_DEAD ? XM_DEAD : st & SX_DYING ? XM_DYING : 0);
    if (caps)
        *caps = d ? 0 : XM_CAP_CONTROL | XM_CAP_HARDWARE | XM_CAP_XENSTORE;
    if (uid)
        *uid = st ? S.hv->dom[d].uid : 0;
}

SX_API int xenmanage_get_domain_info(void *x, unsigned domid, unsigned *state, unsigned *caps, uint64_t *uid)
{
    (void)x;
    query();
    if (!known(domid)) {
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
    for (w = 0; S.hv->virq_dom_exc && w < sizeof S.hv->changed / 8; w++)
        if ((bits = S.hv->changed[w])) {
            *domid = w * 64 + (uint32_t)__builtin_ctzll(bits);
            atomic_fetch_and(&S.hv->changed[w], ~(1ull << *domid % 64));
            describe(*domid, state, caps, uid);
            return 0;
        }
    errno = ENOENT;
    return -1;
}

/* ---------------------------------------------------------------- the end */

SX_API void simxen_detach(void)
{
    unsigned k;

    if (!attached)
        return;
    for (k = 0; k < SX_HANDLES; k++) {
        if (handles[k].fd)
            close(handles[k].fd);
        handles[k].fd = 0;
    }
    for (k = 0; k < SX_SLOTS; k++) {
        if (guest_fd[k])
            close(guest_fd[k]);
        guest_fd[k] = 0;
    }
    if (range != MAP_FAILED)
        syscall(SYS_munmap, range, RANGE_SIZE);
    range = MAP_FAILED;
    memset(how, NOT, sizeof how);
    if (space_fd >= 0)
        close(space_fd);
    space_fd = -1;
    sx_lock(&S);
    sx_reap(&S);
    sx_unlock(&S);
    sx_detach(&S);
    attached = 0;
}
