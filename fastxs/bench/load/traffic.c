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
static uint32_t key_drawn(const struct conn *c, uint32_t id)
{
    return (uint32_t)((uint64_t)draw(c, id) * opt.keys >> 32) * (opt.of / opt.keys);
}

static uint32_t key_nth(const struct conn *c, uint32_t id) { return id - c->base; }

static enum op op_read(const struct conn *c, uint32_t id) { (void)c; (void)id; return READ; }
static enum op op_write(const struct conn *c, uint32_t id) { (void)c; (void)id; return WRITE; }
static enum op op_mixed(const struct conn *c, uint32_t id) { return draw(c, id) & 3 ? READ : WRITE; }
static enum op op_list(const struct conn *c, uint32_t id) { (void)c; (void)id; return DIRECTORY; }
static enum op op_churn(const struct conn *c, uint32_t id) { return (id - c->base) & 1 ? RM : WRITE; }
static enum op op_mkdir(const struct conn *c, uint32_t id) { (void)c; (void)id; return MKDIR; }
static enum op op_rm(const struct conn *c, uint32_t id) { (void)c; (void)id; return RM; }
static enum op op_watch(const struct conn *c, uint32_t id) { (void)c; (void)id; return WATCH; }
static enum op op_domain(const struct conn *c, uint32_t id) { (void)c; (void)id; return GET_DOMAIN_PATH; }
static enum op op_renew(const struct conn *c, uint32_t id) { return id - c->base ? RM : MKDIR; }

static uint32_t key_of(const struct conn *c, uint32_t id) { return (load->key ? load->key : key_drawn)(c, id); }

static char *path_node(const struct conn *c, uint32_t id, char *p) { return node(p, key_of(c, id)); }
static char *path_folder(const struct conn *c, uint32_t id, char *p) { return folder(p, key_of(c, id)); }
static char *path_dom0(const struct conn *c, uint32_t id, char *p) { (void)c; (void)id; return text(p, "0"); }
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

/* ---------------------------------------------------------------------------------------------------------- scripts */

/* What a toolstack writes for a new domain: four nodes under each root. */
#define BUILD \
    { START, "" }, \
    { WRITE, "/vm/#/uuid" }, { WRITE, "/vm/#/name" }, { WRITE, "/vm/#/image/ostype" }, { WRITE, "/vm/#/start_time" }, \
    { WRITE, "/vss/#/uuid" }, { WRITE, "/vss/#/owner" }, { WRITE, "/vss/#/policy/label" }, { WRITE, "/vss/#/state" }, \
    { WRITE, "/local/domain/#/vm" }, { WRITE, "/local/domain/#/name" }, { WRITE, "/local/domain/#/memory/target" }, \
    { WRITE, "/local/domain/#/device/vif/0/state" }, \
    { END, "T" }

static const struct step build[] = { BUILD };

/* The life of a domain as xapi's toolstack leads it, with three disks: what "300 parallel starts and shutdowns" in
 * xen.git's aef35b9877 consist of, as the benchmark bench/xs_bench.ml of xapi's ocaml-xenstore-clients has it. */
#define FOLDER(path, perms) { MKDIR, path }, { SET_PERMS, path "|" perms }
#define MAYBE true                  /* it may be refused */
#define READABLE "n0|r#"
#define WRITABLE "n0|b#"             /* not n#: nobody owns nodes whom the hypervisor does not know */
#define FRONT(disk) "/local/domain/#/device/vbd/" disk
#define BACK(disk) "/local/domain/0/backend/vbd/#/" disk
#define HOTPLUG(disk) "/xapi/#/hotplug/vbd/" disk
#define PRIVATE(disk) "/xapi/#/private/vbd/" disk
#define PLUG(disk) \
    { START, "" }, \
    { READ, "/local/domain/0/vm", MAYBE }, { READ, FRONT(disk), MAYBE }, { RM, FRONT(disk), MAYBE }, \
    { RM, BACK(disk), MAYBE }, FOLDER(FRONT(disk), WRITABLE), FOLDER(BACK(disk), READABLE), \
    FOLDER(HOTPLUG(disk), "n0"), { WRITE, FRONT(disk) "/backend" }, { WRITE, BACK(disk) "/frontend" }, \
    FOLDER(PRIVATE(disk), "n0"), { WRITE, PRIVATE(disk) "/backend-kind" }, { WRITE, PRIVATE(disk) "/backend-id" }, \
    { END, "T" }
#define UNPLUG(disk) \
    { WRITE, BACK(disk) "/online" }, { RM, FRONT(disk) }, { RM, BACK(disk) }, \
    { RM, "/local/domain/0/error/backend/vbd/#", MAYBE }, { RM, "/local/domain/#/error/device/vbd/" disk, MAYBE }

static const struct step life[] = {
    { START, "" },
    { RM, "/local/domain/#", MAYBE }, FOLDER("/local/domain/#", READABLE),
    FOLDER("/vm/#", READABLE), { WRITE, "/vm/#/uuid" }, { WRITE, "/vm/#/name" }, { WRITE, "/vm/#/domains/#" },
    FOLDER("/vss/#", WRITABLE),
    { WRITE, "/local/domain/#/vm" }, { WRITE, "/local/domain/#/vss" }, { WRITE, "/local/domain/#/name" },
    FOLDER("/local/domain/#/cpu", READABLE), FOLDER("/local/domain/#/memory", READABLE),
    FOLDER("/local/domain/#/device", WRITABLE), FOLDER("/local/domain/#/error", WRITABLE),
    FOLDER("/local/domain/#/drivers", WRITABLE), FOLDER("/local/domain/#/control", WRITABLE),
    FOLDER("/local/domain/#/attr", WRITABLE), FOLDER("/local/domain/#/data", WRITABLE),
    FOLDER("/local/domain/#/messages", WRITABLE), FOLDER("/local/domain/#/vm-data", WRITABLE),
    { END, "T" },
    { WRITE, "/local/domain/#/xsdata" }, { WRITE, "/local/domain/#/platform/data" },
    { WRITE, "/local/domain/#/bios-strings/data" }, { WRITE, "/local/domain/#/action-request" },
    { WRITE, "/local/domain/#/control/platform-feature-multiprocessor-suspend" },
    { WRITE, "/local/domain/#/unique-domain-id" },
    PLUG("0"), PLUG("1"), PLUG("2"),
    { START, "" }, { WRITE, "/local/domain/#/control/shutdown" }, { END, "T" },
    { DIRECTORY, "/local/domain/#/device" }, { DIRECTORY, "/local/domain/#/device/vbd" },
    { READ, FRONT("0") "/backend" }, { READ, FRONT("1") "/backend" }, { READ, FRONT("2") "/backend" },
    UNPLUG("0"), UNPLUG("1"), UNPLUG("2"),
    { READ, "/local/domain/#/vm" }, { READ, "/local/domain/#/vss" },
    { RM, "/vm/#/domains/#" }, { DIRECTORY, "/vm/#/domains" }, { RM, "/vm/#" }, { RM, "/vss/#" },
    { RM, "/local/domain/#" }, { DIRECTORY, "/local/domain/0/backend" }, { RM, "/local/domain/0/backend/vbd/#" },
};

/* Nobody else uses these nodes. */
static const struct step own[] = {
    { START, "" },
    { READ, NULL }, { WRITE, NULL }, { READ, NULL }, { WRITE, NULL }, { READ, NULL }, { WRITE, NULL },
    { END, "T" },
};

#define SCRIPT(name) static const struct script name##_script = { name, sizeof name / sizeof *name - 1 }
SCRIPT(build);
SCRIPT(life);
SCRIPT(own);

/* The step that request `id` is: requests of one connection are answered in order. */
static const struct step *step_of(const struct conn *c, uint32_t id)
{
    return &load->script->steps[c->step_done + (id - c->answered)];
}

int32_t start_of(uint32_t step)
{
    int32_t i = (int32_t)step;

    while (i >= 0 && load->script->steps[i].op != START && (i == (int32_t)step || load->script->steps[i].op != END))
        i--;
    return i >= 0 && load->script->steps[i].op == START ? i : -1;
}

static enum op op_step(const struct conn *c, uint32_t id) { return step_of(c, id)->op; }
static uint32_t key_made(const struct conn *c, uint32_t id) { (void)id; return c->x; }

static uint32_t key_own(const struct conn *c, uint32_t id)
{
    uint32_t step = c->step_done + (id - c->answered);

    return (c->index * OWN_NODES + step % OWN_NODES) % opt.of;
}

static char *path_step(const struct conn *c, uint32_t id, char *p)
{
    const char *path = step_of(c, id)->path;

    return path ? fill_in(p, path, c->x) : path_node(c, id, p);
}

static const struct load loads[] = {
    { .name = "read", .op = op_read, .path = path_node },
    { .name = "write", .op = op_write, .path = path_node },
    { .name = "mixed", .op = op_mixed, .path = path_node },
    { .name = "directory", .op = op_list, .path = path_folder },
    { .name = "domain-path", .op = op_domain, .path = path_dom0 },
    { .name = "churn", .op = op_churn, .path = path_own },
    { .name = "fill", .op = op_write, .path = path_node, .key = key_nth },
    { .name = "own", .op = op_step, .path = path_step, .key = key_own, .script = &own_script },
    { .name = "transaction", .op = op_step, .path = path_step, .key = key_made, .script = &build_script },
    { .name = "life", .op = op_step, .path = path_step, .key = key_made, .script = &life_script },
    { .name = "hold", .op = op_watch, .path = path_elsewhere },
    { .name = "connect", .op = op_mkdir, .path = path_hello, .untimed = true },
};

const struct load *find_load(const char *name)
{
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++)
        if (!strcmp(loads[i].name, name))
            return &loads[i];
    return NULL;
}

/* what comes before and after, and the halves of a fan-out */
const struct load renew = { .name = "renew", .op = op_renew, .path = path_dir };
const struct load fill = { .name = "fill", .op = op_write, .path = path_node, .key = key_nth };
const struct load unchurn = { .name = "unchurn", .op = op_rm, .path = path_own };
const struct load hello = { .name = "hello", .op = op_mkdir, .path = path_hello };
const struct load listen_in = { .name = "fan-out", .op = op_watch, .path = path_hello };
const struct load tell = { .name = "fan-out", .op = op_write, .path = path_hello, .untimed = true };
const struct load make_roots = { .name = "make-roots", .op = op_mkdir, .path = path_root };
const struct load drop_roots = { .name = "drop-roots", .op = op_rm, .path = path_root };
const struct load drop_made = { .name = "drop-made", .op = op_rm, .path = path_made };

/* Its own START has no number yet. */
static bool is_inside(const struct conn *c, uint32_t id)
{
    return load->script && load->op(c, id) != START && start_of((uint32_t)(step_of(c, id) - load->script->steps)) >= 0;
}

char *render(const struct conn *c, uint32_t id, char *out)
{
    enum op op = load->op(c, id);
    struct header h = { .type = op, .req_id = id };
    char *body = out + sizeof h, *p = load->path(c, id, body);

    if (is_inside(c, id))
        h.tx_id = c->tx_id;
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
    if (h->tx_id != (is_inside(c, c->answered) ? c->tx_id : 0))
        return "another tx_id";
    if (h->type == ERROR && load->script && step_of(c, c->answered)->maybe)
        return NULL;
    if (h->type != op)
        return h->type == ERROR ? "refused" : "another type";
    if (load->script && step_of(c, c->answered)->path && (op == READ || op == DIRECTORY))
        return NULL;                /* what it made itself, and others' */
    switch (op) {
    case READ:
        mark(again, c->domid, key_of(c, c->answered));
        return h->len == VALUE && !memcmp(body, again, MARK) ? NULL : "another value";
    case DIRECTORY:
        return is_listing(body, h->len) ? NULL : "another listing";
    case GET_DOMAIN_PATH:
        return h->len == sizeof "/local/domain/0" && !memcmp(body, "/local/domain/0", h->len) ? NULL : "another path";
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

