/*
 * guests: guests that keep books.
 *
 *     guests COUNT FIRST SEED FILE [SOCKET]
 *
 * Each speaks over its ring, or with SOCKET over a client socket of its own,
 * and knows what every answer must be, since it alone writes below its home:
 * one answer to each request, in order, byte by byte.  A request that was lost,
 * or done twice, changes a later answer.  What several of them do is counted:
 * a transaction increments a number that all share, and each watches what its
 * neighbour writes, one event for each write.  The daemon may die and come
 * back at any time meanwhile.
 *
 * On standard input: `g` the domains are introduced, begin; `k` the daemon
 * is dead, so open transactions may fail from now on; `a` print `alive` when each has
 * got one more answer; `f` the file system fills up, so what needs room may be
 * refused, `r` there is room again; `q` end.  Then what the store must hold is
 * in FILE, and one line of JSON on standard output.  The domains are there until
 * the input is closed.  Exit status 0: all was well.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "simguest.h"

#define PORT        2u                  /* what every guest offers */
#define KEYS        12u                 /* k/0 ..: written, removed, made */
#define NEWS        64u                 /* news/0 .., as own/0 ..: by turns, so that no two events that wait are equal */
#define AHEAD       48u                 /* of the neighbour, at most */
#define HOARD       64u                 /* hoard/0 .., large, while the file system is full */
#define WIDE        30u                 /* children of wide, with long names: a list larger than the ring */
#define LONG_NAME   "a-name-that-is-long-and-says-nothing-at-all-"
#define COUNTERS    16u                 /* /shared/0 .. */
#define ASKS        64u                 /* room for answers that are owed */
#define LARGE       3000u               /* bytes of a large value */
#define TOLD        20u                 /* faults */

struct header { uint32_t type, req_id, tx_id, len; };

struct ask {                            /* an answer, or an event of the guest's own doing, that must come next */
    uint32_t type, req_id, tx_id, len;
    char *want;                         /* NULL: whatever it is */
};

struct value { uint32_t serial, len; int there; uint32_t born; };

struct peer {
    struct source source;               /* of its socket */
    struct fiber *fiber;
    struct peer *neighbour;             /* whose news it watches */
    struct peer *reader;                /* who watches its own */
    uint32_t domid;
    int fd;                             /* -1: it has a ring */
    int lost;                           /* the daemon closed its socket */
    uint64_t chance;                    /* xorshift64 */
    uint32_t last_id, serial, births;
    struct ask asks[ASKS];
    unsigned head, owed, patience;      /* patience: the story goes on when no more are owed */
    int waits, alive;
    char *out, *rest;
    uint32_t out_len, rest_len;
    char answer[PAYLOAD_MAX + 1];       /* the last one that was not foretold */
    uint32_t answer_type, answer_len;
    struct value before;                /* of the value that is being written */
    struct value hoard[HOARD], keys[KEYS], own[KEYS], news[NEWS], pair[2];
    unsigned written_own, written, seen;    /* of its news; of its neighbour's */
    int heard, looks_again, watches_own;
};

static struct sxg hypervisor;
static struct peer *peers;
static unsigned n_peers, first, epoch, n_settled, asked_alive, n_alive;
static unsigned long requests, answers, events, wrong, retries, doomed, again, lost, no_room, commits[COUNTERS];
static int begun, ending, full;
static const char *path_of_socket;
static FILE *book;

static void __attribute__((noreturn)) give_up(const char *what)
{
    fprintf(stderr, "guests: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void __attribute__((format(printf, 2, 3))) fail(struct peer *g, const char *format, ...)
{
    va_list ap;

    if (wrong++ >= TOLD)
        return;
    fprintf(stderr, "domain %u, life %u: ", g->domid, epoch);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static uint32_t any(struct peer *g, uint32_t below)
{
    g->chance ^= g->chance << 13;
    g->chance ^= g->chance >> 7;
    g->chance ^= g->chance << 17;
    return (uint32_t)(g->chance >> 16) % below;
}

/* -------------------------------------------------------------------- bytes */

static void keep(char **to, uint32_t *len, const char *data, uint32_t n)
{
    if (!n)
        return;
    *to = realloc(*to, *len + n);
    if (!*to)
        give_up("memory");
    memcpy(*to + *len, data, n);
    *len += n;
}

static void part(struct peer *g);
static void obey(struct source *source);

static void flush(struct peer *g)
{
    ssize_t n;

    if (!g->out_len || g->lost)
        return;
    if (g->fd < 0) {
        n = sxg_put(&hypervisor, g->domid, g->out, g->out_len);
        if (n < 0)
            fail(g, "its ring: %s", strerror(errno));
    } else {
        n = send(g->fd, g->out, g->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            part(g);
    }
    if (n > 0)
        memmove(g->out, g->out + n, g->out_len -= (uint32_t)n);
}

static void owe(struct peer *g, uint32_t type, uint32_t req_id, uint32_t tx_id, const char *want, uint32_t len)
{
    struct ask *a = &g->asks[(g->head + g->owed++) % ASKS];

    *a = (struct ask) { type, req_id, tx_id, len, NULL };
    if (want) {
        a->want = malloc(len + 1);
        memcpy(a->want, want, len);
    }
}

static void is_alive(struct peer *g)
{
    n_alive += (unsigned)(asked_alive && !g->alive);
    g->alive = 1;
}

static void settle_ask(struct peer *g, const struct header *h, const char *payload)
{
    struct ask *a = &g->asks[g->head];
    const char *token = h->type == WATCH_EVENT ? memchr(payload, 0, h->len) : NULL;

    if (token && !strncmp(token + 1, "news", 4)) {      /* the neighbour's doing: at any time */
        const char *at = strstr(payload, "/news/");

        events++;
        if (!at && !g->heard) {
            g->heard = 1;               /* the first one comes with the watch */
        } else if (!at) {
            again++;
            g->looks_again = 1;
        } else if (g->looks_again) {
            while (g->seen < g->neighbour->written && ++g->seen % NEWS != strtoul(at + 6, NULL, 10))
                ;
            g->looks_again = 0;
        } else if (++g->seen % NEWS != strtoul(at + 6, NULL, 10)) {
            fail(g, "event %s, expected number %u (%u), %u are written", payload, g->seen % NEWS, g->seen,
                 g->neighbour->written);
            g->looks_again = 1;
        }
        return;
    }
    if (token && (token[-1] == 'n' && token[-2] == 'w')
        && !(g->owed && a->len == h->len && !memcmp(a->want, payload, h->len))) {
        again++;                        /* at the watch's own path */
        return;
    }
    if (!g->owed) {
        fail(g, "nothing was asked: type %u, request %u, '%.60s'", h->type, h->req_id, payload);
        return;
    }
    if (h->req_id != a->req_id || h->tx_id != a->tx_id || (h->type != a->type && (a->want || h->type != ERROR)))
        fail(g, "type %u, request %u, tx %u '%.60s', expected type %u, request %u, tx %u '%.60s'", h->type, h->req_id,
             h->tx_id, payload, a->type, a->req_id, a->tx_id, a->want ? a->want : "?");
    else if (a->want && (h->len != a->len || memcmp(payload, a->want, a->len)))
        fail(g, "type %u, request %u: %u bytes '%.60s', expected %u bytes '%.60s'", h->type, h->req_id, h->len,
             payload, a->len, a->want);
    if (!a->want) {
        memcpy(g->answer, payload, h->len);
        g->answer[h->len] = 0;
        g->answer_len = h->len;
        g->answer_type = h->type;
    }
    free(a->want);
    g->head = (g->head + 1) % ASKS;
    g->owed--;
    if (h->type == WATCH_EVENT)
        events++;
    else
        answers++;
    if (!full)
        is_alive(g);
}

static void go_on(struct peer *g)
{
    if (g->waits && (g->owed <= g->patience || g->lost)) {
        g->waits = 0;
        fiber_resume(g->fiber);
    }
}

static void pull(struct peer *g)
{
    static char in[65536 + sizeof(struct header) + PAYLOAD_MAX];
    struct header h;
    uint32_t len, at;
    ssize_t n;

    while (!g->lost) {
        len = g->rest_len;
        if (len)
            memcpy(in, g->rest, len);
        if (g->fd < 0)
            n = sxg_take(&hypervisor, g->domid, in + len, 65536);
        else
            n = recv(g->fd, in + len, 65536, MSG_DONTWAIT);
        if (g->fd < 0 ? n < 0 : n == 0 || (n < 0 && errno != EAGAIN)) {
            if (g->fd >= 0)
                part(g);
            else
                fail(g, "its ring: %s", strerror(errno));
            break;
        }
        if (n <= 0)
            break;
        len += (uint32_t)n;
        g->rest_len = 0;
        for (at = 0; len - at >= sizeof h; at += (uint32_t)sizeof h + h.len) {
            memcpy(&h, in + at, sizeof h);
            if (h.len > PAYLOAD_MAX) {
                fail(g, "a message of %u bytes", h.len);
                exit(1);
            }
            if (len - at - sizeof h < h.len)
                break;
            settle_ask(g, &h, in + at + sizeof h);
        }
        keep(&g->rest, &g->rest_len, in + at, len - at);
    }
    flush(g);
    go_on(g);
}

static void stir(struct source *source)
{
    obey(NULL);
    pull((struct peer *)source);
}

static void stir_rings(struct source *source)
{
    uint32_t domids[256];
    int n, i;

    (void)source;
    obey(NULL);                         /* a kill is told before anybody can notice it */
    do {
        n = sxg_events(&hypervisor, domids, 256);
        for (i = 0; i < n; i++)
            if (domids[i] - first < n_peers) {
                flush(&peers[domids[i] - first]);
                pull(&peers[domids[i] - first]);
            }
    } while (n == 256);
}

/* The daemon closed its socket, as it must for one that it was serving in a system call when it died. */
static void part(struct peer *g)
{
    if (g->lost)
        return;
    g->lost = 1;
    lost++;
    is_alive(g);                        /* nobody waits for it */
    close(g->fd);
}

/* ----------------------------------------------------------------- requests */

static void wait_for(struct peer *g, unsigned owed)
{
    if (g->owed <= owed || g->lost)
        return;
    g->patience = owed;
    g->waits = 1;
    fiber_wait();
}

/* '|' is NUL, '~' the guest's home; the length. */
static uint32_t spell(struct peer *g, char *to, const char *format, va_list ap)
{
    char text[512], *at = to;
    const char *from = text;

    vsnprintf(text, sizeof text, format, ap);
    for (; *from; from++)
        if (*from == '~')
            at += g->fd < 0 ? 0 : sprintf(at, "/local/domain/%u/", g->domid);
        else
            *at++ = *from == '|' ? 0 : *from;
    return (uint32_t)(at - to);
}

static char payload[PAYLOAD_MAX];       /* the next request's, until it is sent */
static uint32_t payload_len;

static void __attribute__((format(printf, 2, 3))) say(struct peer *g, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    payload_len = spell(g, payload, format, ap);
    va_end(ap);
}

/* Sometimes in pieces; an answer of type `kind` is owed. */
static void send_request(struct peer *g, uint32_t type, uint32_t tx, uint32_t kind, const char *want, uint32_t want_len)
{
    char message[sizeof(struct header) + PAYLOAD_MAX];
    struct header h = { type, ++g->last_id, tx, payload_len };
    uint32_t len = (uint32_t)sizeof h + payload_len, sent = 0, n;

    memcpy(message, &h, sizeof h);
    memcpy(message + sizeof h, payload, payload_len);
    requests += !g->lost;
    owe(g, kind, h.req_id, tx, want, want_len);
    while (sent < len) {
        n = sent || any(g, 20) ? len - sent : 1 + any(g, len);
        keep(&g->out, &g->out_len, message + sent, n);
        flush(g);
        sent += n;
        if (sent < len)
            fiber_nap_until(now_ns() + any(g, 3000000));
    }
}

/* Not too many are owed at a time. */
static void breathe(struct peer *g) { wait_for(g, 1 + any(g, 10)); }

/* Without `want` the story waits for the answer. */
static void ask(struct peer *g, uint32_t type, uint32_t tx, const char *want, uint32_t want_len)
{
    send_request(g, type, tx, type, want, want_len);
    if (want)
        breathe(g);
    else
        wait_for(g, 0);
}

static void ok(struct peer *g, uint32_t type, uint32_t tx) { ask(g, type, tx, "OK", 3); }

static void must_fail(struct peer *g, uint32_t type, const char *word)
{
    send_request(g, type, 0, ERROR, word, (uint32_t)strlen(word) + 1);
    breathe(g);
}

static int answered(struct peer *g, const char *word)
{
    return g->answer_type == ERROR && !strcmp(g->answer, word);
}

/* ------------------------------------------------------------------- values */

static uint32_t content(struct peer *g, const struct value *v, char *out)
{
    uint32_t n = (uint32_t)sprintf(out, "%u:%u:", g->domid, v->serial), i;

    for (i = n; i < v->len; i++)
        out[i] = (char)('a' + (v->serial + i) % 26);
    return v->len > n ? v->len : n;
}

static void next_value(struct peer *g, struct value *v, uint32_t len)
{
    g->before = *v;
    if (!v->there)
        v->born = ++g->births;
    v->there = 1;
    v->serial = ++g->serial;
    v->len = len;
}

/* The request may be refused while the file system is full: then it changed nothing.  Whether it was done. */
static int change(struct peer *g, uint32_t type, uint32_t tx)
{
    if (!full) {
        ok(g, type, tx);
        return 1;
    }
    ask(g, type, tx, NULL, 0);
    if (answered(g, "ENOSPC")) {
        no_room++;
        return 0;
    }
    if (!g->lost && (g->answer_type != type || g->answer_len != 3 || memcmp(g->answer, "OK", 3)))
        fail(g, "type %u: %s", type, g->answer);
    return 1;
}

static int write_value(struct peer *g, struct value *v, uint32_t tx)
{
    payload_len += content(g, v, payload + payload_len);
    if (change(g, WRITE, tx))
        return 1;
    *v = g->before;
    return 0;
}

static void read_value(struct peer *g, struct value *v)
{
    char want[PAYLOAD_MAX];

    if (v->there)
        ask(g, READ, 0, want, content(g, v, want));
    else
        must_fail(g, READ, "ENOENT");
}

static uint32_t any_length(struct peer *g) { return any(g, 8) ? any(g, 60) : any(g, LARGE); }

/* ------------------------------------------------------------------ stories */

static void keys(struct peer *g)
{
    unsigned k = any(g, KEYS), i, best;
    struct value *v = &g->keys[k];
    char want[KEYS * 8];
    uint32_t n = 0, born = 0;

    switch (any(g, 6)) {
    case 0: case 1:
        next_value(g, v, any_length(g));
        say(g, "~k/%u|", k);
        write_value(g, v, 0);
        break;
    case 2: case 3:
        say(g, "~k/%u|", k);
        read_value(g, v);
        break;
    case 4:
        say(g, "~k/%u|", k);
        g->before = *v;
        v->there = 0;
        if (!change(g, RM, 0))
            *v = g->before;
        break;
    default:                            /* in the order in which they were made */
        for (;;) {
            for (best = KEYS, i = 0; i < KEYS; i++)
                if (g->keys[i].there && g->keys[i].born > born
                    && (best == KEYS || g->keys[i].born < g->keys[best].born))
                    best = i;
            if (best == KEYS)
                break;
            born = g->keys[best].born;
            n += (uint32_t)sprintf(want + n, "%u", best) + 1;
        }
        say(g, "~k|");
        ask(g, DIRECTORY, 0, want, n);
    }
}

static void __attribute__((format(printf, 2, 3))) owe_event(struct peer *g, const char *format, ...)
{
    char event[128];
    uint32_t n;
    va_list ap;

    va_start(ap, format);
    n = spell(g, event, format, ap);
    va_end(ap);
    owe(g, WATCH_EVENT, 0, 0, event, n);
}

/* Each write makes one event, before its answer. */
static void own_events(struct peer *g)
{
    unsigned k;

    if (!any(g, 12)) {
        g->watches_own = !g->watches_own;
        say(g, "~own|own|");
        send_request(g, g->watches_own ? WATCH : UNWATCH, 0, g->watches_own ? WATCH : UNWATCH, "OK", 3);
        if (g->watches_own)
            owe_event(g, "~own|own|");
        breathe(g);
        say(g, "~own|own|");            /* if the first one was done twice, it was refused */
        must_fail(g, g->watches_own ? WATCH : UNWATCH, g->watches_own ? "EEXIST" : "ENOENT");
        return;
    }
    k = ++g->written_own % KEYS;
    next_value(g, &g->own[k], any(g, 40));
    if (g->watches_own)
        owe_event(g, "~own/%u|own|", k);
    say(g, "~own/%u|", k);
    write_value(g, &g->own[k], 0);
}

static void news(struct peer *g)
{
    struct value *v;

    if (g->written - g->reader->seen >= AHEAD || g->reader->lost)
        return;
    v = &g->news[++g->written % NEWS];
    next_value(g, v, 0);
    say(g, "~news/%u|", g->written % NEWS);
    if (!write_value(g, v, 0))
        g->written--;
}

static void wide(struct peer *g)
{
    char want[WIDE * 64];
    uint32_t n = 0;
    unsigned i;

    for (i = 0; i < WIDE; i++)
        n += (uint32_t)sprintf(want + n, LONG_NAME "%u", i) + 1;
    say(g, "~wide|");
    ask(g, DIRECTORY, 0, want, n);
}

/* 0: it could not be. */
static uint32_t start(struct peer *g)
{
    uint32_t tx;

    say(g, "|");
    ask(g, TRANSACTION_START, 0, NULL, 0);
    if (g->lost)
        return 0;
    if (full && answered(g, "ENOSPC")) {
        no_room++;
        return 0;
    }
    tx = (uint32_t)strtoul(g->answer, NULL, 10);
    if (g->answer_type == ERROR || !tx)
        fail(g, "no transaction: %s", g->answer);
    return tx;
}

/* Nobody else writes here: only a crash may fail it. */
static void private_transaction(struct peer *g)
{
    struct value was[2];
    unsigned life = epoch;
    uint32_t tx;
    char commit = any(g, 5) ? 'T' : 'F', want[PAYLOAD_MAX];
    int lived, done;

    wait_for(g, 0);
    tx = start(g);
    if (!tx)
        return;
    memcpy(was, g->pair, sizeof was);
    next_value(g, &g->pair[0], any_length(g));
    g->pair[1] = g->pair[0];
    say(g, "~t/a|");
    done = write_value(g, &g->pair[0], tx);
    say(g, "~t/b|");
    done &= write_value(g, &g->pair[1], tx);
    if (!done)
        commit = 'F';
    say(g, "~t/a|");
    ask(g, READ, tx, NULL, 0);
    lived = g->answer_len == content(g, &g->pair[0], want) && !memcmp(g->answer, want, g->answer_len);
    say(g, "%c|", commit);
    ask(g, TRANSACTION_END, tx, NULL, 0);
    if (g->lost)
        return;
    if (g->answer_type == TRANSACTION_END) {
        if (!lived && commit == 'T')
            fail(g, "transaction %u commits, but it did not see its own write", tx);
        if (commit == 'F')
            memcpy(g->pair, was, sizeof was);
        return;
    }
    if (full && answered(g, "ENOSPC"))
        no_room++;
    else if (!answered(g, "EAGAIN") || commit == 'F' || life == epoch)
        fail(g, "transaction %u, begun in life %u: %s", tx, life, g->answer);
    doomed++;
    memcpy(g->pair, was, sizeof was);
}

static void read_pair(struct peer *g)
{
    unsigned k = any(g, 2);

    say(g, "~t/%c|", "ab"[k]);
    read_value(g, &g->pair[k]);
}

static void count_up(struct peer *g)
{
    unsigned which = any(g, COUNTERS), tries;
    unsigned long number;
    uint32_t tx;

    wait_for(g, 0);
    for (tries = 0; tries < 1000 && !g->lost; tries++) {
        tx = start(g);
        if (!tx)
            return;
        say(g, "/shared/%u|", which);
        ask(g, READ, tx, NULL, 0);
        if (g->answer_type == ERROR) {
            fail(g, "counter: %s", g->answer);
            return;
        }
        number = strtoul(g->answer, NULL, 10);
        say(g, "/shared/%u|%lu", which, number + 1);
        ask(g, WRITE, tx, NULL, 0);
        say(g, "T|");
        ask(g, TRANSACTION_END, tx, NULL, 0);
        if (g->lost)
            return;
        if (g->answer_type == TRANSACTION_END) {
            commits[which]++;
            return;
        }
        if (full && answered(g, "ENOSPC")) {
            no_room++;
            return;
        }
        if (!answered(g, "EAGAIN")) {
            fail(g, "counter: %s", g->answer);
            return;
        }
        retries++;
    }
    if (!g->lost)
        fail(g, "counter: EAGAIN for ever");
}

static void hoard(struct peer *g)
{
    unsigned k = any(g, HOARD);

    next_value(g, &g->hoard[k], LARGE);
    say(g, "~hoard/%u|", k);
    write_value(g, &g->hoard[k], 0);
}

static void rights(struct peer *g)
{
    char letter = "rwb"[any(g, 3)], want[32];
    uint32_t n = (uint32_t)sprintf(want, "n%u", g->domid) + 1;

    n += (uint32_t)sprintf(want + n, "%c0", letter) + 1;
    say(g, "~rights|n%u|%c0|", g->domid, letter);
    ok(g, SET_PERMS, 0);
    say(g, "~rights|");
    ask(g, GET_PERMS, 0, want, n);
}

static void (*const stories[])(struct peer *) = {
    hoard,                                              /* only while there is no room */
    keys, keys, keys, keys, news, news, news, wide, private_transaction, read_pair, count_up,
    own_events, own_events, own_events, rights,         /* only while there is */
};
#define STORIES     (sizeof stories / sizeof *stories)

static void settle_in(struct peer *g)
{
    unsigned i;

    say(g, "~k|");
    ok(g, MKDIR, 0);
    say(g, "~own|");
    ok(g, MKDIR, 0);
    say(g, "~rights|");
    ok(g, MKDIR, 0);
    for (i = 0; i < WIDE; i++) {
        say(g, "~wide/" LONG_NAME "%u|", i);
        ok(g, MKDIR, 0);
    }
    say(g, "/local/domain/%u/news|news|", g->neighbour->domid);
    ok(g, WATCH, 0);
    wait_for(g, 0);
    n_settled++;
    while (n_settled < n_peers)         /* news are counted from the first one on */
        fiber_nap_until(now_ns() + NS_PER_MS);
}

static void live(void *arg)
{
    struct peer *g = arg;

    g->fiber = fiber_self();
    settle_in(g);
    while (!ending && !g->lost) {
        if (full) {
            wait_for(g, 0);
            is_alive(g);
        }
        stories[full ? any(g, STORIES - 4) : 1 + any(g, STORIES - 1)](g);
        if (!any(g, 50))
            fiber_nap_until(now_ns() + any(g, 20000000));
    }
    wait_for(g, 0);
}

/* ------------------------------------------------------------------- orders */

static void obey(struct source *source)
{
    char orders[256];
    ssize_t n = read(0, orders, sizeof orders), i;
    unsigned k;

    (void)source;
    for (i = 0; i < n; i++)
        switch (orders[i]) {
        case 'g':
            for (k = 0; !begun && k < n_peers; k++)
                fiber_start(live, &peers[k]);
            begun = 1;
            break;
        case 'k':
            epoch++;
            break;
        case 'a':
            asked_alive = 1;
            n_alive = 0;
            for (k = 0; k < n_peers; k++)
                n_alive += (unsigned)(peers[k].alive = peers[k].lost);
            break;
        case 'f':
            full = 1;
            break;
        case 'r':
            full = 0;
            break;
        case 'q':
            ending = 1;
        }
    if (n == 0)
        exit(2);                        /* nobody is interested any more */
}

static void waiting_for_orders(void *arg)
{
    (void)arg;
    while (!ending)
        fiber_nap_until(now_ns() + 10 * NS_PER_MS);
}

static void settle(void)
{
    if (asked_alive && n_alive == n_peers) {
        asked_alive = 0;
        puts("alive");
        fflush(stdout);
    }
}

static void tell_hangs(void)
{
    unsigned k;

    for (k = 0; k < n_peers; k++) {
        struct peer *g = &peers[k];
        struct sx_ring *r = sxg_ring(&hypervisor, g->domid);

        if (g->owed && !g->lost)
            fail(g, "no answer to type %u, request %u; %u bytes not sent; page: req %u/%u, rsp %u/%u, error %u",
                 g->asks[g->head].type, g->asks[g->head].req_id, g->out_len, r->req_cons, r->req_prod, r->rsp_cons,
                 r->rsp_prod, r->error);
    }
}

static void silence(void)
{
    if (!ending)
        return;
    tell_hangs();
    wrong++;
    exit(1);
}

/* ------------------------------------------------------------------ the book */

static void enter(struct peer *g, const char *path, const char *value, uint32_t len)
{
    char full[128];
    uint32_t sizes[2];

    sizes[0] = (uint32_t)snprintf(full, sizeof full, "/local/domain/%u/%s", g->domid, path);
    sizes[1] = len;
    fwrite(sizes, sizeof sizes, 1, book);
    fwrite(full, 1, sizes[0], book);
    fwrite(value, 1, len, book);
}

static void enter_values(struct peer *g, const char *where, struct value *v, unsigned n)
{
    char path[64], value[PAYLOAD_MAX];
    unsigned i;

    for (i = 0; i < n; i++, v++)
        if (v->there) {
            snprintf(path, sizeof path, "%s/%u", where, i);
            enter(g, path, value, content(g, v, value));
        }
}

static void write_book(const char *file)
{
    char path[80], value[PAYLOAD_MAX];
    unsigned k, i;

    book = fopen(file, "wb");
    if (!book)
        give_up(file);
    for (k = 0; k < n_peers; k++) {
        struct peer *g = &peers[k];

        if (g->lost)
            continue;
        enter_values(g, "k", g->keys, KEYS);
        enter_values(g, "hoard", g->hoard, HOARD);
        enter_values(g, "own", g->own, KEYS);
        enter_values(g, "news", g->news, NEWS);
        for (i = 0; i < 2; i++)
            if (g->pair[i].there)
                enter(g, i ? "t/b" : "t/a", value, content(g, &g->pair[i], value));
        for (i = 0; i < WIDE; i++) {
            snprintf(path, sizeof path, "wide/" LONG_NAME "%u", i);
            enter(g, path, "", 0);
        }
        if (!g->lost && !g->neighbour->lost && !g->looks_again && g->seen != g->neighbour->written)
            fail(g, "%u events of %u writes", g->seen, g->neighbour->written);
    }
    if (fclose(book))
        give_up(file);
}

static void connect_guest(struct peer *g)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };

    snprintf(un.sun_path, sizeof un.sun_path, "%s", path_of_socket);
    g->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (g->fd < 0 || connect(g->fd, (struct sockaddr *)&un, sizeof un) < 0)
        give_up(path_of_socket);
    g->source.ready = stir;
    loop_watch(g->fd, &g->source);
}

int main(int argc, char **argv)
{
    static struct source rings = { stir_rings }, orders = { obey };
    unsigned k;
    char byte;

    if (argc < 5)
        return 2;
    n_peers = (unsigned)atoi(argv[1]);
    first = (unsigned)atoi(argv[2]);
    path_of_socket = argv[5];
    peers = calloc(n_peers, sizeof *peers);
    if (!peers || sxg_open(&hypervisor, NULL, 0) < 0)
        give_up("the pretend hypervisor");
    loop_open();
    for (k = 0; k < n_peers; k++) {
        struct peer *g = &peers[k];

        g->domid = first + k;
        g->neighbour = &peers[(k + 1) % n_peers];
        g->reader = &peers[(k + n_peers - 1) % n_peers];
        g->chance = (strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15ull ^ (k + 1) * 0xbf58476d1ce4e5b9ull) | 1;
        g->fd = -1;
        g->looks_again = 0;
        if (!sxg_create(&hypervisor, g->domid, PORT))
            give_up("a domain");
        if (path_of_socket)
            connect_guest(g);
    }
    puts("created");
    fflush(stdout);
    loop_watch(sxg_fileno(&hypervisor), &rings);
    fcntl(0, F_SETFL, O_NONBLOCK);
    loop_watch(0, &orders);
    fiber_start(waiting_for_orders, NULL);
    loop_run(settle, silence, 20ull * NS_PER_S);
    write_book(argv[4]);
    printf("{\"requests\": %lu, \"answers\": %lu, \"events\": %lu, \"failures\": %lu, \"doomed\": %lu, "
           "\"retries\": %lu, \"look_again\": %lu, \"lost\": %lu, \"no_room\": %lu, \"commits\": [", requests, answers,
           events, wrong, doomed, retries, again, lost, no_room);
    for (k = 0; k < COUNTERS; k++)
        printf("%s%lu", k ? ", " : "", commits[k]);
    puts("]}");
    fflush(stdout);
    fcntl(0, F_SETFL, 0);
    while (read(0, &byte, 1) > 0)
        ;
    sxg_close(&hypervisor);
    return wrong != 0;
}
