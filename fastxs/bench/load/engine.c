/*
 * engine.c - peers over sockets and rings, bursts, the closed loop.  One read and one write per ready peer, nothing
 * allocated while it measures.  A guest does as Linux does: it sleeps on its event channel, and tells the daemon only
 * what that may be waiting for.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "load.h"

enum { EVENTS = 4096 };             /* of one wait; of one look at the guests' event channels */

struct conn *conns;
struct sxg hv;
uint64_t in_flight;
uint32_t domains_made;
static struct conn *guest[SX_MAXDOM];
static uint32_t active, depth, cap; /* this phase's: connections, burst, requests of each */
static uint64_t left, deadline_ns = UINT64_MAX;
static bool expired;
static int epfd;
static char input[1 << 20], output[MAX_DEPTH * MAX_REQUEST];
static struct conn **asker;         /* --shared: whose the next replies are, in their order */
static uint64_t asked, told;
static char *together;              /* and what waits to go out */
static uint32_t together_len;

/* ------------------------------------------------------------------------------------------------ sockets and rings */

static void watch_fd(int fd, uint32_t events, struct conn *c)
{
    struct epoll_event ev = { .events = events, .data.ptr = c };

    if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0)
        err(1, "epoll_ctl");
}

void engine_open(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if ((epfd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        err(1, "epoll_create1");
    if (!opt.domains)
        return;
    if (sxg_open(&hv, NULL, 0) < 0)
        err(1, "the pretend hypervisor");
    watch_fd(sxg_fileno(&hv), EPOLLIN, NULL);
}

void open_socket(struct conn *c)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct timeval patience = { .tv_sec = STALL_MS / 1000 };

    if (strlen(opt.socket) >= sizeof addr.sun_path)
        errx(2, "%s: too long for a socket's path", opt.socket);
    strcpy(addr.sun_path, opt.socket);
    if ((c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0)
        err(1, "connection %u", c->index);
    /* connecting blocks, within bounds, where the daemon's backlog is short; the traffic does not */
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(c->fd, (struct sockaddr *)&addr, sizeof addr) < 0 || fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0)
        err(1, "%s: connection %u", opt.socket, c->index);
    watch_fd(c->fd, EPOLLIN | EPOLLET, c);
}

void share_socket(void)
{
    asker = calloc((size_t)opt.connections * MAX_DEPTH, sizeof *asker);
    together = malloc((size_t)opt.connections * MAX_DEPTH * MAX_REQUEST);
    if (!asker || !together)
        err(1, "start");
    open_socket(&conns[0]);
}

void close_socket(struct conn *c)
{
    if (close(c->fd) < 0)
        err(1, "connection %u: close", c->index);
}

void open_ring(struct conn *c, uint32_t domid)
{
    c->ring = sxg_ring(&hv, domid);
    c->domid = domid;
    guest[domid] = c;
}

/* What is under way is bounded by the depth: it always fits. */
void put(struct conn *c, const char *p, uint32_t n)
{
    struct sx_ring *r = c->ring;
    uint32_t prod, at, first;

    if (asker && !r) {
        memcpy(together + together_len, p, n);
        together_len += n;
        return;
    }
    if (!r) {
        if (write(c->fd, p, n) != (ssize_t)n)
            err(1, "connection %u: write", c->index);
        return;
    }
    prod = atomic_load(&r->req_prod);
    if (prod - atomic_load(&r->req_cons) + n > SX_RING)
        errx(1, "domain %u: %u bytes do not fit into its ring", c->domid, n);
    at = prod % SX_RING;
    first = n < SX_RING - at ? n : SX_RING - at;
    memcpy(r->req + at, p, first);
    memcpy(r->req, p + first, n - first);
    atomic_store(&r->req_prod, prod + n);
    /* looked at after our index is out: it had taken everything, and may sleep */
    if (atomic_load(&r->req_cons) == prod)
        sxg_notify(&hv, c->domid);
}

/* What has come, up to `room` (more than a ring); 0: nothing.  *emptied: if there is more, an event will tell. */
static uint32_t get(struct conn *c, char *p, uint32_t room, bool *emptied)
{
    struct sx_ring *r = c->ring;
    uint32_t cons, at, first, used;
    ssize_t n;

    if (!r) {
        n = read(c->fd, p, room);
        *emptied = n < (ssize_t)room;
        if (n == 0 || (n < 0 && errno != EAGAIN))
            errx(1, "connection %u: closed by the daemon", c->index);
        return n < 0 ? 0 : (uint32_t)n;
    }
    cons = atomic_load(&r->rsp_cons);
    used = atomic_load(&r->rsp_prod) - cons;
    if (used > SX_RING)
        errx(1, "domain %u: impossible ring indices, error %u", c->domid, atomic_load(&r->error));
    *emptied = used == 0;           /* it may have added to it since: look until there is nothing */
    at = cons % SX_RING;
    first = used < SX_RING - at ? used : SX_RING - at;
    memcpy(p, r->rsp + at, first);
    memcpy(p + first, r->rsp, used - first);
    atomic_store(&r->rsp_cons, cons + used);
    if (used && atomic_load(&r->rsp_prod) - cons >= SX_RING)
        sxg_notify(&hv, c->domid);  /* it was full: the daemon may wait for room */
    return used;
}

/* What all who share one connection have put.  What does not go now goes after the next replies. */
static void flush(void)
{
    ssize_t n = together_len ? write(conns[0].fd, together, together_len) : 0;

    if (n < 0 && errno != EAGAIN)
        err(1, "the connection: write");
    if (n > 0)
        memmove(together, together + n, together_len -= (uint32_t)n);
}

static struct conn **turn_of(uint64_t n) { return &asker[n % ((uint64_t)opt.connections * MAX_DEPTH)]; }

static void told_one(on_message *handle, on_idle *next, const struct header *h, const char *body, uint64_t now)
{
    struct conn *c = h->type == WATCH_EVENT ? &conns[0] : *turn_of(told);

    if (h->type != WATCH_EVENT && told++ == asked)
        errx(1, "a reply nobody asked for (type %u, req_id %u)", h->type, h->req_id);
    handle(c, h, body, now);
    if (next)
        next(c);
}

static void drain(struct conn *c, on_message *handle, on_idle *next)
{
    struct header h;
    bool emptied;

    do {
        uint32_t n;
        uint64_t now;
        char *p = input, *end;

        memcpy(input, c->rest, c->held);
        if (!(n = get(c, input + c->held, (uint32_t)sizeof input - c->held, &emptied)))
            return;
        now = now_ns();
        end = input + c->held + n;
        while (end - p >= (ssize_t)sizeof h) {
            memcpy(&h, p, sizeof h);
            if (h.len > PAYLOAD)
                errx(1, "connection %u: a reply of %u bytes", c->index, h.len);
            if (end - p < (ssize_t)(sizeof h + h.len))
                break;
            if (asker)
                told_one(handle, next, &h, p + sizeof h, now);
            else
                handle(c, &h, p + sizeof h, now);
            p += sizeof h + h.len;
        }
        c->held = (uint32_t)(end - p);
        memcpy(c->rest, p, c->held);
    } while (!emptied);
}

/* -------------------------------------------------------------------------------------------------- the closed loop */

static void had_some(struct conn *c, on_message *handle, on_idle *next)
{
    drain(c, handle, next);
    if (asker)
        flush();
    else if (next)
        next(c);
}

void serve(on_message *handle, on_idle *next, uint64_t events)
{
    static struct epoll_event ready[EVENTS];
    static uint32_t domids[EVENTS];

    while (in_flight || count.events < events) {
        int n = epoll_wait(epfd, ready, EVENTS, STALL_MS), guests;

        if (n < 0 && errno != EINTR)
            err(1, "epoll_wait");
        if (n == 0)
            errx(1, "%s: nothing came for %d s (%llu requests under way)", opt.workload, STALL_MS / 1000,
                 ull(in_flight));
        for (int i = 0; i < n; i++) {
            if (ready[i].data.ptr) {
                had_some(ready[i].data.ptr, handle, next);
                continue;
            }
            guests = sxg_events(&hv, domids, EVENTS);
            for (int k = 0; k < guests; k++)
                if (guest[domids[k]])
                    had_some(guest[domids[k]], handle, next);
        }
        if (now_ns() >= deadline_ns)
            expired = true;
    }
}

static void stop(struct conn *c)
{
    c->busy = false;
    c->step_sent = c->step_done = 0;
}

/* After a refusal the client goes away, rather than try for ever; EAGAIN at the end is what it tries again for. */
static void step_answered(struct conn *c, const struct header *h, const char *body, const char *wrong)
{
    uint32_t step = c->step_done++;
    enum op op = load->script->steps[step].op;

    if (!c->busy)
        return;
    if (wrong && op == END && is_conflict(c, h, body)) {
        count.eagain++;
        c->step_sent = c->step_done = (uint32_t)start_of(step);
        return;
    }
    if (wrong) {
        complain(load->name, wrong, c, h, body);
        left = 0;
        stop(c);
        return;
    }
    if (op == START)
        c->tx_id = (uint32_t)atoi(body);
    count.commits += op == END;
    if (step == load->script->last) {
        count.scripts++;
        stop(c);
    }
}

static void answered(struct conn *c, const struct header *h, const char *body, uint64_t now)
{
    const char *wrong;

    if (h->type == WATCH_EVENT && !opt.echo) {
        count.events++;
        return;
    }
    if (c->answered == c->sent)
        errx(1, "connection %u: a reply nobody asked for (type %u, req_id %u)", c->index, h->type, h->req_id);
    wrong = check(c, h, body);
    if (load->script)
        step_answered(c, h, body, wrong);
    else if (wrong)
        complain(load->name, wrong, c, h, body);
    if (!load->untimed)
        took(now - c->when[c->answered % MAX_DEPTH]);
    count.requests++;
    c->answered++;
    in_flight--;
}

static bool may_send(struct conn *c)
{
    int32_t start;

    if (!load->script) {
        if (!left || expired || c->sent - c->base >= cap)
            return false;
        left--;
        return true;
    }
    if (c->step_sent > load->script->last)
        return false;
    /* a transaction that has begun is ended */
    if (expired && load->script->steps[c->step_sent].op == START)
        return false;
    if (!c->busy) {
        if (!left || c->sent != c->answered)
            return false;
        left--;
        c->x = opt.first + domains_made++;
        c->busy = true;
    }
    /* START gives the number that the others need; END, and what is outside, must be known before anything follows */
    start = start_of(c->step_sent);
    return start < 0 || start == (int32_t)c->step_sent ? c->sent == c->answered : (int32_t)c->step_done > start;
}

static void pump(struct conn *c)
{
    char *p = output;
    uint64_t now;
    uint32_t n = 0;

    if (c->index >= active || (c->sent != c->answered && !opt.slide))
        return;
    now = now_ns();
    while (c->sent - c->answered < depth && may_send(c)) {
        p = render(c, c->sent, p);
        c->when[c->sent++ % MAX_DEPTH] = now;
        c->step_sent++;
        if (asker)
            *turn_of(asked++) = c;
        n++;
    }
    if (!n)
        return;
    in_flight += n;
    put(c, output, (uint32_t)(p - output));
}

void run(const struct load *what, uint32_t clients, uint32_t burst, uint64_t n, uint32_t each, double seconds)
{
    load = what;
    active = clients;
    depth = burst;
    cap = each;
    left = n;
    expired = false;
    deadline_ns = end_of(seconds);
    for (uint32_t i = 0; i < opt.connections; i++) {
        conns[i].base = conns[i].sent;
        stop(&conns[i]);
    }
    /* in lock-step each round of this loop is one step of everybody */
    do {
        for (uint32_t i = 0; i < active; i++)
            pump(&conns[i]);
        flush();
        if (!in_flight)
            break;
        serve(answered, opt.lockstep ? NULL : pump, 0);
    } while (1);
}

void await_events(uint64_t events) { serve(answered, NULL, events); }
