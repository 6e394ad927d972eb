/*
 * xsload - closed-loop load on a XenStore unix socket, at C speed.
 *
 * Owns: connections, requests, the check of every reply, and one line of JSON about it.  Knows nothing of the
 * daemon behind the socket but, with --pid, what the kernel says it used: schedstat of all its threads, read
 * before and after the measured part, so that start, filling and warm-up do not count.
 *
 *     xsload --socket S --workload read [--pid P] [--connections C] [--depth D] [--requests N] [--seconds T] ...
 *
 * A connection sends a burst of D requests in one write and waits for the D replies (--slide: as many requests as
 * replies came).  One read and one write per ready connection, nothing allocated while it measures.
 *
 * Workloads
 *   read write mixed   one of --keys paths of five components, 16-byte values; mixed is 3 reads to 1 write
 *   directory          list the folder of such a path
 *   churn              each connection makes a node and removes it again, over and over
 *   fill               --requests nodes, in order: what the layouts below consist of
 *   transaction        START, 12 writes under /vm/X /vss/X /local/domain/X, END, again on EAGAIN; --requests counts
 *                      commits; --lockstep: nobody goes on before everybody has the answer to this step
 *   hold               --connections idle connections with --watches watches each, until standard input ends
 * Layouts (--at), of --of nodes
 *   bench              /local/domain/0/bench/k123: made anew before each run
 *   wide               /local/domain/0/wide/c123456: one directory (made by a fill before)
 *   nodes              /tool/nodes/12/34/56: 100 in each directory (made by a fill before)
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum op {
    DIRECTORY = 1, READ = 2, WATCH = 4, START = 6, END = 7, WRITE = 11, MKDIR = 12, RM = 13,
    WATCH_EVENT = 15, ERROR = 16,
};
struct header {
    uint32_t type, req_id, tx_id, len;
};
enum {
    PAYLOAD = 4096,
    VALUE = 16,
    MAX_REQUEST = 160,              /* bytes of the largest request made here */
    MAX_DEPTH = 128,                /* so many replies of full size fit into the input buffer */
    FILL_DEPTH = 64,
    STALL_MS = 60000,               /* C xenstored takes seconds for a step of 300 clients in lock-step */
    SETTLE_US = 10000,              /* schedstat is exact for a thread that sleeps */
};

struct conn {
    int fd;
    uint32_t index;
    uint32_t sent, answered;        /* req_id of the next request, of the next reply */
    uint32_t base;                  /* `sent` when this phase began */
    uint32_t held;                  /* bytes of a reply that has not come in whole */
    uint32_t tx_id, x;              /* transaction: its id, the domain it makes */
    uint32_t step_sent, step_done;  /* and how far it is: 0 START, 1 to 12 a write, 13 END */
    bool busy;                      /* it has one to finish */
    uint64_t *when;                 /* ring of max_depth: when a request left */
    char rest[sizeof(struct header) + PAYLOAD];
};

/* One kind of traffic: how a request is made and what its reply must be. */
struct load {
    const char *name;
    enum op (*op)(const struct conn *c, uint32_t id);
    char *(*path)(const struct conn *c, uint32_t id, char *p);
    bool transactional;
};

static struct {
    const char *socket, *workload;
    int pid, cpu;
    uint32_t connections, depth, keys, of, watches, first;
    uint64_t requests, warmup;
    double seconds;
    const struct layout *at;
    bool slide, lockstep, bare, echo;
} opt = { .cpu = -1, .connections = 1, .depth = 1, .keys = 500, .first = 1000 };

static struct {
    uint64_t requests, errors, eagain, commits, events;
    char first_error[200];
    uint64_t histogram[64 * 32];    /* logarithmic with 32 steps to an octave: 3 % wide */
} count;

static const struct load *load;
static struct conn *conns;
static uint32_t active, depth, cap, max_depth;      /* this phase's: connections, burst, requests of each */
static uint64_t left, in_flight, deadline_ns;
static uint32_t next_x;
static bool expired;
static int epfd;
static char input[1 << 20], output[MAX_DEPTH * MAX_REQUEST];
static char listing[PAYLOAD];
static uint32_t listing_len;

static unsigned long long ull(uint64_t v) { return v; }     /* for printf */

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ------------------------------------------------------------------------------------------------ paths and values */

struct layout {
    const char *name, *dir;
    uint32_t folders;               /* levels of 100 below dir */
    const char *leaf;
    uint32_t digits, max;
};
static const struct layout layouts[] = {
    { "bench", "/local/domain/0/bench", 0, "k", 3, 1000 },
    { "wide", "/local/domain/0/wide", 0, "c", 6, 1000000 },
    { "nodes", "/tool/nodes", 2, "", 2, 1000000 },
};

static char *text(char *p, const char *s)
{
    size_t n = strlen(s);

    memcpy(p, s, n);
    return p + n;
}

static char *digits(char *p, uint32_t v, uint32_t n)
{
    for (uint32_t i = n; i--; v /= 10)
        p[i] = (char)('0' + v % 10);
    return p + n;
}

static char *number(char *p, uint32_t v)
{
    uint32_t n = 1;

    for (uint32_t w = v; w >= 10; w /= 10)
        n++;
    return digits(p, v, n);
}

static char *folder(char *p, uint32_t key)
{
    const struct layout *at = opt.at;
    uint32_t above = key / 100;

    p = text(p, at->dir);
    for (uint32_t i = at->folders; i--;) {
        *p++ = '/';
        p = digits(p, i ? above / 100 : above % 100, 2);
    }
    return p;
}

static char *node(char *p, uint32_t key)
{
    p = folder(p, key);
    *p++ = '/';
    p = text(p, opt.at->leaf);
    return digits(p, key, opt.at->digits);
}

/* The key's number, which READ checks, and the request's, so that no two writes are alike. */
static char *value(char *p, uint32_t key, uint32_t id)
{
    return digits(digits(p, key, 8), id, 8);
}

/* --------------------------------------------------------------------------------------------------- kinds of load */

static uint32_t draw(const struct conn *c, uint32_t id)
{
    uint32_t h = id * 0x9E3779B1u ^ (c->index + 1) * 0x85EBCA77u;

    h ^= h >> 15;
    h *= 0x2C1B3C6Du;
    h ^= h >> 12;
    h *= 0x297A2D39u;
    return h ^ h >> 15;
}

/* --keys of the layout's --of nodes, evenly spread */
static uint32_t drawn_key(const struct conn *c, uint32_t id)
{
    return (uint32_t)((uint64_t)draw(c, id) * opt.keys >> 32) * (opt.of / opt.keys);
}

static enum op op_read(const struct conn *c, uint32_t id) { (void)c; (void)id; return READ; }
static enum op op_write(const struct conn *c, uint32_t id) { (void)c; (void)id; return WRITE; }
static enum op op_mixed(const struct conn *c, uint32_t id) { return draw(c, id) & 3 ? READ : WRITE; }
static enum op op_list(const struct conn *c, uint32_t id) { (void)c; (void)id; return DIRECTORY; }
static enum op op_churn(const struct conn *c, uint32_t id) { return (id - c->base) & 1 ? RM : WRITE; }
static enum op op_mkdir(const struct conn *c, uint32_t id) { (void)c; (void)id; return MKDIR; }
static enum op op_rm(const struct conn *c, uint32_t id) { (void)c; (void)id; return RM; }
static enum op op_watch(const struct conn *c, uint32_t id) { (void)c; (void)id; return WATCH; }
static enum op op_renew(const struct conn *c, uint32_t id) { return id - c->base ? RM : MKDIR; }

static char *path_drawn(const struct conn *c, uint32_t id, char *p) { return node(p, drawn_key(c, id)); }
static char *path_folder(const struct conn *c, uint32_t id, char *p) { return folder(p, drawn_key(c, id)); }
static char *path_nth(const struct conn *c, uint32_t id, char *p) { return node(p, id - c->base); }
static char *path_dir(const struct conn *c, uint32_t id, char *p) { (void)c; (void)id; return text(p, opt.at->dir); }

static char *path_own(const struct conn *c, uint32_t id, char *p)
{
    (void)id;
    return digits(text(folder(p, 0), "/x"), c->index, 5);
}

static char *path_hello(const struct conn *c, uint32_t id, char *p) { (void)c; (void)id; return text(p, "/elsewhere"); }

static char *path_elsewhere(const struct conn *c, uint32_t id, char *p)
{
    p = digits(text(p, "/elsewhere/"), c->index, 5);
    *p++ = '/';
    return digits(p, id - c->base, 5);
}

static const char *const roots[] = { "/vm", "/vss", "/local/domain" };

static char *path_root(const struct conn *c, uint32_t id, char *p) { return text(p, roots[id - c->base]); }

static char *path_made(const struct conn *c, uint32_t id, char *p)
{
    *(p = text(p, roots[2])) = '/';
    return number(p + 1, opt.first + id - c->base);
}

/* What a toolstack writes for a new domain: four nodes under each root. */
static const struct { uint32_t root; const char *leaf; } steps[12] = {
    { 0, "/uuid" }, { 0, "/name" }, { 0, "/image/ostype" }, { 0, "/start_time" },
    { 1, "/uuid" }, { 1, "/owner" }, { 1, "/policy/label" }, { 1, "/state" },
    { 2, "/vm" }, { 2, "/name" }, { 2, "/memory/target" }, { 2, "/device/vif/0/state" },
};
enum { LAST_STEP = sizeof steps / sizeof *steps + 1 };

/* The step that request `id` is: requests of one connection are answered in order. */
static uint32_t step_of(const struct conn *c, uint32_t id) { return c->step_done + (id - c->answered); }

static enum op op_step(const struct conn *c, uint32_t id)
{
    uint32_t step = step_of(c, id);

    return step == 0 ? START : step == LAST_STEP ? END : WRITE;
}

static char *path_step(const struct conn *c, uint32_t id, char *p)
{
    uint32_t step = step_of(c, id);

    if (step == 0 || step == LAST_STEP)
        return p;                   /* START carries an empty string, END its T */
    *(p = text(p, roots[steps[step - 1].root])) = '/';
    return text(number(p + 1, c->x), steps[step - 1].leaf);
}

static const struct load workloads[] = {
    { "read", op_read, path_drawn, false },
    { "write", op_write, path_drawn, false },
    { "mixed", op_mixed, path_drawn, false },
    { "directory", op_list, path_folder, false },
    { "churn", op_churn, path_own, false },
    { "fill", op_write, path_nth, false },
    { "transaction", op_step, path_step, true },
    { "hold", op_watch, path_elsewhere, false },
};
static const struct load *find_load(const char *name)
{
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++)
        if (!strcmp(workloads[i].name, name))
            return &workloads[i];
    return NULL;
}

static bool load_is(const char *name) { return !strcmp(opt.workload, name); }

/* what comes before and after */
static const struct load renew = { "renew", op_renew, path_dir, false };
static const struct load fill = { "fill", op_write, path_nth, false };
static const struct load unchurn = { "unchurn", op_rm, path_own, false };
static const struct load hello = { "hello", op_mkdir, path_hello, false };
static const struct load make_roots = { "make-roots", op_mkdir, path_root, false };
static const struct load drop_roots = { "drop-roots", op_rm, path_root, false };
static const struct load drop_made = { "drop-made", op_rm, path_made, false };

/* One request, header and body; returns its end. */
static char *render(const struct conn *c, uint32_t id, char *out)
{
    enum op op = load->op(c, id);
    struct header h = { .type = op, .req_id = id };
    char *body = out + sizeof h, *p = load->path(c, id, body);

    if (load->transactional && op != START)
        h.tx_id = c->tx_id;
    if (op == END)
        *p++ = 'T';
    *p++ = 0;
    if (op == WRITE)
        p = value(p, load->path == path_nth ? id - c->base : load->transactional ? c->x : drawn_key(c, id), id);
    else if (op == WATCH)
        *(p = digits(text(p, "token"), id - c->base, 5)) = 0, p++;
    h.len = (uint32_t)(p - body);
    memcpy(out, &h, sizeof h);
    return p;
}

/* --------------------------------------------------------------------------------------------------- check a reply */

static void complain(const struct conn *c, const struct header *h, const char *body, const char *what)
{
    char got[64];
    uint32_t n = h->len < sizeof got - 1 ? h->len : sizeof got - 1;

    if (count.errors++)
        return;
    for (uint32_t i = 0; i < n; i++)    /* it goes into JSON */
        got[i] = body[i] < ' ' || body[i] > '~' || body[i] == '"' || body[i] == '\\' ? '.' : body[i];
    got[n] = 0;
    snprintf(count.first_error, sizeof count.first_error, "%s: %s: connection %u request %u type %u tx %u len %u: %s",
             load->name, what, c->index, h->req_id, h->type, h->tx_id, h->len, got);
}

/* The first listing is looked at name by name; the others must be the same bytes. */
static bool is_listing(const char *body, uint32_t len)
{
    static bool seen[1000];
    uint32_t width = (uint32_t)strlen(opt.at->leaf) + opt.at->digits + 1, names = opt.at->folders ? 100 : opt.of;

    if (listing_len)
        return len == listing_len && !memcmp(body, listing, len);
    if (len != names * width)
        return false;
    memset(seen, 0, sizeof seen);
    for (const char *p = body; p < body + len; p += width) {
        char *end;
        unsigned long n = strtoul(p + strlen(opt.at->leaf), &end, 10);

        if (strncmp(p, opt.at->leaf, strlen(opt.at->leaf)) || *end || end != p + width - 1 || n >= names || seen[n])
            return false;
        seen[n] = true;
    }
    memcpy(listing, body, len);
    listing_len = len;
    return true;
}

static bool is_ok(const char *body, uint32_t len)
{
    return len == 3 && !memcmp(body, "OK", 3);
}

/* NULL, or what is wrong with the reply to the connection's oldest request. */
static const char *check(const struct conn *c, const struct header *h, const char *body)
{
    static char again[MAX_REQUEST];
    enum op op = load->op(c, c->answered);
    size_t whole;

    if (h->req_id != c->answered)
        return "another req_id";
    if (opt.echo) {
        whole = (size_t)(render(c, c->answered, again) - again);
        return whole == sizeof *h + h->len && !memcmp(again, h, sizeof *h) && !memcmp(again + sizeof *h, body, h->len)
                   ? NULL : "not an echo";
    }
    if (h->tx_id != (load->transactional && op != START ? c->tx_id : 0))
        return "another tx_id";
    if (h->type != op)
        return h->type == ERROR ? "refused" : "another type";
    switch (op) {
    case READ:
        digits(again, drawn_key(c, c->answered), 8);
        return h->len == VALUE && !memcmp(body, again, 8) ? NULL : "another value";
    case DIRECTORY:
        return is_listing(body, h->len) ? NULL : "another listing";
    case START:
        return h->len > 1 && h->len < 12 && !body[h->len - 1] && strspn(body, "0123456789") == h->len - 1 && atoi(body)
                   ? NULL : "no transaction id";
    default:
        return is_ok(body, h->len) ? NULL : "not OK";
    }
}

/* whether the whole transaction is to be done again */
static bool is_conflict(const struct conn *c, const struct header *h, const char *body)
{
    return h->type == ERROR && h->req_id == c->answered && h->tx_id == c->tx_id && h->len == 7 &&
           !memcmp(body, "EAGAIN", 7);
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

    if (!c->busy)
        return;
    if (wrong && step == LAST_STEP && is_conflict(c, h, body)) {
        count.eagain++;
        c->step_sent = c->step_done = 0;
    } else if (wrong) {
        complain(c, h, body, wrong);
        left = 0;
        stop(c);
    } else if (step == 0) {
        c->tx_id = (uint32_t)atoi(body);
    } else if (step == LAST_STEP) {
        count.commits++;
        stop(c);
    }
}

static void took(uint64_t ns)
{
    uint32_t octave;

    if (ns < 64) {
        count.histogram[ns]++;
        return;
    }
    octave = 63u - (uint32_t)__builtin_clzll(ns);
    count.histogram[(octave - 4) * 32 + ((ns >> (octave - 5)) & 31)]++;
}

static uint64_t percentile(double share)
{
    uint64_t seen = 0, want = (uint64_t)(share * (double)count.requests);

    for (uint32_t i = 0; i < sizeof count.histogram / sizeof *count.histogram; i++)
        if ((seen += count.histogram[i]) > want)
            return i < 64 ? i : (uint64_t)(32 + i % 32) << (i / 32 - 1);
    return 0;
}

static void handle(struct conn *c, const struct header *h, const char *body, uint64_t now)
{
    const char *wrong;

    if (h->type == WATCH_EVENT && !opt.echo) {
        count.events++;
        return;
    }
    if (c->answered == c->sent)
        errx(1, "connection %u: a reply nobody asked for (type %u, req_id %u)", c->index, h->type, h->req_id);
    wrong = check(c, h, body);
    if (load->transactional)
        step_answered(c, h, body, wrong);
    else if (wrong)
        complain(c, h, body, wrong);
    took(now - c->when[c->answered % max_depth]);
    count.requests++;
    c->answered++;
    in_flight--;
}

/* ------------------------------------------------------------------------------------------------------ the engine */

static bool may_send(struct conn *c)
{
    if (!load->transactional) {
        if (!left || expired || c->sent - c->base >= cap)
            return false;
        left--;
        return true;
    }
    if (expired)
        return false;
    if (!c->busy) {
        if (!left || c->sent != c->answered)
            return false;
        left--;
        c->x = next_x++;
        c->busy = true;
    }
    /* START gives the id that the others need; END ends the burst */
    return c->step_sent == 0 ? c->sent == c->answered : c->step_done > 0 && c->step_sent <= LAST_STEP;
}

static void pump(struct conn *c)
{
    char *p = output;
    uint64_t now;
    uint32_t n = 0;

    if (c->sent != c->answered && !opt.slide)
        return;
    now = now_ns();
    while (c->sent - c->answered < depth && may_send(c)) {
        p = render(c, c->sent, p);
        c->when[c->sent++ % max_depth] = now;
        c->step_sent++;
        n++;
    }
    if (!n)
        return;
    in_flight += n;
    /* what is under way is bounded by the depth: it always fits */
    if (write(c->fd, output, (size_t)(p - output)) != p - output)
        err(1, "connection %u: write", c->index);
}

static void drain(struct conn *c)
{
    struct header h;
    ssize_t n, room;
    uint64_t now;

    do {
        char *p = input, *end;

        memcpy(input, c->rest, c->held);
        room = (ssize_t)(sizeof input - c->held);
        n = read(c->fd, input + c->held, (size_t)room);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            errx(1, "connection %u: closed by the daemon", c->index);
        now = now_ns();
        end = input + c->held + n;
        while (end - p >= (ssize_t)sizeof h) {
            memcpy(&h, p, sizeof h);
            if (h.len > PAYLOAD)
                errx(1, "connection %u: a reply of %u bytes", c->index, h.len);
            if (end - p < (ssize_t)(sizeof h + h.len))
                break;
            handle(c, &h, p + sizeof h, now);
            p += sizeof h + h.len;
        }
        c->held = (uint32_t)(end - p);
        memcpy(c->rest, p, c->held);
    } while (n == room);            /* else it is empty: edge-triggered */
}

/* Serve until nothing is under way (and `events` events have come). */
static void serve(uint64_t events)
{
    struct epoll_event ready[512];

    while (in_flight || count.events < events) {
        int n = epoll_wait(epfd, ready, sizeof ready / sizeof *ready, STALL_MS);

        if (n < 0 && errno != EINTR)
            err(1, "epoll_wait");
        if (n == 0)
            errx(1, "%s: nothing came for %d s (%llu requests under way)", load->name, STALL_MS / 1000, ull(in_flight));
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;

            drain(c);
            if (!opt.lockstep)
                pump(c);
        }
        if (deadline_ns && now_ns() >= deadline_ns)
            expired = true;
    }
}

/* One phase: `n` requests (transactions) of `what`, at most `each` per connection, at most `seconds`. */
static void run(const struct load *what, uint32_t clients, uint32_t burst, uint64_t n, uint32_t each, double seconds)
{
    load = what;
    active = clients;
    depth = burst;
    cap = each;
    left = n;
    expired = false;
    deadline_ns = seconds > 0 ? now_ns() + (uint64_t)(seconds * 1e9) : 0;
    for (uint32_t i = 0; i < opt.connections; i++) {
        conns[i].base = conns[i].sent;
        stop(&conns[i]);
    }
    /* in lock-step each round of this loop is one step of everybody */
    do {
        for (uint32_t i = 0; i < active; i++)
            pump(&conns[i]);
        if (!in_flight)
            break;
        serve(0);
    } while (1);
}

static void chore(const struct load *what, uint64_t n)
{
    bool lockstep = opt.lockstep;

    opt.lockstep = false;
    if (!opt.echo)
        run(what, 1, FILL_DEPTH, n, UINT32_MAX, 0);
    opt.lockstep = lockstep;
}

static void open_connections(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct timeval patience = { .tv_sec = STALL_MS / 1000 };
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (strlen(opt.socket) >= sizeof addr.sun_path)
        errx(2, "%s: too long for a socket's path", opt.socket);
    strcpy(addr.sun_path, opt.socket);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    conns = calloc(opt.connections, sizeof *conns);
    max_depth = opt.depth > FILL_DEPTH ? opt.depth : FILL_DEPTH;
    if (epfd < 0 || !conns)
        err(1, "start");
    for (uint32_t i = 0; i < opt.connections; i++) {
        struct conn *c = &conns[i];
        struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.ptr = c };

        c->index = i;
        c->when = calloc(max_depth, sizeof *c->when);
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (!c->when || c->fd < 0)
            err(1, "connection %u", i);
        /* connecting blocks, within bounds, where the daemon's backlog is short; the traffic does not */
        setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (connect(c->fd, (struct sockaddr *)&addr, sizeof addr) < 0)
            err(1, "%s: connection %u", opt.socket, i);
        if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &ev) < 0)
            err(1, "connection %u", i);
    }
}

/* ------------------------------------------------------------------------------------ what the kernel says it cost */

/* CPU time of all threads of the daemon: the first number of each schedstat. */
static uint64_t cpu_ns(void)
{
    char name[300];
    struct dirent *task;
    uint64_t sum = 0;
    DIR *tasks;

    if (!opt.pid)
        return 0;
    usleep(SETTLE_US);
    snprintf(name, sizeof name, "/proc/%d/task", opt.pid);
    if (!(tasks = opendir(name)))
        err(1, "%s", name);
    while ((task = readdir(tasks))) {
        unsigned long long ns;
        FILE *f;

        snprintf(name, sizeof name, "/proc/%d/task/%s/schedstat", opt.pid, task->d_name);
        if (task->d_name[0] == '.' || !(f = fopen(name, "r")))
            continue;               /* a thread may end */
        if (fscanf(f, "%llu", &ns) == 1)
            sum += ns;
        fclose(f);
    }
    closedir(tasks);
    return sum;
}

static uint64_t rss_bytes(void)
{
    char name[64];
    unsigned long long pages = 0;
    FILE *f;

    if (!opt.pid)
        return 0;
    snprintf(name, sizeof name, "/proc/%d/statm", opt.pid);
    if (!(f = fopen(name, "r")) || fscanf(f, "%*s %llu", &pages) != 1)
        err(1, "%s", name);
    fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t own_cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* -------------------------------------------------------------------------------------------------------- the runs */

static void before(void)
{
    if (load_is("hold") || load_is("fill"))
        return;
    if (load_is("transaction")) {
        chore(&make_roots, sizeof roots / sizeof *roots);
        if (opt.bare)
            chore(&drop_roots, 2);  /* /local/domain belongs to others too */
    } else if (opt.at == &layouts[0]) {
        chore(&renew, 2);
        chore(&fill, opt.keys);
    }
}

/* Leave the store as it was, so that the next run measures the same. */
static void after(void)
{
    if (load_is("transaction")) {
        chore(&make_roots, sizeof roots / sizeof *roots);
        chore(&drop_roots, 2);
        chore(&drop_made, next_x - opt.first);
    } else if (load_is("churn")) {
        chore(&unchurn, opt.connections);
    }
}

static void measure(void)
{
    const struct load *what = find_load(opt.workload);
    bool holds = load_is("hold");
    uint64_t n = holds ? (uint64_t)opt.connections * opt.watches : opt.requests;
    uint32_t each = holds ? opt.watches : UINT32_MAX, burst = holds ? FILL_DEPTH : opt.depth;
    uint64_t rss_start = rss_bytes(), rss_open, cpu, own, wall;

    open_connections();
    run(&hello, opt.connections, 1, opt.connections, 1, 0);     /* everybody is accepted and was served once */
    before();
    if (opt.warmup)
        run(what, opt.connections, burst, opt.warmup, each, opt.seconds);
    if (count.errors)
        errx(1, "before the measured part: %s", count.first_error);
    memset(&count, 0, sizeof count);
    rss_open = rss_bytes();
    cpu = cpu_ns();
    own = own_cpu_ns();
    wall = now_ns();
    run(what, opt.connections, burst, n, each, opt.seconds);
    if (holds && !opt.echo)
        serve(n);                   /* every watch fires once when it is set */
    wall = now_ns() - wall;
    own = own_cpu_ns() - own;
    cpu = cpu_ns() - cpu;

    printf("{\"workload\": \"%s\", \"connections\": %u, \"depth\": %u, \"requests\": %llu, \"errors\": %llu, ",
           opt.workload, opt.connections, opt.depth, ull(count.requests), ull(count.errors));
    printf("\"first_error\": \"%s\", \"eagain\": %llu, \"commits\": %llu, \"events\": %llu, \"wall_s\": %.6f, ",
           count.first_error, ull(count.eagain), ull(count.commits), ull(count.events), (double)wall / 1e9);
    printf("\"cpu_ns\": %llu, \"client_cpu_ns\": %llu, \"p50_ns\": %llu, \"p99_ns\": %llu, \"p999_ns\": %llu, ",
           ull(cpu), ull(own), ull(percentile(0.5)), ull(percentile(0.99)), ull(percentile(0.999)));
    printf("\"rss_start\": %llu, \"rss_open\": %llu, \"rss_end\": %llu}\n",
           ull(rss_start), ull(rss_open), ull(rss_bytes()));
    fflush(stdout);
    if (holds)
        while (read(0, input, sizeof input) > 0)
            ;
    else
        after();
}

static const char usage[] =
    "usage: xsload --socket PATH --workload NAME [options]\n"
    "  --workload NAME     read write mixed directory churn fill transaction hold\n"
    "  --pid PID           the daemon's: adds its CPU time and memory to the result\n"
    "  --connections C     (1)\n"
    "  --depth D           requests in one burst, at most 128 (1)\n"
    "  --slide             keep D under way instead of bursts\n"
    "  --requests N        how many, all connections together; transactions, not requests (no limit)\n"
    "  --seconds T         for at most so long\n"
    "  --warmup N          requests or transactions that are not counted (0)\n"
    "  --at LAYOUT         bench, wide or nodes (bench)\n"
    "  --of N              nodes that the layout has (bench: as many as keys)\n"
    "  --keys K            different paths among them (500)\n"
    "  --watches W         hold: on each connection (0)\n"
    "  --lockstep          transaction: all wait for all, at each step\n"
    "  --bare              transaction: /vm and /vss do not exist when it starts\n"
    "  --first X           transaction: the first domain to make (1000)\n"
    "  --echo              the server is xsecho\n"
    "  --cpu N             stay on this CPU\n";

enum { SLIDE = 256, LOCKSTEP, BARE, ECHO, HELP };

static uint64_t to_number(const char *name, const char *s, uint64_t min, uint64_t max)
{
    char *end;
    unsigned long long v;

    errno = 0;
    v = strtoull(s, &end, 10);
    if (errno || *end || end == s || *s == '-' || v < min || v > max)
        errx(2, "--%s %s: a number from %llu to %llu is wanted", name, s, ull(min), ull(max));
    return v;
}

static void options(int argc, char **argv)
{
    static const struct option longs[] = {
        { "socket", 1, 0, 's' }, { "workload", 1, 0, 'w' }, { "pid", 1, 0, 'p' }, { "connections", 1, 0, 'c' },
        { "depth", 1, 0, 'd' }, { "requests", 1, 0, 'n' }, { "seconds", 1, 0, 't' }, { "warmup", 1, 0, 'u' },
        { "at", 1, 0, 'a' }, { "of", 1, 0, 'o' }, { "keys", 1, 0, 'k' }, { "watches", 1, 0, 'W' },
        { "first", 1, 0, 'x' }, { "cpu", 1, 0, 'C' }, { "slide", 0, 0, SLIDE }, { "lockstep", 0, 0, LOCKSTEP },
        { "bare", 0, 0, BARE }, { "echo", 0, 0, ECHO }, { "help", 0, 0, HELP }, { 0, 0, 0, 0 },
    };
    const char *at = "bench";
    int o, i;

#define NUMBER(min, max) to_number(longs[i].name, optarg, min, max)
    while ((o = getopt_long(argc, argv, "", longs, &i)) != -1)
        switch (o) {
        case 's': opt.socket = optarg; break;
        case 'w': opt.workload = optarg; break;
        case 'p': opt.pid = (int)NUMBER(1, INT32_MAX); break;
        case 'c': opt.connections = (uint32_t)NUMBER(1, 100000); break;
        case 'd': opt.depth = (uint32_t)NUMBER(1, MAX_DEPTH); break;
        case 'n': opt.requests = NUMBER(1, UINT32_MAX); break;
        case 't': opt.seconds = strtod(optarg, NULL); break;
        case 'u': opt.warmup = NUMBER(0, UINT32_MAX); break;
        case 'a': at = optarg; break;
        case 'o': opt.of = (uint32_t)NUMBER(1, 1000000); break;
        case 'k': opt.keys = (uint32_t)NUMBER(1, 1000000); break;
        case 'W': opt.watches = (uint32_t)NUMBER(0, 100000); break;
        case 'x': opt.first = (uint32_t)NUMBER(1, 1000000); break;
        case 'C': opt.cpu = (int)NUMBER(0, CPU_SETSIZE - 1); break;
        case SLIDE: opt.slide = true; break;
        case LOCKSTEP: opt.lockstep = true; break;
        case BARE: opt.bare = true; break;
        case ECHO: opt.echo = true; break;
        case HELP: fputs(usage, stdout); exit(0);
        default: fputs(usage, stderr); exit(2);
        }
    if (optind < argc || !opt.socket || !opt.workload) {
        fputs(usage, stderr);
        exit(2);
    }
    for (i = 0; i < (int)(sizeof layouts / sizeof *layouts); i++)
        if (!strcmp(layouts[i].name, at))
            opt.at = &layouts[i];
    if (!opt.at)
        errx(2, "--at %s: bench, wide or nodes is wanted", at);
    if (!find_load(opt.workload))
        errx(2, "--workload %s: there is no such one", opt.workload);
    if (load_is("fill")) {
        if (opt.connections != 1 || !opt.requests || opt.requests > opt.at->max)
            errx(2, "fill: one connection and 1 to %u --requests are wanted", opt.at->max);
        opt.of = opt.keys = (uint32_t)opt.requests;
    } else if (!opt.of) {
        opt.of = opt.at == &layouts[0] ? opt.keys : opt.at->max;
    }
    if (opt.of > opt.at->max || opt.keys > opt.of)
        errx(2, "--keys %u --of %u: %s has at most %u nodes", opt.keys, opt.of, at, opt.at->max);
    if (load_is("transaction") && opt.echo)
        errx(2, "an echo has no transactions");
    if (!load_is("hold") && !opt.requests) {
        if (!(opt.seconds > 0))
            errx(2, "--requests or --seconds is wanted");
        opt.requests = UINT32_MAX;
    }
}

int main(int argc, char **argv)
{
    cpu_set_t one;

    options(argc, argv);
    next_x = opt.first;
    if (opt.cpu >= 0) {
        CPU_ZERO(&one);
        CPU_SET(opt.cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one) < 0)
            err(1, "CPU %d", opt.cpu);
    }
    measure();
    return count.errors ? 1 : 0;
}
