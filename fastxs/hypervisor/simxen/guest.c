/*
 * What a program that plays guests needs.  It is the hypervisor's toolstack as
 * well: domains are created and destroyed here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "simxen.h"

static struct sx_dom *dom(struct sxg *g, uint32_t domid)
{
    if (domid < SX_MAXDOM)
        return &g->sx.hv->dom[domid];
    errno = EINVAL;
    return NULL;
}

/* One that is there and is not torn down yet. */
static struct sx_dom *living(struct sxg *g, uint32_t domid)
{
    struct sx_dom *d = dom(g, domid);

    if (d && d->state && !(d->state & SX_DEAD))
        return d;
    if (d)
        errno = ESRCH;
    return NULL;
}

_Static_assert(sizeof(struct sxg) <= SXG_SIZE, "what other languages set aside");

int sxg_open(struct sxg *g, const char *dir, unsigned slot)
{
    unsigned k, last = slot ? slot : SX_SLOTS - 1;
    char junk[4096];

    memset(g, 0, sizeof *g);
    if (slot >= SX_SLOTS) {
        errno = EINVAL;
        return -1;
    }
    if (sx_attach(&g->sx, dir) < 0)
        return -1;
    g->evfd = -1;
    for (k = slot ? slot : 1; k <= last && g->evfd < 0; k++)
        if ((g->evfd = sx_take(&g->sx, "guest", k, O_CLOEXEC)) >= 0)
            g->slot = k;
    g->rings = mmap(NULL, (size_t)SX_BANKS * SX_MAXDOM * SX_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
                    g->sx.rings_fd, 0);
    if (g->evfd < 0 || g->rings == MAP_FAILED) {
        if (g->evfd >= 0)
            close(g->evfd);
        if (g->rings != MAP_FAILED)
            munmap(g->rings, (size_t)SX_BANKS * SX_MAXDOM * SX_PAGE);
        sx_detach(&g->sx);
        return -1;
    }
    fcntl(g->evfd, F_SETPIPE_SZ, 1 << 18);      /* room for every domid */
    for (k = 1; k < SX_MAXDOM; k++)
        if (g->sx.hv->dom[k].owner == g->slot)
            sxg_kill(g, k, 1);
    while (read(g->evfd, junk, sizeof junk) > 0)
        ;
    return 0;
}

void sxg_close(struct sxg *g)
{
    uint32_t k;

    for (k = 0; k < SX_MAXDOM; k++)
        if (g->sx.hv->dom[k].owner == g->slot) {
            if (k)
                sxg_kill(g, k, 0);
            g->sx.hv->dom[k].owner = 0;
        }
    sxg_virq(g);
    munmap(g->rings, (size_t)SX_BANKS * SX_MAXDOM * SX_PAGE);
    close(g->evfd);
    sx_detach(&g->sx);
}

struct sx_ring *sxg_ring(struct sxg *g, uint32_t domid)
{
    struct sx_dom *d = dom(g, domid);

    return d ? (struct sx_ring *)(g->rings + (size_t)d->page * SX_PAGE) : NULL;
}

struct sx_ring *sxg_create(struct sxg *g, uint32_t domid, uint32_t rport)
{
    struct sx_dom *d = dom(g, domid);

    if (!d)
        return NULL;
    sx_lock(&g->sx);
    if (d->state & SX_DEAD)
        sx_reap(&g->sx);
    if (d->state) {
        sx_unlock(&g->sx);
        errno = EEXIST;
        return NULL;
    }
    d->page = d->creations++ % SX_BANKS * SX_MAXDOM + domid;
    memset(sxg_ring(g, domid), 0, SX_PAGE);
    d->lport = 0;
    d->rport = rport;
    d->owner = g->slot;
    d->ear = 0;
    d->gpend = 0;
    d->uid = ++g->sx.hv->last_uid;
    d->state = SX_ALIVE;
    if (g->sx.hv->top <= domid)
        g->sx.hv->top = domid + 1;
    sx_changed(&g->sx, domid);
    sx_unlock(&g->sx);
    return sxg_ring(g, domid);
}

int sxg_adopt(struct sxg *g, uint32_t domid)
{
    struct sx_dom *d = living(g, domid);

    if (!d)
        return -1;
    d->owner = g->slot;
    d->ear = 0;
    d->gpend = 0;
    return 0;
}

int sxg_prebuild(struct sxg *g, uint32_t domid)
{
    struct sx_dom *d = living(g, domid);
    struct sx_ring *r = sxg_ring(g, domid);

    if (!d)
        return -1;
    r->evtchn_port = d->rport;
    r->connection = 1;
    return 0;
}

/* Xen closes a domain's ports: the daemon's end stays bound, to nothing. */
static void offer(struct sx_dom *d, uint32_t rport)
{
    d->lport = 0;
    d->rport = rport;
}

int sxg_offer(struct sxg *g, uint32_t domid, uint32_t rport)
{
    struct sx_dom *d = living(g, domid);

    if (!d)
        return -1;
    sx_lock(&g->sx);
    offer(d, rport);
    sx_unlock(&g->sx);
    return 0;
}

void sxg_notify(struct sxg *g, uint32_t domid)
{
    uint32_t port = domid < SX_MAXDOM ? atomic_load(&g->sx.hv->dom[domid].lport) : 0;

    atomic_fetch_add_explicit(&g->sx.hv->n_gnotify, 1, memory_order_relaxed);
    if (port)
        sx_deliver(&g->sx, port);
}

int sxg_fileno(struct sxg *g) { return g->evfd; }

int sxg_events(struct sxg *g, uint32_t *domids, int max)
{
    ssize_t n = read(g->evfd, domids, (size_t)max * 4);
    int i;

    for (i = 0; i < n / 4; i++)
        if (domids[i] < SX_MAXDOM)
            atomic_store(&g->sx.hv->dom[domids[i]].gpend, 0);
    return n > 0 ? (int)(n / 4) : 0;
}

int sxg_listen(struct sxg *g, uint32_t domid)
{
    struct sx_dom *d = living(g, domid);
    uint32_t junk[256];
    unsigned k, slot;
    int fd = -1;

    if (!d)
        return -1;
    for (k = 0; k < SX_SLOTS && fd < 0; k++) {
        slot = (g->last_ear + k) % (SX_SLOTS - 1) + 1;
        fd = sx_take(&g->sx, "guest", slot, O_CLOEXEC);
    }
    if (fd < 0) {
        errno = EMFILE;
        return -1;
    }
    g->last_ear = slot;
    while (read(fd, junk, sizeof junk) > 0)
        ;
    d->ear = slot;
    d->gpend = 0;
    return fd;
}

void sxg_heard(struct sxg *g, uint32_t domid, int fd)
{
    uint32_t junk[16];

    while (read(fd, junk, sizeof junk) == sizeof junk)
        ;
    if (domid < SX_MAXDOM)
        atomic_store(&g->sx.hv->dom[domid].gpend, 0);
}

void sxg_unlisten(struct sxg *g, uint32_t domid, int fd)
{
    if (domid < SX_MAXDOM)
        g->sx.hv->dom[domid].ear = 0;
    close(fd);
}

/* ----------------------------------------------------------------- the ring */

static int moved(struct sxg *g, uint32_t domid, char *data, uint32_t n, int out)
{
    struct sx_ring *r = sxg_ring(g, domid);
    struct sx_dom *d = living(g, domid);
    uint32_t cons, prod, at, k, done = 0;

    if (!d)
        return -1;
    if (atomic_load(&r->error)) {
        errno = ECONNRESET;
        return -1;
    }
    while (done < n) {
        cons = atomic_load(out ? &r->req_cons : &r->rsp_cons);
        prod = atomic_load(out ? &r->req_prod : &r->rsp_prod);
        if (prod - cons > SX_RING) {
            errno = EPROTO;
            return -1;
        }
        k = out ? SX_RING - (prod - cons) : prod - cons;
        if (!k)
            break;
        at = (out ? prod : cons) % SX_RING;
        if (k > SX_RING - at)
            k = SX_RING - at;
        if (k > n - done)
            k = n - done;
        if (out)
            memcpy(r->req + at, data + done, k);
        else
            memcpy(data + done, r->rsp + at, k);
        atomic_store(out ? &r->req_prod : &r->rsp_cons, (out ? prod : cons) + k);
        /* Looked at after our index is out: the daemon may have filled the ring meanwhile, and sleep. */
        if (out ? prod == atomic_load(&r->req_cons) : atomic_load(&r->rsp_prod) - cons == SX_RING)
            sxg_notify(g, domid);
        done += k;
    }
    return (int)done;
}

int sxg_put(struct sxg *g, uint32_t domid, const void *data, uint32_t n)
{
    return moved(g, domid, (char *)(uintptr_t)data, n, 1);
}

int sxg_take(struct sxg *g, uint32_t domid, void *data, uint32_t n)
{
    return moved(g, domid, data, n, 0);
}

/* ----------------------------------------------------------------- the ends */

static int change(struct sxg *g, uint32_t domid, uint32_t state, int virq)
{
    struct sx_dom *d = domid ? living(g, domid) : NULL;

    if (!d) {
        if (!domid)
            errno = EINVAL;
        return -1;
    }
    sx_lock(&g->sx);
    if (state & SX_DYING)
        offer(d, 0);
    d->state |= state;
    sx_changed(&g->sx, domid);
    if (state & SX_DEAD) {
        if (d->mapped)
            sx_reap(&g->sx);
        sx_bury(&g->sx, domid);
    }
    if (virq)
        sx_virq(&g->sx);
    sx_unlock(&g->sx);
    return 0;
}

int sxg_shutdown(struct sxg *g, uint32_t domid, int virq)
{
    return change(g, domid, SX_SHUTDOWN, virq);
}

int sxg_dying(struct sxg *g, uint32_t domid)
{
    return change(g, domid, SX_DYING, 0);
}

int sxg_kill(struct sxg *g, uint32_t domid, int virq)
{
    return change(g, domid, SX_DYING | SX_DEAD, virq);
}

void sxg_virq(struct sxg *g)
{
    sx_lock(&g->sx);
    sx_virq(&g->sx);
    sx_unlock(&g->sx);
}

/* ------------------------------------------------------------------ looking */

uint32_t sxg_state(struct sxg *g, uint32_t domid)
{
    struct sx_dom *d = dom(g, domid);

    if (d && d->mapped) {
        sx_lock(&g->sx);
        sx_reap(&g->sx);
        sx_unlock(&g->sx);
    }
    return d ? d->state : 0;
}

uint32_t sxg_mapped(struct sxg *g, uint32_t domid)
{
    struct sx_dom *d = dom(g, domid);

    sxg_state(g, domid);
    return d ? d->mapped : 0;
}

uint64_t sxg_uid(struct sxg *g, uint32_t domid)
{
    struct sx_dom *d = dom(g, domid);

    return d ? d->uid : 0;
}

void sxg_fail(struct sxg *g, unsigned what, uint32_t count, int error)
{
    if (what >= SX_FAILS)
        return;
    atomic_store(&g->sx.hv->fail[what].error, (uint32_t)error);
    atomic_store(&g->sx.hv->fail[what].count, count);
}

uint32_t sxg_failing(struct sxg *g, unsigned what)
{
    return what < SX_FAILS ? atomic_load(&g->sx.hv->fail[what].count) : 0;
}

uint64_t sxg_count(struct sxg *g, const char *name)
{
    const struct { const char *name; _Atomic uint64_t *value; } t[] = {
        { "notify", &g->sx.hv->n_notify },   { "pending", &g->sx.hv->n_pending },
        { "unmask", &g->sx.hv->n_unmask },   { "getinfo", &g->sx.hv->n_getinfo },
        { "gnotify", &g->sx.hv->n_gnotify },
    };
    unsigned i;

    for (i = 0; i < sizeof t / sizeof *t; i++)
        if (!strcmp(t[i].name, name))
            return atomic_load(t[i].value);
    return 0;
}
