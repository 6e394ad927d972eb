/*
 * libxenevtchn as libsimxen.so plays it: handles, ports, events.  A handle is
 * an open pipe with a lock on it (simxen.h), so its ports end with the last
 * copy of the descriptor, whoever holds it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "shim.h"
#include "xen.h"

static int guest_fd[SX_SLOTS];          /* write side of guest.K, 0: not open yet */

typedef struct { int fd; unsigned k; int overflowed; } handle;
static handle handles[SX_HANDLES];      /* fd 0: none (0 is never ours) */

static handle *new_handle(int fd, unsigned k)
{
    unsigned i;

    for (i = 0; i < SX_HANDLES; i++)
        if (!handles[i].fd) {
            handles[i].fd = fd;
            handles[i].k = k;
            handles[i].overflowed = 0;
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
    sx_lock(&shim);
    sx_reap(&shim);
    for (k = 0; k < SX_HANDLES && fd < 0; k++)
        if (!(shim.hv->handles & 1u << k))
            fd = sx_take(&shim, "evtchn", k, flags & XEN_NO_CLOEXEC ? 0 : O_CLOEXEC);
    if (fd >= 0 && (h = new_handle(fd, k - 1))) {
        fcntl(fd, F_SETPIPE_SZ, 1 << 19);       /* room for every port, twice */
        while (read(fd, junk, sizeof junk) > 0)
            ;
        fcntl(fd, F_SETFL, 0);                  /* the device waits, too */
        shim.hv->handles |= 1u << h->k;
    }
    sx_unlock(&shim);
    if (!h && fd >= 0)
        close(fd);
    return h;
}

/* A descriptor that came over exec: its ports are still bound.  It stays as it is, open for a next exec, too. */
SX_API handle *xenevtchn_fdopen(void *logger, int fd, unsigned flags)
{
    struct stat mine, st;
    char path[200];
    unsigned k;

    (void)logger;
    if (flags) {
        errno = EINVAL;
        return NULL;
    }
    if (shim_attach() < 0 || fstat(fd, &mine) < 0)
        return NULL;
    for (k = 0; k < SX_HANDLES; k++) {
        snprintf(path, sizeof path, "%s/evtchn.%u", shim.dir, k);
        if (syscall(SYS_newfstatat, AT_FDCWD, path, &st, 0) == 0 && st.st_ino == mine.st_ino &&
            st.st_dev == mine.st_dev)
            return new_handle(fd, k);
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
    sx_lock(&shim);
    sx_reap(&shim);                     /* unless another copy is open */
    sx_unlock(&shim);
    return 0;
}

SX_API int xenevtchn_fd(handle *h) { return h->fd; }

/* The lowest free one, as Xen does; under the lock. */
static uint32_t new_port(handle *h, uint32_t kind, uint32_t domid, uint32_t rport)
{
    struct sx_port *p;
    uint32_t i;

    for (i = shim.hv->free_hint; i < SX_MAXPORT; i++) {
        p = &shim.hv->port[i];
        if (p->kind != SX_FREE || p->state)
            continue;
        p->handle = h->k;
        p->domid = domid;
        p->rport = rport;
        p->kind = kind;
        shim.hv->free_hint = i + 1;
        return i;
    }
    errno = ENOSPC;
    return 0;
}

SX_API int xenevtchn_bind_interdomain(handle *h, uint32_t domid, uint32_t rport)
{
    struct sx_dom *d;
    uint32_t port = 0;

    sx_lock(&shim);
    d = shim_known(domid);
    if (shim_refused(SX_FAIL_BIND))
        ;
    else if (!d)
        errno = ESRCH;
    else if (!rport || d->rport != rport || d->lport)
        errno = EINVAL;                 /* not offered, or bound to somebody */
    else if ((port = new_port(h, SX_INTER, domid, rport))) {
        d->lport = port;
        d->gpend = 0;                   /* who was bound before may have died while he told the guest */
        sx_deliver(&shim, port);        /* the guest may have called before */
    }
    sx_unlock(&shim);
    return port ? (int)port : -1;
}

SX_API int xenevtchn_bind_virq(handle *h, unsigned virq)
{
    uint32_t port = 0, d;

    sx_lock(&shim);
    if (shim_refused(SX_FAIL_BIND))
        ;
    else if (virq >= XEN_NR_VIRQS)
        errno = EINVAL;
    else if (virq == XEN_VIRQ_DOM_EXC && shim.hv->virq_dom_exc)
        errno = EEXIST;
    else if ((port = new_port(h, SX_VIRQ, 0, virq)) && virq == XEN_VIRQ_DOM_EXC) {
        shim.hv->virq_dom_exc = port;
        memset(shim.hv->changed, 0, sizeof shim.hv->changed);
        for (d = 0; d < shim.hv->top; d++)
            if (shim.hv->dom[d].state)
                sx_changed(&shim, d);
    }
    sx_unlock(&shim);
    return port ? (int)port : -1;
}

/* A port that this handle bound. */
static struct sx_port *bound(handle *h, uint32_t port)
{
    struct sx_port *p = &shim.hv->port[port];

    if (port < SX_MAXPORT && p->kind != SX_FREE && p->handle == h->k)
        return p;
    errno = port < SX_MAXPORT ? ENOTCONN : EINVAL;
    return NULL;
}

SX_API int xenevtchn_unbind(handle *h, uint32_t port)
{
    if (!bound(h, port))
        return -1;
    sx_lock(&shim);
    sx_free_port(&shim, port);
    sx_unlock(&shim);
    return 0;
}

SX_API int xenevtchn_notify(handle *h, uint32_t port)
{
    struct sx_port *p = bound(h, port);
    struct sx_dom *d;
    char path[200];
    uint32_t slot;

    if (!p || shim_refused(SX_FAIL_NOTIFY))
        return -1;
    atomic_fetch_add_explicit(&shim.hv->n_notify, 1, memory_order_relaxed);
    d = &shim.hv->dom[p->domid];
    slot = d->ear ? d->ear : d->owner;
    if (d->lport != port || !slot || slot >= SX_SLOTS || atomic_exchange(&d->gpend, 1)) {
        shim_hypercall();               /* nobody there, or told already */
        return 0;
    }
    if (!guest_fd[slot]) {
        snprintf(path, sizeof path, "%s/guest.%u", shim.dir, slot);
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

SX_API int simxen_pending_many(void *evtchn_handle, uint32_t *ports, unsigned room)
{
    handle *h = evtchn_handle;
    ssize_t n;

    atomic_fetch_add_explicit(&shim.hv->n_pending, 1, memory_order_relaxed);
    if (h->overflowed)
        errno = EFBIG;
    if (h->overflowed || shim_refused(SX_FAIL_READ)) {
        h->overflowed = errno == EFBIG;
        return -1;
    }
    n = read(h->fd, ports, room * sizeof *ports);
    return n < 0 ? -1 : (int)(n / (ssize_t)sizeof *ports);
}

SX_API int xenevtchn_pending(handle *h)
{
    uint32_t port;

    return simxen_pending_many(h, &port, 1) == 1 ? (int)port : -1;
}

SX_API int simxen_reset(void *evtchn_handle)
{
    handle *h = evtchn_handle;
    uint32_t lost[256];
    int size, n, i;

    sx_lock(&shim);
    while (ioctl(h->fd, FIONREAD, &size) == 0 && size > 0 && (n = (int)read(h->fd, lost, sizeof lost)) > 0)
        for (i = 0; i < n / 4; i++)
            if (shim.hv->port[lost[i]].kind == SX_FREE)
                shim.hv->port[lost[i]].state = 0;       /* nobody will unmask it */
    sx_unlock(&shim);
    h->overflowed = 0;
    return 0;
}

/* Bound here, or unbound with its last event not unmasked yet (which the
 * device forgives, since a reader cannot know).  1: must be queued again. */
static int unmask(handle *h, uint32_t port)
{
    struct sx_port *p = &shim.hv->port[port];

    if (port >= SX_MAXPORT || p->handle != h->k || (p->kind == SX_FREE && !(p->state & SX_MASKED))) {
        errno = EINVAL;
        return -1;
    }
    return sx_unmask(&shim, port);
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
            sx_push(&shim, h->k, again, k);
            k = 0;
            wrote = 1;
        }
    }
    atomic_fetch_add_explicit(&shim.hv->n_unmask, n, memory_order_relaxed);
    if (!wrote)
        shim_hypercall();
    return r;
}

SX_API int xenevtchn_unmask(handle *h, uint32_t port)
{
    return simxen_unmask_many(h, &port, 1);
}

/* Of a port of ours (dom 0 or DOMID_SELF): what its other end is. */
SX_API int xc_evtchn_status(void *x, xc_evtchn *st)
{
    struct sx_port *p = &shim.hv->port[st->port < SX_MAXPORT ? st->port : 0];

    (void)x;
    shim_hypercall();
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
    } else if (p->kind == SX_INTER && shim.hv->dom[p->domid].lport == st->port) {
        st->status = XEN_PORT_INTERDOMAIN;
        st->u.interdomain.dom = (uint16_t)p->domid;
        st->u.interdomain.port = p->rport;
    } else if (p->kind == SX_INTER) {
        st->status = XEN_PORT_UNBOUND;  /* the guest closed its end */
        st->u.unbound.dom = (uint16_t)p->domid;
    }
    return 0;
}

void evtchn_detach(void)
{
    unsigned k;

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
}
