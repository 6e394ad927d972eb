/*
 * scribble: the hands of hostile guests.
 *
 *     scribble DIR SEED DOMID...
 *
 * Writes into the XenStore pages of these domains of the pretend hypervisor in
 * DIR for as long as its standard input is open, while the daemon reads them:
 * well-formed requests without end, requests with one thing wrong, bytes that
 * change after the index is out, any value in any word.  It owns no domain:
 * others create and destroy them meanwhile.  The seed gives the actions, not
 * their timing.  At the end it prints how often it did what.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "simxen.h"

enum {
    DOMAINS = 64,
    MESSAGE = 16384,                    /* more than the longest request made here */
    LONG = 40000,                       /* writes: some 50 us, in which the daemon is scheduled */
};

struct header { uint32_t type, req_id, tx_id, len; };

static struct guest {
    uint32_t domid;
    uint32_t mood;                      /* actions until its manners change */
    uint32_t bad;                       /* one in so many breaks the ring's rules */
    int deaf;                           /* takes no replies, once it has set its watches */
    uint32_t watches;                   /* so many */
    uint32_t at, len;                   /* what is not sent yet of the request begun */
    char request[MESSAGE];
} guest[DOMAINS];

static struct sxg hypervisor;
static uint64_t state;                  /* xorshift64 */

static uint32_t any(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16) % below;
}

#define COUNT(table) (sizeof(table) / sizeof *(table))
#define ONE_OF(table) (table)[any(COUNT(table))]

/* A value at which something begins or ends, by itself or as a distance from what is there. */
static uint32_t edge(uint32_t there)
{
    static const uint32_t edges[] = {
        0, 1, 2, 15, 16, 17, 1008, 1023, 1024, 1025, 2047, 2048, 4080, 4095, 4096, 4097, 5000, 0x7fffffff,
        0x80000000, 0x80000001, 0xfffffbff, 0xfffffc00, 0xfffffc01, 0xfffffff0, 0xfffffffe, 0xffffffff,
    };

    switch (any(4)) {
    case 0:  return there + ONE_OF(edges);
    case 1:  return there - ONE_OF(edges);
    case 2:  return any(0xffffffff);
    default: return ONE_OF(edges);
    }
}

/* ---------------------------------------------------------------- requests */

/* P: a path below its home or where all may write, V: a value, N: a small number, S: itself as owner; else as it
 * stands.  What a guest may ask comes first, so that there is something to spoil. */
static const struct { uint32_t type; const char *words[3]; } GOOD[] = {
    { 11, { "P", "V" } }, { 11, { "P", "V" } }, { 11, { "P", "V" } }, { 2, { "P" } }, { 2, { "P" } }, { 2, { "P" } },
    { 12, { "P" } }, { 13, { "P" } }, { 1, { "P" } }, { 1, { "/shared" } }, { 3, { "P" } }, { 14, { "P", "S", "b0" } },
    { 4, { "P", "N" } }, { 4, { "P", "N", "N" } }, { 4, { "@releaseDomain", "N" } }, { 5, { "P", "N" } },
    { 4, { "/shared", "N" } }, { 6, { "" } }, { 6, { "" } }, { 7, { "T" } }, { 7, { "T" } }, { 7, { "F" } },
    { 10, { "N" } }, { 22, { "P", "N" } },
};
static const char *const ODD[] = {
    "P", "V", "N", "S", "", "/", "a", "//", "a/", "/a", "/tool", "/local", "/local/domain", "/local/domain/",
    "/local/domain/10/a", "/local/domain/100", "/local/domain/100/kept", "/kept", "@releaseDomain", "@introduceDomain",
    "@releaseDomain/10", "@", "T", "F", "0", "-1", "10", "65535", "65536", "4294967295", "b10", "r32757", "w0", "n0",
    "nodes", "memory", "check", "quota", "set", "OK", "a\nb", "\xff\xfe", "../a",
};

/* One word without its NUL, at most 3000 bytes. */
static char *word(char *at, const char *what, uint32_t domid)
{
    uint32_t n;

    switch (what[0] && !what[1] ? what[0] : 0) {
    case 'P':
        if (!any(3))
            at += sprintf(at, "/shared/");
        for (n = any(32) ? 1 + any(3) : any(200); n; n--)
            at += sprintf(at, "%c%s", 'a' + (int)any(any(4) ? 3 : 26), n > 1 ? "/" : "");
        if (any(64))
            return at;
        n = any(2200);
        memset(at, 'x', n);
        return at + n;
    case 'V':
        n = any(4) ? any(64) : any(2100);
        memset(at, (int)any(256), n);
        return at + n;
    case 'N':
        return at + sprintf(at, "%u", any(12));
    case 'S':
        return at + sprintf(at, "n%u", domid);
    }
    return at + sprintf(at, "%s", what);
}

static void compose(struct guest *g)
{
    struct header *h = (struct header *)g->request;
    char *at = g->request + sizeof *h;
    uint32_t good = any(COUNT(GOOD)), words, i;

    h->type = GOOD[good].type;
    if (g->watches) {
        h->type = 4;
        at += sprintf(at, "/shared%c%u", 0, g->watches--) + 1;
    } else if (any(16)) {
        for (i = 0; i < COUNT(GOOD->words) && GOOD[good].words[i]; i++) {
            at = word(at, GOOD[good].words[i], g->domid);
            if (GOOD[good].words[i][0] != 'V')
                *at++ = 0;
        }
    } else {
        h->type = any(16) ? any(28) : any(0xffffffff);
        for (words = any(5), i = 0; i < words; i++) {
            at = word(at, any(32) ? ONE_OF(ODD) : "V", g->domid);
            *at++ = 0;
        }
    }
    h->req_id = any(0xffffffff);
    h->tx_id = any(3) ? 0 : any(100) ? any(12) : any(0xffffffff);
    g->at = 0;
    g->len = (uint32_t)(at - g->request);
    h->len = g->len - (uint32_t)sizeof *h;
    if (h->len > 4096)                      /* too long by chance; LENGTH does so on purpose */
        g->len = 0;
}

/* ------------------------------------------------------------------- pages */

/* What there is room for behind the index, then the index.  1: the request is in. */
static int push(struct guest *g, struct sx_ring *r)
{
    uint32_t prod = r->req_prod, room = SX_RING - (prod - r->req_cons), n = g->len - g->at, i;

    if (room > SX_RING)
        return 0;
    if (n > room)
        n = room;
    for (i = 0; i < n; i++)
        r->req[(prod + i) % SX_RING] = g->request[g->at + i];
    g->at += n;
    r->req_prod = prod + n;
    if (n)
        sxg_notify(&hypervisor, g->domid);
    return g->at == g->len;
}

/* A few requests, as far as the daemon goes along. */
static void ask(struct guest *g, struct sx_ring *r)
{
    int deaf = g->deaf && !g->watches;
    uint32_t many = 1 + any(50), tries = deaf ? 1 : 20;

    if (!r->req_prod && !r->req_cons)       /* begun anew */
        g->len = 0;
    while (many && !r->error && tries) {
        if (g->at >= g->len)
            compose(g);
        if (!deaf && r->rsp_cons != r->rsp_prod) {
            r->rsp_cons = r->rsp_prod;
            sxg_notify(&hypervisor, g->domid);
        }
        if (push(g, r)) {
            many--;
            continue;
        }
        if (--tries)
            sched_yield();
    }
}

static void scramble(char *at, uint32_t n)
{
    while (n--)
        *at++ = (char)any(256);
}

enum { LENGTH, MUTATED, INDEX, WORD, AREA, PAGE, FLIP, RACE, STORM, RECONNECT, BAD, ASK = BAD, ACTIONS };
static const char *const NAMES[] = {
    "length", "mutated", "index", "word", "area", "page", "flip", "race", "storm", "reconnect", "ask",
};
static uint64_t done[ACTIONS];

static void act(struct guest *g)
{
    struct sx_ring *r = sxg_ring(&hypervisor, g->domid);
    struct header *h = (struct header *)g->request;
    _Atomic uint32_t *words = &r->req_cons;
    uint32_t what = any(g->bad) ? ASK : any(BAD), value, before, i, k;

    done[what]++;
    switch (what) {
    case ASK:
        ask(g, r);
        return;
    case LENGTH:                        /* a header that lies */
        compose(g);
        h->len = edge(h->len);
        push(g, r);
        break;
    case MUTATED:
        compose(g);
        for (i = any(4); i < 4 && g->len; i++)
            g->request[any(g->len)] ^= (char)(1 << any(8));
        push(g, r);
        break;
    case INDEX:
        i = any(4);
        words[i] = edge(words[i]);
        break;
    case WORD:                          /* features, connection, error, evtchn_port */
        i = 4 + any(4);
        words[i] = any(2) ? any(4) : edge(words[i]);
        break;
    case AREA:
        scramble(any(2) ? r->req : r->rsp, SX_RING);
        break;
    case PAGE:
        scramble((char *)r, SX_PAGE);
        break;
    case FLIP:                          /* an index that changes between its check and its use (XSA-38) */
        compose(g);
        push(g, r);
        i = any(4);
        before = words[i];
        value = edge(before);
        for (k = any(LONG); k && !r->error; k--) {
            if (k % 1024 == 0)
                sxg_notify(&hypervisor, g->domid);
            words[i] = k % 2 ? value : before;
        }
        break;
    case RACE:                          /* a request that changes while it is read */
        compose(g);
        before = r->req_prod;
        push(g, r);
        for (k = any(LONG); k && g->at && !r->error; k--)
            r->req[(before + any(g->at)) % SX_RING] = (char)any(256);
        break;
    case STORM:
        for (i = any(300); i; i--)
            sxg_notify(&hypervisor, g->domid);
        break;
    case RECONNECT:
        r->connection = 1;
        break;
    }
    sxg_notify(&hypervisor, g->domid);
}

static void live(struct guest *g)
{
    static const uint32_t manners[] = { 3, 30, 300, 30000 };
    struct sx_ring *r = sxg_ring(&hypervisor, g->domid);

    if (!g->mood) {
        g->deaf = !any(4);
        g->watches = g->deaf ? any(100) : 0;
        g->mood = 1 + any(g->deaf ? 100000 : 5000);
        g->bad = ONE_OF(manners);
    }
    g->mood--;
    if (!r->error || !any(50))
        act(g);
    else if (any(50))
        sched_yield();                  /* nobody listens to it until it begins anew */
    else {
        r->connection = 1;
        sxg_notify(&hypervisor, g->domid);
    }
}

int main(int argc, char **argv)
{
    struct pollfd in = { .fd = 0, .events = POLLIN };
    uint64_t n = 0;
    uint32_t domains = 0, i;

    if (argc < 4 || argc - 3 > DOMAINS) {
        fputs("usage: scribble DIR SEED DOMID...\n", stderr);
        return 2;
    }
    if (sxg_open(&hypervisor, argv[1], 0) < 0) {
        perror(argv[1]);
        return 1;
    }
    state = strtoull(argv[2], NULL, 0) * 0x9e3779b97f4a7c15u | 1;
    for (i = 3; i < (uint32_t)argc; i++)
        guest[domains++].domid = (uint32_t)atoi(argv[i]);
    while (n++ % 64 || !poll(&in, 1, 0))
        live(&guest[any(domains)]);
    for (i = 0; i < ACTIONS; i++)
        printf("%s %llu\n", NAMES[i], (unsigned long long)done[i]);
    sxg_close(&hypervisor);
    return 0;
}
