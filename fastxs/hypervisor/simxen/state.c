/*
 * The pretend hypervisor's state and its rules: ports, deaths, who still holds
 * what.  Knows no libxen* function and no XenStore.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "simxen.h"

_Static_assert(offsetof(struct sx_hv, dom) == SX_PAGE, "the header is one page");
_Static_assert(sizeof(struct sx_dom) == 64, "one cache line per domain");
_Static_assert(sizeof(struct sx_port) == 32, "two ports per cache line");
_Static_assert(offsetof(struct sx_ring, req_cons) == 2048 && offsetof(struct sx_ring, error) == 2072 &&
               sizeof(struct sx_ring) == 2080, "the ring page's layout");

/* Not open(): the library stands in front of that one. */
static int raw_open(const char *path, int flags)
{
    return syscall(SYS_openat, AT_FDCWD, path, flags, 0600);
}

static int open_in(struct sx *s, const char *name, int flags)
{
    char path[200];

    snprintf(path, sizeof path, "%s/%s", s->dir, name);
    return raw_open(path, flags);
}

void sx_lock(struct sx *s)
{
    while (flock(s->hv_fd, LOCK_EX) < 0 && errno == EINTR)
        ;
}

void sx_unlock(struct sx *s)
{
    int keep = errno;

    flock(s->hv_fd, LOCK_UN);
    errno = keep;
}

int sx_take(struct sx *s, const char *what, unsigned k, int flags)
{
    char path[200];
    int fd;

    snprintf(path, sizeof path, "%s/%s.%u", s->dir, what, k);
    if (mkfifo(path, 0600) < 0 && errno != EEXIST)
        return -1;
    /* Both ways, so that neither side ever sees a hang-up. */
    fd = raw_open(path, O_RDWR | O_NONBLOCK | flags);
    if (fd < 0)
        return -1;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        close(fd);
        errno = EBUSY;
        return -1;
    }
    return fd;
}

int sx_attach(struct sx *s, const char *dir)
{
    uint32_t none = 0;
    unsigned k;
    int fd;

    memset(s, 0, sizeof *s);
    s->hv_fd = s->rings_fd = s->null_fd = -1;
    s->hv = MAP_FAILED;
    for (k = 0; k < SX_HANDLES; k++)
        s->evt_fd[k] = -1;
    if (!dir)
        dir = getenv("SIMXEN_DIR");
    if (snprintf(s->dir, sizeof s->dir, "%s", dir && *dir ? dir : "/dev/shm/simxen") >= (int)sizeof s->dir) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (mkdir(s->dir, 0700) < 0 && errno != EEXIST)
        return -1;
    s->hv_fd = open_in(s, "hv", O_RDWR | O_CREAT | O_CLOEXEC);
    if (s->hv_fd < 0)
        return -1;
    sx_lock(s);
    s->null_fd = raw_open("/dev/null", O_WRONLY | O_CLOEXEC);
    s->rings_fd = open_in(s, "rings", O_RDWR | O_CREAT | O_CLOEXEC);
    if (s->null_fd < 0 || s->rings_fd < 0 || ftruncate(s->hv_fd, sizeof *s->hv) < 0 ||
        ftruncate(s->rings_fd, (off_t)SX_BANKS * SX_MAXDOM * SX_PAGE) < 0)
        goto fail;
    s->hv = mmap(NULL, sizeof *s->hv, PROT_READ | PROT_WRITE, MAP_SHARED, s->hv_fd, 0);
    if (s->hv == MAP_FAILED)
        goto fail;
    if (atomic_compare_exchange_strong(&s->hv->abi, &none, SX_ABI)) {
        s->hv->dom[0].state = SX_ALIVE;
        s->hv->dom[0].rport = SX_DOM0_PORT;
        s->hv->dom[0].uid = s->hv->last_uid = 1;
        s->hv->free_hint = s->hv->top = 1;
        fd = open_in(s, "xsd_port", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC);
        if (fd < 0 || dprintf(fd, "%u", SX_DOM0_PORT) < 0)
            goto fail;
        close(fd);
    } else if (none != SX_ABI) {
        errno = EPROTO;             /* another version's folder */
        goto fail;
    }
    sx_reap(s);
    sx_unlock(s);
    return 0;
fail:
    sx_detach(s);
    return -1;
}

void sx_detach(struct sx *s)
{
    int keep = errno;
    unsigned k;

    for (k = 0; k < SX_HANDLES; k++)
        if (s->evt_fd[k] >= 0)
            close(s->evt_fd[k]);
    if (s->hv != MAP_FAILED)
        munmap(s->hv, sizeof *s->hv);
    if (s->rings_fd >= 0)
        close(s->rings_fd);
    if (s->null_fd >= 0)
        close(s->null_fd);
    if (s->hv_fd >= 0)
        close(s->hv_fd);            /* and the lock */
    errno = keep;
}

/* ------------------------------------------------------------------ events */

void sx_push(struct sx *s, unsigned handle, const uint32_t *ports, unsigned n)
{
    char name[16];
    int keep = errno;

    if (s->evt_fd[handle] < 0) {
        snprintf(name, sizeof name, "evtchn.%u", handle);
        s->evt_fd[handle] = open_in(s, name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (s->evt_fd[handle] < 0)
            return;
    }
    while (write(s->evt_fd[handle], ports, n * 4) < 0 && errno == EINTR)
        ;
    errno = keep;
}

/* An event arrives: into the pipe once, then masked until it is unmasked. */
void sx_deliver(struct sx *s, uint32_t port)
{
    struct sx_port *p = &s->hv->port[port];
    uint32_t was = atomic_load(&p->state);

    for (;;) {
        if (was & SX_MASKED) {
            if ((was & SX_PENDING) || atomic_compare_exchange_weak(&p->state, &was, was | SX_PENDING))
                return;
        } else if (atomic_compare_exchange_weak(&p->state, &was, SX_MASKED)) {
            sx_push(s, p->handle, &port, 1);
            return;
        }
    }
}

int sx_unmask(struct sx *s, uint32_t port)
{
    _Atomic uint32_t *state = &s->hv->port[port].state;
    uint32_t was = atomic_load(state);

    while (!atomic_compare_exchange_weak(state, &was, was & SX_PENDING ? SX_MASKED : 0))
        ;
    return !!(was & SX_PENDING);
}

void sx_virq(struct sx *s)
{
    uint32_t port = atomic_load(&s->hv->virq_dom_exc);

    if (port)
        sx_deliver(s, port);
}

/* Only noted while somebody listens for deaths: binding the VIRQ marks all. */
void sx_changed(struct sx *s, uint32_t domid)
{
    if (s->hv->virq_dom_exc)
        atomic_fetch_or(&s->hv->changed[domid / 64], 1ull << (domid % 64));
}

/* ------------------------------------------------------- ports and pages go */

void sx_free_port(struct sx *s, uint32_t port)
{
    struct sx_port *p = &s->hv->port[port];
    uint32_t want = port;

    if (p->kind == SX_INTER)
        /* The guest's end is offered again, if it was not closed meanwhile. */
        atomic_compare_exchange_strong(&s->hv->dom[p->domid].lport, &want, 0);
    else if (s->hv->virq_dom_exc == port)
        s->hv->virq_dom_exc = 0;
    p->kind = SX_FREE;
    /* What is in the pipe will be read and unmasked: no new port until then. */
    atomic_fetch_and(&p->state, SX_MASKED);
    if (port < s->hv->free_hint)
        s->hv->free_hint = port;
}

void sx_bury(struct sx *s, uint32_t domid)
{
    struct sx_dom *d = &s->hv->dom[domid];

    if (!(d->state & SX_DEAD) || d->mapped)
        return;
    fallocate(s->rings_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)d->page * SX_PAGE, SX_PAGE);
    d->owner = 0;
    d->state = 0;
    sx_changed(s, domid);
}

void sx_drop_map(struct sx *s, uint32_t domid, unsigned space)
{
    struct sx_dom *d = &s->hv->dom[domid];

    d->maps[space]--;
    if (--d->mapped == 0 && (d->state & SX_DEAD)) {
        sx_bury(s, domid);
        sx_virq(s);
    }
}

/* Ports of closed descriptors and pages of ended processes go now.  A lock
 * that can be had says that its holder is gone. */
void sx_reap(struct sx *s)
{
    struct sx_hv *hv = s->hv;
    uint32_t d, p;
    unsigned k;
    int fd;

    for (k = 0; k < SX_HANDLES; k++) {
        if (!(hv->handles & 1u << k) || (fd = sx_take(s, "evtchn", k, O_CLOEXEC)) < 0)
            continue;
        for (p = 1; p < SX_MAXPORT; p++)
            if (hv->port[p].handle == k) {
                if (hv->port[p].kind != SX_FREE)
                    sx_free_port(s, p);
                hv->port[p].state = 0;      /* nobody will read that pipe */
            }
        hv->free_hint = 1;
        hv->handles &= ~(1u << k);
        close(fd);
    }
    for (k = 0; k < SX_SPACES; k++) {
        if (!(hv->spaces & 1u << k) || (fd = sx_take(s, "space", k, O_CLOEXEC)) < 0)
            continue;
        for (d = 0; d < hv->top; d++)
            while (hv->dom[d].maps[k])
                sx_drop_map(s, d, k);
        hv->spaces &= ~(1u << k);
        close(fd);
    }
}
