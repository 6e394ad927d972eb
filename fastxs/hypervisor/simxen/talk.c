/*
 * Requests and answers, over the unix socket and over rings, and what is
 * counted of them.  Every answer is for the request that waits for it; watch
 * events go by their token, which is a watch's number.  Knows no paths.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "simguest.h"

#define LOST_NS     (50ull * NS_PER_MS) /* a notification that has not come by then was lost */
#define TOLD        20u                 /* failures in words; more are only counted */

struct message { uint32_t type, req_id, tx_id, len; };

struct ask {                            /* on the stack of the fiber that waits */
    struct ask *next;
    struct fiber *fiber;
    uint32_t type, req_id;
};

struct sxg G;
const char *socket_path;
struct conn dom0;
struct stats measured;
unsigned long failures, late;
double rate;
int verbose;

const char *const operation_names[OPERATIONS] = {
    "CONTROL", "DIRECTORY", "READ", "GET_PERMS", "WATCH", "UNWATCH", "TRANSACTION_START", "TRANSACTION_END",
    "INTRODUCE", "RELEASE", "GET_DOMAIN_PATH", "WRITE", "MKDIR", "RM", "SET_PERMS", "WATCH_EVENT", "ERROR",
    "IS_DOMAIN_INTRODUCED", "RESUME", "SET_TARGET", "RESTRICT", "RESET_WATCHES", "DIRECTORY_PART", "GET_FEATURE",
    "SET_FEATURE", "GET_QUOTA", "SET_QUOTA",
};
const char *const error_words[WORDS] = {
    "EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO", "ENOTEMPTY", "ENOSYS", "EROFS",
    "EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM", "other",
};

char answer[PAYLOAD_MAX + 1];
uint32_t answer_len;
static uint32_t answer_type;

static struct conn *of_domain[SX_MAXDOM], *conns;       /* rings by domid; all that are open */
static struct watch *watches;
static unsigned n_watches;
static uint64_t quiet_ns, silent_ns;
static struct stats unmeasured, *stats = &unmeasured;
static void (*tick)(void);

/* ----------------------------------------------------------------- counting */

static void add_latency(struct operation *o, uint64_t ns)
{
    unsigned top = ns < 16 ? 4 : 63 - (unsigned)__builtin_clzll(ns);
    unsigned i = ns < 16 ? (unsigned)ns : (top - 3) * 16 + (unsigned)(ns >> (top - 4) & 15);

    o->latency[i < BUCKETS ? i : BUCKETS - 1]++;
}

void measure(int on)
{
    if (on)
        memset(&measured, 0, sizeof measured);
    *(on ? &measured.began_ns : &measured.ended_ns) = now_ns();
    stats = on ? &measured : &unmeasured;
}

double latency_us(const struct operation *o, unsigned how_many, double part)
{
    unsigned long all = 0, seen = 0;
    unsigned i, k;

    for (k = 0; k < how_many; k++)
        all += o[k].count;
    if (!all)
        return 0;
    for (i = 0; i < BUCKETS - 1; i++) {
        for (k = 0; k < how_many; k++)
            seen += o[k].latency[i];
        if ((double)seen >= part * (double)all)
            break;
    }
    return (i < 16 ? i + 1 : (double)((16 + i % 16 + 1ull) << (i / 16 - 1))) / 1e3;
}

static void count(const struct ask *ask, uint64_t since)
{
    struct operation *o = &stats->operations[ask->type];
    unsigned i;

    stats->requests++;
    o->count++;
    add_latency(o, now_ns() - since);
    if (answer_type == ERROR) {
        o->errors++;
        for (i = 0; i < WORDS - 1 && !refused(error_words[i]); i++)
            ;
        stats->errors[i]++;
    }
}

int is(const char *value) { return answer_len == strlen(value) && !memcmp(answer, value, answer_len); }

int refused(const char *word)
{
    return answer_type == ERROR && answer_len == strlen(word) + 1 && !memcmp(answer, word, answer_len);
}

int check(uint32_t domid, int ok, const char *what)
{
    if (ok && verbose)
        fprintf(stderr, "domain %u: ok: %s\n", domid, what);
    if (!ok && failures++ < TOLD)
        fprintf(stderr, "domain %u: FAILED: %s: answer type %u, %u bytes '%.60s'\n", domid, what, answer_type,
                answer_len, answer);
    return ok;
}

void die(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    fputs("simguest: ", stderr);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
    failures++;
    exit(1);
}

/* -------------------------------------------------------------------- bytes */

static void keep(char **to, uint32_t *len, const char *data, uint32_t n)
{
    if (!n)
        return;
    *to = realloc(*to, *len + n);
    if (!*to)
        die("no memory");
    memcpy(*to + *len, data, n);
    *len += n;
}

/* How many bytes the daemon took. */
static uint32_t push(struct conn *c, const char *data, uint32_t n)
{
    ssize_t k;

    if (c->kind == RING)
        k = sxg_put(&G, c->domid, data, n);
    else
        k = send(c->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (k >= 0)
        return (uint32_t)k;
    if (c->kind == RING || (errno != EAGAIN && errno != EINTR))
        die("domain %u: %s: %s", c->domid, c->kind == RING ? "its ring" : "the daemon", strerror(errno));
    return 0;
}

static void flush(struct conn *c)
{
    uint32_t n;

    if (c->out_len) {
        n = push(c, c->out, c->out_len);
        memmove(c->out, c->out + n, c->out_len -= n);
    }
    if (c->kind == SOCKET && c->waits_for_room != (c->out_len != 0)) {
        c->waits_for_room = c->out_len != 0;
        loop_watch_room(c->fd, &c->source, c->waits_for_room);
    }
}

/* What dom0 says in one round of the loop goes together; guests' words go at once. */
static void put(struct conn *c, const char *data, uint32_t n)
{
    keep(&c->out, &c->out_len, data, n);
    if (c != &dom0)
        flush(c);
}

static void hand_over(struct conn *c, const struct message *m, const char *payload)
{
    struct ask **at, *ask;
    struct watch *w;
    const char *token;

    if (m->type == WATCH_EVENT) {
        stats->events++;
        token = memchr(payload, 0, m->len);
        w = watch_of(token ? (unsigned)strtoul(token + 1, NULL, 10) : n_watches);
        w->fired++;
        if (w->waiter) {
            struct fiber *f = w->waiter;

            w->waiter = NULL;
            fiber_resume(f);
        }
        return;
    }
    for (at = &c->first; (ask = *at) && ask->req_id != m->req_id; at = &ask->next)
        ;
    if (!ask || (m->type != ask->type && m->type != ERROR))
        die("domain %u: an answer (type %u) to request %u, which was not asked", c->domid, m->type, m->req_id);
    *at = ask->next;
    if (c->end == &ask->next)
        c->end = at;
    memcpy(answer, payload, m->len);
    answer[m->len] = 0;
    answer_len = m->len;
    answer_type = m->type;
    fiber_resume(ask->fiber);
}

/* All that has come; whether anything has. */
static int pull(struct conn *c)
{
    static char in[65536 + sizeof(struct message) + PAYLOAD_MAX];
    struct message m;
    uint32_t len, at;
    int any = 0;
    ssize_t n;

    while (c->kind != CLOSED) {
        len = c->rest_len;
        if (len)
            memcpy(in, c->rest, len);
        if (c->kind == RING)
            n = sxg_take(&G, c->domid, in + len, 65536);
        else
            n = recv(c->fd, in + len, 65536, MSG_DONTWAIT);
        if (n == 0 && c->kind == SOCKET)
            die("domain %u: the daemon closed the connection", c->domid);
        if (n < 0 && (c->kind == RING || (errno != EAGAIN && errno != EINTR)))
            die("domain %u: %s: %s", c->domid, c->kind == RING ? "its ring" : "the daemon", strerror(errno));
        if (n <= 0)
            break;
        any = 1;
        silent_ns = 0;
        len += (uint32_t)n;
        c->rest_len = 0;
        for (at = 0; len - at >= sizeof m && c->kind != CLOSED; at += (uint32_t)sizeof m + m.len) {
            memcpy(&m, in + at, sizeof m);
            if (m.len > PAYLOAD_MAX)
                die("domain %u: an answer of %u bytes", c->domid, m.len);
            if (len - at - sizeof m < m.len)
                break;
            hand_over(c, &m, in + at + sizeof m);
        }
        if (c->kind != CLOSED)
            keep(&c->rest, &c->rest_len, in + at, len - at);
    }
    return any;
}

static void stir(struct source *source)
{
    struct conn *c = (struct conn *)source;

    flush(c);
    pull(c);
}

static void stir_rings(struct source *source)
{
    uint32_t domids[256];
    int n, i;

    (void)source;
    do {
        n = sxg_events(&G, domids, 256);
        for (i = 0; i < n; i++)
            if (domids[i] < SX_MAXDOM && of_domain[domids[i]])
                stir(&of_domain[domids[i]]->source);
    } while (n == 256);
}

/* ----------------------------------------------------------------- patience */

/* Nothing came for a while: is anybody waiting for it? */
static void silence(void)
{
    unsigned long before = failures;
    struct conn *c, *next;
    unsigned d;

    for (c = quiet_ns == LOST_NS ? conns : NULL; c; c = next) {
        next = c->next;
        flush(c);
        late += pull(c);
    }
    silent_ns += quiet_ns;
    if (silent_ns < PATIENCE_NS)
        return;
    silent_ns = 0;
    for (c = conns; c; c = c->next)
        if (c->first && failures++ < TOLD)
            fprintf(stderr, "domain %u: FAILED: no answer to %s\n", c->domid, operation_names[c->first->type]);
    for (d = 0; d < n_watches; d++)
        if (watches[d].waiter && failures++ < TOLD)
            fprintf(stderr, "domain %u: FAILED: a watch did not fire\n", watches[d].domid);
    if (failures != before)
        die("the daemon has not stirred for %llu s", PATIENCE_NS / NS_PER_S);
}

static void settle(void)
{
    flush(&dom0);
    tick();
}

void talk_run(void (*each_time)(void))
{
    tick = each_time;
    loop_run(settle, silence, quiet_ns);
}

/* -------------------------------------------------------------------- faces */

void talk_open(unsigned how_many_watches, int patient)
{
    static struct source rings = { stir_rings };

    quiet_ns = patient ? LOST_NS : PATIENCE_NS;
    n_watches = how_many_watches;
    watches = calloc(n_watches + 1, sizeof *watches);   /* one more: for tokens that are not ours */
    if (!watches)
        die("no memory");
    loop_open();
    loop_watch(sxg_fileno(&G), &rings);
    conn_open(&dom0, 0, SOCKET);
}

static int connected(void)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(socket_path) >= sizeof un.sun_path)
        die("%s: name too long", socket_path);
    memcpy(un.sun_path, socket_path, strlen(socket_path));
    if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof un) < 0)
        die("%s: %s", socket_path, strerror(errno));
    return fd;
}

void conn_open(struct conn *c, uint32_t domid, enum kind kind)
{
    memset(c, 0, sizeof *c);
    c->source.ready = stir;
    c->domid = domid;
    c->end = &c->first;
    if (kind == SOCKET) {
        c->fd = connected();
        loop_watch(c->fd, &c->source);
    }
    c->kind = kind;
    if (kind == RING)
        of_domain[domid] = c;
    c->next = conns;
    c->at = &conns;
    if (conns)
        conns->at = &c->next;
    conns = c;
}

void conn_close(struct conn *c)
{
    if (c->kind == RING)
        of_domain[c->domid] = NULL;
    else
        close(c->fd);
    *c->at = c->next;
    if (c->next)
        c->next->at = c->at;
    c->kind = CLOSED;
    free(c->out);
    free(c->rest);
    c->out_len = c->rest_len = 0;       /* the loop may have something for it yet */
}

int request_bytes(struct conn *c, uint32_t type, uint32_t tx, const void *payload, uint32_t len)
{
    static uint32_t last_id;
    static char out[sizeof(struct message) + PAYLOAD_MAX];
    struct ask ask = { .fiber = fiber_self(), .type = type };
    struct message m = { type, 0, tx, len };
    uint64_t since = now_ns();

    memcpy(out + sizeof m, payload, len);
    m.req_id = ask.req_id = ++last_id;
    memcpy(out, &m, sizeof m);
    *c->end = &ask;
    c->end = &ask.next;
    put(c, out, (uint32_t)sizeof m + len);
    fiber_wait();
    count(&ask, since);
    return answer_type == type;
}

int request(struct conn *c, uint32_t type, uint32_t tx, const char *format, ...)
{
    static char payload[PAYLOAD_MAX];
    va_list ap;
    int n, i;

    va_start(ap, format);
    n = vsnprintf(payload, sizeof payload, format, ap);
    va_end(ap);
    for (i = 0; i < n; i++)
        if (payload[i] == '|')
            payload[i] = 0;
    return request_bytes(c, type, tx, payload, (uint32_t)n);
}

struct watch *watch_of(unsigned number)
{
    return &watches[number < n_watches ? number : n_watches];
}

void watch_await(struct watch *w, unsigned seen, uint32_t domid)
{
    w->domid = domid;
    while (w->fired <= seen) {
        w->waiter = fiber_self();
        fiber_wait();
    }
}

void watch_fire(struct watch *w)
{
    w->fired++;
    if (w->waiter) {
        fiber_wake(w->waiter);
        w->waiter = NULL;
    }
}
