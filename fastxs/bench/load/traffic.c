/*
 * traffic.c - kinds of load: owns paths, values, what a request looks like and what its reply must be.  Knows nothing
 * of how the bytes travel.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include "load.h"

const struct load *load;
static char listing[PAYLOAD];
static uint32_t listing_len;

enum { VALUE = 16, MARK = 8 };      /* bytes of a value, and of its part that stays when it is written again */

/* ------------------------------------------------------------------------------------------------- paths and values */

const struct layout layouts[LAYOUTS] = {
    [AT_BENCH] = { "bench", "/local/domain/0/bench", 0, "k", 3, 1000 },
    [AT_WIDE] = { "wide", "/local/domain/0/wide", 0, "c", 6, 1000000 },
    [AT_NODES] = { "nodes", "/tool/nodes", 2, "", 2, 1000000 },
    [AT_OWN] = { "own", "data", 0, "k", 3, OWN_NODES },     /* relative: below a guest's own folder */
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

char *fill_in(char *p, const char *pattern, uint32_t domid)
{
    for (; *pattern; pattern++)
        if (*pattern == '#')
            p = number(p, domid);
        else
            *p++ = *pattern == '|' ? 0 : *pattern;
    return p;
}

/* The key's number and its owner's, which READ checks. */
static char *mark(char *p, uint32_t domid, uint32_t key)
{
    return digits(p, domid * OWN_NODES + key, MARK);
}

/* And the request's, so that no two writes are alike. */
static char *value(char *p, uint32_t domid, uint32_t key, uint32_t id)
{
    return digits(mark(p, domid, key), id, VALUE - MARK);
}

/* ---------------------------------------------------------------------------------------------------- kinds of load */

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

static const char *const roots[ROOTS] = { "/vm", "/vss", "/local/domain" };

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
_Static_assert(LAST_STEP == sizeof steps / sizeof *steps + 1, "0 is START, the last is END");

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

static const struct load loads[] = {
    { "read", op_read, path_drawn, false },
    { "write", op_write, path_drawn, false },
    { "mixed", op_mixed, path_drawn, false },
    { "directory", op_list, path_folder, false },
    { "churn", op_churn, path_own, false },
    { "fill", op_write, path_nth, false },
    { "transaction", op_step, path_step, true },
    { "hold", op_watch, path_elsewhere, false },
};

const struct load *find_load(const char *name)
{
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++)
        if (!strcmp(loads[i].name, name))
            return &loads[i];
    return NULL;
}

/* what comes before and after */
const struct load renew = { "renew", op_renew, path_dir, false };
const struct load fill = { "fill", op_write, path_nth, false };
const struct load unchurn = { "unchurn", op_rm, path_own, false };
const struct load hello = { "hello", op_mkdir, path_hello, false };
const struct load make_roots = { "make-roots", op_mkdir, path_root, false };
const struct load drop_roots = { "drop-roots", op_rm, path_root, false };
const struct load drop_made = { "drop-made", op_rm, path_made, false };

/* The number of the node that request `id` writes. */
static uint32_t key_of(const struct conn *c, uint32_t id)
{
    return load->path == path_nth ? id - c->base : load->transactional ? c->x : drawn_key(c, id);
}

char *render(const struct conn *c, uint32_t id, char *out)
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
        p = value(p, c->domid, key_of(c, id), id);
    else if (op == WATCH)
        *(p = digits(text(p, "token"), id - c->base, 5)) = 0, p++;
    h.len = (uint32_t)(p - body);
    memcpy(out, &h, sizeof h);
    return p;
}

/* ---------------------------------------------------------------------------------------------------- check a reply */

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

const char *check(const struct conn *c, const struct header *h, const char *body)
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
        mark(again, c->domid, drawn_key(c, c->answered));
        return h->len == VALUE && !memcmp(body, again, MARK) ? NULL : "another value";
    case DIRECTORY:
        return is_listing(body, h->len) ? NULL : "another listing";
    case START:
        return h->len > 1 && h->len < 12 && !body[h->len - 1] && strspn(body, "0123456789") == h->len - 1 && atoi(body)
                   ? NULL : "no transaction id";
    default:
        return is_ok(body, h->len) ? NULL : "not OK";
    }
}

bool is_conflict(const struct conn *c, const struct header *h, const char *body)
{
    return h->type == ERROR && h->req_id == c->answered && h->tx_id == c->tx_id && h->len == 7 &&
           !memcmp(body, "EAGAIN", 7);
}

