/*
 * What toolstacks, guests and drivers say to the store: the workloads.  All
 * paths are here; how a request travels is not.
 *
 * A guest speaks over its ring, by relative paths where Linux does; with
 * --via socket it has a socket of its own, which may do everything.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "simguest.h"

#define PORT        2u                  /* what every guest offers */
#define NAP_NS      (5ull * NS_PER_MS)
#define NAPS        (PATIENCE_NS / NAP_NS)
#define TRIES       1000                /* of a transaction */
#define KEYS        16u                 /* nodes that a guest in a storm writes by turns */
enum { OWN, OTHER, TOOLSTACK, DONE };   /* a guest's watches */

struct guest *guests;
unsigned n_guests, first_domid = 1, refusals;
int over_socket, by_virq, reuse;
volatile sig_atomic_t stop;
uint64_t deadline_ns;
unsigned long rounds, introductions_refused;

/* Once more? */
static int again(const struct guest *g)
{
    return !stop && (deadline_ns ? now_ns() < deadline_ns : g->rounds < rounds);
}

/* Until this many requests fit under --rate. */
static void pace(unsigned n)
{
    static double due;
    double now = (double)now_ns(), mine;

    if (rate <= 0)
        return;
    if (due < now - NS_PER_S)
        due = now;                      /* slower than asked: no rush afterwards */
    mine = due;
    due += n * (double)NS_PER_S / rate;
    fiber_nap_until((uint64_t)mine);
}

static unsigned token(const struct guest *g, unsigned watch) { return g->number * WATCHES + watch; }
static struct watch *watch(const struct guest *g, unsigned which) { return watch_of(token(g, which)); }

/* ------------------------------------------------------------------ sentences */

struct line {                           /* a request and its answer; signs as in spell() */
    uint32_t type;
    const char *payload, *answer;       /* NULL: whatever it is, it succeeds; an error's word: it is refused so */
};
#define END { 0, NULL, NULL }

/* '#' is the guest's domid, '~' what makes a path of its own legal here, '*' a
 * watch's token, '|' NUL: none of them may be in a path.  The length. */
static uint32_t spell(char *to, const char *from, const struct guest *g, unsigned which)
{
    char *at = to;

    for (; *from; from++)
        if (*from == '#')
            at += sprintf(at, "%u", g->domid);
        else if (*from == '*')
            at += sprintf(at, "%u", token(g, which));
        else if (*from == '~' && over_socket)
            at += sprintf(at, "/local/domain/%u/", g->domid);
        else if (*from != '~')
            *at++ = *from == '|' ? 0 : *from;
    *at = 0;
    return (uint32_t)(at - to);
}

static int say(struct conn *c, uint32_t tx, const struct line *l, const struct guest *g, unsigned which)
{
    char payload[256], wanted[128], what[160];
    uint32_t n = spell(payload, l->payload, g, which);
    int ok = request_bytes(c, l->type, tx, payload, n);

    if (l->answer) {
        n = spell(wanted, l->answer, g, which);
        ok = ok ? answer_len == n && !memcmp(answer, wanted, n) : refused(wanted);
    }
    if (ok && !verbose)
        return 1;
    snprintf(what, sizeof what, "%s %s", operation_names[l->type], l->payload);
    return check(g->domid, ok, what);
}

static void say_all(struct conn *c, uint32_t tx, const struct line *l, const struct guest *g, unsigned which)
{
    for (; l->payload; l++)
        say(c, tx, l, g, which);
}

/* In a transaction, again while it is told EAGAIN. */
static void transact(struct conn *c, const struct line *lines, const struct guest *g)
{
    unsigned long tx;
    int i;

    for (i = 0; i < TRIES; i++) {
        if (!check(g->domid, request(c, TRANSACTION_START, 0, "|"), "start a transaction"))
            return;
        tx = strtoul(answer, NULL, 10);
        say_all(c, (uint32_t)tx, lines, g, 0);
        if (request(c, TRANSACTION_END, (uint32_t)tx, "T|") || !check(g->domid, refused("EAGAIN"), "commit"))
            return;
    }
    check(g->domid, 0, "commit, the last try");
}

/* ------------------------------------------------------------- to come and to go */

void settle_dom0(void *unused)
{
    static const struct line start[] = {
        { WRITE, "/local/domain/0/name|Domain-0", NULL }, { WRITE, "/local/domain/0/domid|0", NULL },
        { MKDIR, "/local/domain/0/backend|", NULL }, { MKDIR, "/vm|", NULL }, { MKDIR, "/libxl|", NULL }, END
    };

    (void)unused;
    say_all(&dom0, 0, start, &guests[0], 0);
}

/* As Xen gives them: the next one that is free, from the first again after the last. */
static uint32_t next_domid(const struct guest *g)
{
    static uint32_t last;
    unsigned tries;

    if (!g->lives || reuse)
        return first_domid + g->number;
    if (!last)
        last = first_domid + n_guests - 1;
    for (tries = 0; tries < SX_MAXDOM; tries++) {
        last = last + 1 < SX_MAXDOM ? last + 1 : first_domid;
        if (!sxg_state(&G, last))
            break;
    }
    return last;
}

static void create(struct guest *g)
{
    g->domid = next_domid(g);
    g->tools = &dom0;
    if (!sxg_create(&G, g->domid, PORT))
        die("domain %u: %s", g->domid, errno == EEXIST ? "there already" : strerror(errno));
    g->present = 1;
    g->lives++;
}

/* An injected fault refuses it; a toolstack tries again. */
static void introduce(struct guest *g)
{
    unsigned tries = 0;

    while (!request(g->tools, INTRODUCE, 0, "%u|%u|%u|", g->domid, 0x1000 + g->domid, PORT) && tries++ < refusals)
        introductions_refused++;
    check(g->domid, tries <= refusals, "introduce");
    conn_open(&g->conn, g->domid, over_socket ? SOCKET : RING);
}

/* The ways to an end: R released, r released though the daemon may know of it, T tear-down begins, D destroyed,
 * d destroyed without the VIRQ. */
static void end(struct guest *g)
{
    static const char *const ways[] = { "RD", "D", "TD", "dr" };
    const char *step = reuse ? ways[g->lives % 4] : ways[by_virq];

    for (; *step; step++)
        switch (*step) {
        case 'R':
            check(g->domid, request(g->tools, RELEASE, 0, "%u|", g->domid), "release");
            break;
        case 'r':
            request(g->tools, RELEASE, 0, "%u|", g->domid);
            break;
        case 'T':
            sxg_dying(&G, g->domid);
            break;
        default:
            sxg_kill(&G, g->domid, *step == 'D');
            conn_close(&g->conn);
        }
    g->present = 0;
}

/* Its domid can be used again: at once if it will be, else when the daemon knows, too. */
static void ended(struct guest *g)
{
    unsigned naps = 0;

    while (sxg_state(&G, g->domid) && naps++ < NAPS)
        fiber_nap_until(now_ns() + NAP_NS);
    check(g->domid, sxg_state(&G, g->domid) == 0, "nobody holds its page: no zombie");
    if (reuse)
        return;
    while (request(g->tools, IS_DOMAIN_INTRODUCED, 0, "%u|", g->domid) && *answer != 'F' && naps++ < NAPS)
        fiber_nap_until(now_ns() + NAP_NS);
    check(g->domid, *answer == 'F', "the daemon knows that it is gone");
}

static void arrive(struct guest *g)
{
    static const struct line home[] = {
        { MKDIR, "/local/domain/#|", NULL }, { SET_PERMS, "/local/domain/#|n0|r#|", NULL },
        { MKDIR, "/local/domain/#/data|", NULL }, { SET_PERMS, "/local/domain/#/data|n#|", NULL },
        { WRITE, "/local/domain/#/domid|#", NULL }, { SET_PERMS, "/local/domain/#/domid|n0|r#|", NULL }, END
    };
    static const struct line known = { IS_DOMAIN_INTRODUCED, "#|", "T|" };

    create(g);                          /* first: permissions for domains that are not there do not count */
    say_all(&dom0, 0, home, g, 0);
    introduce(g);
    say(&dom0, 0, &known, g, 0);
}

static void leave(struct guest *g)
{
    static const struct line gone = { RM, "/local/domain/#|", NULL };

    if (!g->present)
        return;
    end(g);
    ended(g);
    say(&dom0, 0, &gone, g, 0);
}

/* --------------------------------------------------- checks: each answer is known */

static void checks(struct guest *g)
{
    static const struct line asks[] = {
        { READ, "~domid|", "#" }, { READ, "~data/nothing|", "ENOENT|" }, { WATCH, "~data|*|", "OK|" },
        { WRITE, "~data/k|v", "OK|" }, { READ, "~data/k|", "v" }, END
    };
    static const struct line protected = { WRITE, "~domid|x", "EACCES|" };
    static const struct line inside[] = { { WRITE, "~data/t|in", "OK|" }, { DIRECTORY, "~data|", NULL }, END };
    static const struct line after[] = {
        { UNWATCH, "~data|*|", "OK|" }, { READ, "~data/t|", "in" }, { RM, "~data/t|", "OK|" },
        { READ, "~data/t|", "ENOENT|" }, END
    };
    static const struct line back = { READ, "~data/big|", NULL };
    struct conn *c = &g->conn;
    char big[2100];
    uint32_t n;

    for (; again(g); g->rounds++) {
        unsigned seen = watch(g, OWN)->fired;

        pace(15);
        say_all(c, 0, asks, g, OWN);
        watch_await(watch(g, OWN), seen + 1, g->domid);   /* at once, and for the write */
        if (!over_socket)
            say(c, 0, &protected, g, 0);
        /* larger than the ring, both ways */
        n = spell(big, "~data/big|", g, 0);
        memset(big + n, 'q', 2000);
        check(g->domid, request_bytes(c, WRITE, 0, big, n + 2000), "write 2000 bytes");
        say(c, 0, &back, g, 0);
        check(g->domid, answer_len == 2000 && answer[0] == 'q' && answer[1999] == 'q', "read 2000 bytes");
        transact(c, inside, g);
        say_all(c, 0, after, g, OWN);
    }
}

/* ----------------------------------------------------------------- idle, chatter */

static void idle(struct guest *g)
{
    g->rounds = 1;
    while (again(g))
        fiber_nap_until(now_ns() + 20 * NAP_NS);
}

static void arrive_watching(struct guest *g)
{
    static const struct line poked[] = {
        { MKDIR, "/local/domain/#/control|", NULL }, { SET_PERMS, "/local/domain/#/control|n0|r#|", NULL }, END
    };
    static const struct line listen = { WATCH, "~control|*|", "OK|" };

    arrive(g);
    say_all(&dom0, 0, poked, g, 0);
    say(&g->conn, 0, &listen, g, OWN);
}

/* What a guest with drivers and an agent does, a little at a time. */
static void chatter(struct guest *g)
{
    static const struct line inside[] = { { WRITE, "~data/t|in", "OK|" }, { DIRECTORY, "~data|", NULL }, END };
    static const struct line list = { DIRECTORY, "~data|", NULL };
    static const struct line beat = { READ, "~data/beat|", NULL }, poke = { READ, "~control/poke|", NULL };
    struct conn *c = &g->conn;
    char text[24], payload[64];
    uint32_t n;

    for (; again(g); g->rounds++) {
        snprintf(text, sizeof text, "%lu", g->rounds);
        switch (g->rounds % 4) {
        case 0:
            pace(2);
            n = spell(payload, "~data/beat|", g, 0);
            strcpy(payload + n, text);
            check(g->domid, request_bytes(c, WRITE, 0, payload, n + (uint32_t)strlen(text)), "write");
            say(c, 0, &beat, g, 0);
            check(g->domid, is(text), "read it back");
            break;
        case 1:
            pace(2);
            check(g->domid, request(&dom0, WRITE, 0, "/local/domain/%u/control/poke|%s", g->domid, text), "poke it");
            say(c, 0, &poke, g, 0);
            check(g->domid, is(text), "it reads the poke");
            break;
        case 2:
            pace(4);
            transact(c, inside, g);
            break;
        default:
            pace(1);
            say(c, 0, &list, g, 0);
        }
    }
}

/* ------------------------------------------------------ handshake: xenbus's devices */

static const struct line device[] = {   /* what the toolstack writes for one */
    { MKDIR, "/local/domain/#/device/vif/0|", NULL }, { SET_PERMS, "/local/domain/#/device/vif/0|n#|r0|", NULL },
    { WRITE, "/local/domain/#/device/vif/0/backend|/local/domain/0/backend/vif/#/0", NULL },
    { WRITE, "/local/domain/#/device/vif/0/backend-id|0", NULL },
    { WRITE, "/local/domain/#/device/vif/0/state|1", NULL }, { WRITE, "/local/domain/#/device/vif/0/handle|0", NULL },
    { WRITE, "/local/domain/#/device/vif/0/mac|00:16:3e:00:00:01", NULL },
    { MKDIR, "/local/domain/0/backend/vif/#/0|", NULL },
    { SET_PERMS, "/local/domain/0/backend/vif/#/0|n0|r#|", NULL },
    { WRITE, "/local/domain/0/backend/vif/#/0/frontend|/local/domain/#/device/vif/0", NULL },
    { WRITE, "/local/domain/0/backend/vif/#/0/frontend-id|#", NULL },
    { WRITE, "/local/domain/0/backend/vif/#/0/online|1", NULL },
    { WRITE, "/local/domain/0/backend/vif/#/0/script|vif-bridge", NULL },
    { WRITE, "/local/domain/0/backend/vif/#/0/state|1", NULL }, END
};
static const struct line no_device[] = {
    { RM, "/local/domain/#/device/vif/0|", NULL }, { RM, "/local/domain/0/backend/vif/#|", NULL }, END
};

enum { INITIALISING = 1, INIT_WAIT, INITIALISED, CONNECTED, CLOSING, CLOSED_ };
#define LAST_RULE { 0, NULL, 0 }

struct rule { int other; const struct line *says; int becomes; };  /* the other side's state; what to do; my next */

struct side {
    unsigned watch;
    const char *mine, *others;
    const struct rule *rules;
};

static const struct line features[] = {
    { WRITE, "/local/domain/0/backend/vif/#/0/feature-sg|1", NULL },
    { WRITE, "/local/domain/0/backend/vif/#/0/feature-rx-copy|1", NULL }, END
};
static const struct line offer[] = {
    { WRITE, "~device/vif/0/ring-ref|768", NULL }, { WRITE, "~device/vif/0/event-channel|9", NULL },
    { WRITE, "~device/vif/0/request-rx-copy|1", NULL }, END
};
static const struct line gather[] = {
    { READ, "/local/domain/#/device/vif/0/ring-ref|", "768" },
    { READ, "/local/domain/#/device/vif/0/event-channel|", "9" }, END
};
static const struct line unplug[] = { { WRITE, "/local/domain/0/backend/vif/#/0/online|0", NULL }, END };

static const struct rule frontend_rules[] = {
    { INIT_WAIT, offer, INITIALISED }, { CONNECTED, NULL, CONNECTED }, { CLOSING, NULL, CLOSED_ }, LAST_RULE
};
static const struct rule backend_rules[] = {
    { INITIALISING, features, INIT_WAIT }, { INITIALISED, gather, CONNECTED }, { CONNECTED, unplug, CLOSING },
    { CLOSED_, NULL, CLOSED_ }, LAST_RULE
};
static const struct side frontend = {
    OWN, "~device/vif/0/state|", "/local/domain/0/backend/vif/#/0/state|", frontend_rules
};
static const struct side backend = {
    OTHER, "/local/domain/0/backend/vif/#/0/state|", "/local/domain/#/device/vif/0/state|", backend_rules
};

static void play(const struct side *s, struct conn *c, struct guest *g)
{
    struct watch *w = watch(g, s->watch);
    unsigned seen = w->fired;
    int mine = INITIALISING, other, last = 0;
    const struct rule *r;
    char payload[80];
    uint32_t n;

    n = spell(payload, s->others, g, 0);
    n += (uint32_t)sprintf(payload + n, "%u", token(g, s->watch)) + 1;
    check(g->domid, request_bytes(c, WATCH, 0, payload, n), "watch the other side's state");
    while (mine != CLOSED_) {
        watch_await(w, seen, g->domid);
        seen = w->fired;
        n = spell(payload, s->others, g, 0);
        check(g->domid, request_bytes(c, READ, 0, payload, n), "read the other side's state");
        other = atoi(answer);
        check(g->domid, other >= last, "the other side's state never goes back");
        last = other;
        for (r = s->rules; r->becomes && (r->other != other || r->becomes <= mine); r++)
            ;
        if (!r->becomes)
            continue;
        if (r->says)
            transact(c, r->says, g);
        mine = r->becomes;
        n = spell(payload, s->mine, g, 0);
        n += (uint32_t)sprintf(payload + n, "%d", mine);
        check(g->domid, request_bytes(c, WRITE, 0, payload, n), "write my state");
    }
    n = spell(payload, s->others, g, 0);
    n += (uint32_t)sprintf(payload + n, "%u", token(g, s->watch)) + 1;
    check(g->domid, request_bytes(c, UNWATCH, 0, payload, n), "watch it no more");
}

static void play_backend(void *guest)
{
    struct guest *g = guest;

    play(&backend, &dom0, g);
    watch_fire(watch(g, DONE));
}

static void handshake(struct guest *g)
{
    for (; again(g); g->rounds++) {
        unsigned seen = watch(g, DONE)->fired;

        pace(40);
        say_all(&dom0, 0, device, g, 0);
        fiber_start(play_backend, g);
        play(&frontend, &g->conn, g);
        watch_await(watch(g, DONE), seen, g->domid);
        say_all(&dom0, 0, no_device, g, 0);
    }
}

/* ------------------------------------------------------- boot: a domain's whole life */

static const struct line build[] = {    /* in one transaction, as libxl does */
    { RM, "/local/domain/#|", NULL }, { MKDIR, "/local/domain/#|", NULL },
    { SET_PERMS, "/local/domain/#|n0|r#|", NULL },
    { MKDIR, "/vm/guest-#|", NULL }, { SET_PERMS, "/vm/guest-#|n0|r#|", NULL },
    { RM, "/libxl/#|", NULL }, { MKDIR, "/libxl/#|", NULL }, { SET_PERMS, "/libxl/#|n0|", NULL },
    { WRITE, "/local/domain/#/vm|/vm/guest-#", NULL }, { WRITE, "/local/domain/#/name|guest-#", NULL },
    { WRITE, "/local/domain/#/domid|#", NULL }, { WRITE, "/vm/guest-#/name|guest-#", NULL },
    { MKDIR, "/local/domain/#/cpu|", NULL }, { SET_PERMS, "/local/domain/#/cpu|n0|r#|", NULL },
    { MKDIR, "/local/domain/#/memory|", NULL }, { SET_PERMS, "/local/domain/#/memory|n0|r#|", NULL },
    { MKDIR, "/local/domain/#/device|", NULL }, { SET_PERMS, "/local/domain/#/device|n0|r#|", NULL },
    { MKDIR, "/local/domain/#/control|", NULL }, { SET_PERMS, "/local/domain/#/control|n0|r#|", NULL },
    { MKDIR, "/local/domain/#/control/shutdown|", NULL },
    { SET_PERMS, "/local/domain/#/control/shutdown|n#|", NULL },
    { MKDIR, "/local/domain/#/control/feature-poweroff|", NULL },
    { SET_PERMS, "/local/domain/#/control/feature-poweroff|n#|", NULL },
    { MKDIR, "/local/domain/#/data|", NULL }, { SET_PERMS, "/local/domain/#/data|n#|", NULL }, END
};
static const struct line furnish[] = {
    { WRITE, "/libxl/#/type|pvh", NULL }, { WRITE, "/local/domain/#/cpu/0/availability|online", NULL },
    { WRITE, "/local/domain/#/memory/static-max|131072", NULL },
    { WRITE, "/local/domain/#/memory/target|131072", NULL },
    { WRITE, "/local/domain/#/control/platform-feature-xs_reset_watches|1", NULL },
    { WRITE, "/local/domain/#/store/port|2", NULL }, { WRITE, "/local/domain/#/store/ring-ref|4097", NULL },
    { WRITE, "/local/domain/#/console/type|xenconsoled", NULL },
    { WRITE, "/local/domain/#/console/port|3", NULL }, { WRITE, "/local/domain/#/console/ring-ref|4098", NULL },
    { WRITE, "/local/domain/#/console/limit|1048576", NULL }, { WATCH, "@releaseDomain|*|", "OK|" }, END
};
static const struct line come_up[] = {  /* the guest's kernel and its agent */
    { READ, "~domid|", "#" }, { READ, "~vm|", "/vm/guest-#" }, { READ, "~name|", "guest-#" },
    { READ, "~control/platform-feature-xs_reset_watches|", "1" }, { READ, "~control/sysrq|", "ENOENT|" },
    { WATCH, "~control/shutdown|*|", "OK|" }, { READ, "~control/shutdown|", "" },
    { WRITE, "~control/feature-poweroff|1", "OK|" }, { READ, "~memory/static-max|", "131072" },
    { READ, "~memory/target|", "131072" }, { READ, "~cpu/0/availability|", "online" },
    { DIRECTORY, "~device|", "vif|" }, { DIRECTORY, "~device/vif|", "0|" },
    { READ, "~device/vif/0/backend|", "/local/domain/0/backend/vif/#/0" }, { READ, "~device/vif/0/backend-id|", "0" },
    { READ, "~device/vif/0/state|", "1" }, { READ, "/local/domain/0/backend/vif/#/0/state|", "1" },
    { READ, "~console/type|", "xenconsoled" }, { WRITE, "~data/os|Linux", "OK|" }, END
};
static const struct line power_off = { WRITE, "/local/domain/#/control/shutdown|poweroff", "OK|" };
static const struct line go_down[] = {
    { READ, "~control/shutdown|", "poweroff" }, { WRITE, "~control/shutdown|", "OK|" }, END
};
static const struct line forget[] = {
    { UNWATCH, "@releaseDomain|*|", "OK|" }, { RM, "/local/domain/#|", NULL },
    { RM, "/local/domain/0/backend/vif/#|", NULL }, { RM, "/vm/guest-#|", NULL }, { RM, "/libxl/#|", NULL }, END
};

static void boot(struct guest *g)
{
    for (; again(g); g->rounds++) {
        unsigned told = watch(g, OWN)->fired, seen;

        pace(90);
        create(g);
        conn_open(&g->toolstack, 0, SOCKET);    /* as each `xl create` is a process of its own */
        g->tools = &g->toolstack;
        transact(g->tools, build, g);
        say_all(g->tools, 0, device, g, 0);
        say_all(g->tools, 0, furnish, g, TOOLSTACK);
        introduce(g);
        say_all(&g->conn, 0, come_up, g, OWN);
        watch_await(watch(g, OWN), told, g->domid);       /* at once */
        told = watch(g, OWN)->fired;
        say(g->tools, 0, &power_off, g, 0);
        watch_await(watch(g, OWN), told, g->domid);
        say_all(&g->conn, 0, go_down, g, 0);
        seen = watch(g, TOOLSTACK)->fired;
        sxg_shutdown(&G, g->domid, 1);
        watch_await(watch(g, TOOLSTACK), seen, g->domid);
        end(g);
        ended(g);
        say_all(g->tools, 0, forget, g, TOOLSTACK);
        conn_close(&g->toolstack);
    }
}

/* ------------------------------------------- storm: all write, are watched, come and go */

#define IS_MORTAL(g) ((g)->number % 8 == 7)

static void arrive_watched(struct guest *g)
{
    static const struct line look = { WATCH, "/local/domain/#/data|*|", "OK|" };

    if (IS_MORTAL(g))
        return;
    arrive(g);
    say(&dom0, 0, &look, g, TOOLSTACK);
}

static void storm(struct guest *g)
{
    static const struct line last = { WRITE, "~data/last|word", "OK|" };
    char payload[64];
    unsigned seen;
    uint32_t n;

    if (IS_MORTAL(g)) {
        boot(g);
        return;
    }
    for (; again(g); g->rounds++) {
        pace(1);
        n = spell(payload, "~data/k", g, 0);
        n += (uint32_t)sprintf(payload + n, "%lu", g->rounds % KEYS) + 1;
        n += (uint32_t)sprintf(payload + n, "%lu", g->rounds);
        check(g->domid, request_bytes(&g->conn, WRITE, 0, payload, n), "write");
    }
    seen = watch(g, TOOLSTACK)->fired;
    say(&g->conn, 0, &last, g, 0);
    watch_await(watch(g, TOOLSTACK), seen, g->domid);     /* events may be merged, but none is lost */
}

const struct workload workloads[] = {
    { "checks", "rounds", "every kind of request, each with a known answer", arrive, checks, leave, ALL, 3, -1, 0 },
    { "idle", "guests", "guests that are there and say nothing", arrive, idle, leave, SOME, 0, 0, 1 },
    { "boot", "lives", "whole lives: built, introduced, booted, shut down, destroyed",
      NULL, boot, NULL, SOME, 1, -1, 0 },
    { "chatter", "steps", "steady reads, writes and transactions", arrive_watching, chatter, leave, ALL, 0, 10, 0 },
    { "handshake", "handshakes", "devices that connect and close: frontends in guests, backends in dom0",
      arrive, handshake, leave, ALL, 1, -1, 0 },
    { "storm", "steps", "all write what the toolstack watches; one in eight is born and dies all the time",
      arrive_watched, storm, leave, ALL, 0, 10, 0 },
    { NULL, NULL, NULL, NULL, NULL, NULL, SOME, 0, 0, 0 },
};
