/*
 * guests.c - domains: their nodes, how they are introduced and how they die.  What the toolstack says goes over a
 * socket of its own.
 */
#define _GNU_SOURCE
#include <err.h>
#include <stdlib.h>
#include <string.h>
#include "load.h"

enum { PORT = 2 };                  /* what every guest offers */

static struct conn dom0;
static char said[PAYLOAD];

/* ----------------------------------------------------------------------------------------------------- dom0's words */

/* One request at `p`, which counts as under way; returns its end. */
static char *compose(char *p, enum op op, const char *pattern, uint32_t domid)
{
    struct header h = { .type = op, .req_id = dom0.sent++ };
    char *body = p + sizeof h, *stop = fill_in(body, pattern, domid);

    h.len = (uint32_t)(stop - body);
    memcpy(p, &h, sizeof h);
    in_flight++;
    return stop;
}

static void heard(struct conn *c, const struct header *h, const char *body, uint64_t now)
{
    (void)now;
    if (h->type == WATCH_EVENT) {
        count.events++;
        return;
    }
    if (h->type == ERROR || h->req_id != c->answered)
        complain("dom0", h->type == ERROR ? "refused" : "another req_id", c, h, body);
    memcpy(said, body, h->len);
    c->answered++;
    in_flight--;
    count.requests++;
}

static void ask(enum op op, const char *pattern, uint32_t domid)
{
    char request[MAX_REQUEST];

    put(&dom0, request, (uint32_t)(compose(request, op, pattern, domid) - request));
    serve(heard, NULL, 0);
}

/* ------------------------------------------------------------------------------------------------ come, and be gone */

/* What a guest finds, and what is its own. */
static const struct { enum op op; const char *pattern; } home[] = {
    { MKDIR, "/local/domain/#|" },
    { SET_PERMS, "/local/domain/#|n0|r#|" },
    { MKDIR, "/local/domain/#/data|" },
    { SET_PERMS, "/local/domain/#/data|n#|" },
    { WRITE, "/local/domain/#/data/k000|mine" },
    { WRITE, "/local/domain/#/data/k001|mine" },
    { WRITE, "/local/domain/#/data/k002|mine" },
    { WRITE, "/local/domain/#/data/k003|mine" },
};

static void create(uint32_t domid)
{
    char requests[MAX_REQUEST * sizeof home / sizeof *home], *p = requests;

    if (!sxg_create(&hv, domid, PORT))
        err(1, "domain %u", domid);
    for (size_t i = 0; i < sizeof home / sizeof *home; i++)
        p = compose(p, home[i].op, home[i].pattern, domid);
    put(&dom0, requests, (uint32_t)(p - requests));
    serve(heard, NULL, 0);
}

static void introduce(uint32_t domid)
{
    uint64_t asked = now_ns();

    ask(INTRODUCE, "#|#|2|", domid);
    took(now_ns() - asked);
}

void populate(void)
{
    uint32_t n = opt.domains;
    uint64_t rss_start = rss_bytes();
    struct count introductions;
    struct span span;

    opt.workload = "introduce";
    opt.connections = n;
    opt.keys = opt.of = OWN_NODES;
    opt.at = &layouts[AT_OWN];
    open_socket(&dom0);
    for (uint32_t i = 0; i < n; i++)
        create(FIRST_DOMID + i);
    span = begin();
    for (uint32_t i = 0; i < n; i++)
        introduce(FIRST_DOMID + i);
    end(&span);
    introductions = count;
    conns = calloc(n, sizeof *conns);
    if (!conns)
        err(1, "start");
    for (uint32_t i = 0; i < n; i++) {
        conns[i].index = i;
        open_ring(&conns[i], FIRST_DOMID + i);
    }
    run(&fill, n, OWN_NODES, (uint64_t)n * OWN_NODES, OWN_NODES, 0);    /* and everybody was served */
    if (count.errors)
        errx(1, "%s", count.first_error);
    count = introductions;
    report(&span, rss_start, 1, 1);
}

/* Beside those who stay.  A domid comes again after a long time, as in Xen. */
static uint32_t fresh_domid(void)
{
    static uint32_t last;

    if (last < FIRST_DOMID + opt.domains - 1 || last + 1 >= SX_MAXDOM)
        last = FIRST_DOMID + opt.domains - 1;
    return ++last;
}

void come_and_go(bool deaths)
{
    uint32_t n = (uint32_t)opt.requests, *domids = calloc(n, sizeof *domids);
    struct count counted;
    struct span span;

    if (!domids)
        err(1, "start");
    for (uint32_t i = 0; i < n; i++)
        create(domids[i] = fresh_domid());
    span = begin();
    for (uint32_t i = 0; i < n; i++)
        introduce(domids[i]);
    end(&span);
    counted = count;
    ask(WATCH, "@releaseDomain|gone|", 0);
    serve(heard, NULL, 1);          /* a watch fires once when it is set */
    if (deaths)
        span = begin();
    count.events = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t killed = now_ns();

        if (sxg_kill(&hv, domids[i], 1) < 0)
            err(1, "domain %u", domids[i]);
        serve(heard, NULL, i + 1);
        took(now_ns() - killed);
    }
    if (deaths) {
        end(&span);
        count.requests = n;
        counted = count;
    }
    ask(UNWATCH, "@releaseDomain|gone|", 0);
    for (uint32_t i = 0; i < n; i++) {
        ask(IS_INTRODUCED, "#|", domids[i]);
        if (*said != 'F')
            errx(1, "domain %u is dead, and the daemon does not know", domids[i]);
        ask(RM, "/local/domain/#|", domids[i]);
    }
    free(domids);
    if (count.errors)
        errx(1, "%s", count.first_error);
    count = counted;
    report(&span, span.rss_open, 1, 1);
}

void arrive(void)
{
    struct span span = begin();
    uint64_t deadline = end_of(opt.seconds), begun, done = 0;

    while (done < opt.requests && (begun = now_ns()) < deadline) {
        uint32_t domid = fresh_domid();

        create(domid);
        ask(INTRODUCE, "#|#|2|", domid);
        took(now_ns() - begun);
        done++;
    }
    count.requests = done;
    end(&span);
    report(&span, span.rss_open, 1, 1);
}
