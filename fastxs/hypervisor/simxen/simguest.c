/*
 * simguest: plays guests, and dom0 beside them, against a XenStore daemon that
 * runs on simxen.
 *
 * Each domain is created in the pretend hypervisor, gets its nodes and is
 * introduced over the unix socket as a toolstack would; then it does what a
 * Linux guest does, over its ring, and every answer is checked.  Exit status 0:
 * all was well; 1: something failed; 2: usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "simxen.h"

/* The wire's numbers. */
enum {
    DIRECTORY = 1, READ = 2, WATCH = 4, UNWATCH = 5, TRANSACTION_START = 6, TRANSACTION_END = 7, INTRODUCE = 8,
    RELEASE = 9, WRITE = 11, MKDIR = 12, RM = 13, SET_PERMS = 14, WATCH_EVENT = 15, IS_DOMAIN_INTRODUCED = 17,
};
#define PAYLOAD_MAX 4096u
#define PORT 2u                         /* what every guest offers */
#define PATIENCE_MS 10000

struct message { uint32_t type, req_id, tx_id, len; };

struct peer {                           /* dom0 or a guest: over a socket, or its ring */
    uint32_t domid;
    int fd;                             /* -1: its ring */
    unsigned long steps;
};

static struct sxg G;
static int have_hv, verbose;
static const char *socket_path;
static struct peer dom0 = { 0, -1, 0 };
static unsigned long requests, failures, events;
static volatile sig_atomic_t stop;

static void leave(void)
{
    if (have_hv)
        sxg_close(&G);
    have_hv = 0;
}

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    fputs("simguest: ", stderr);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ------------------------------------------------------------- transports */

static void wait_for(struct peer *p, int fd, short what)
{
    struct pollfd f = { fd, what, 0 };
    int n = poll(&f, 1, PATIENCE_MS);

    if (n == 0)
        die("domain %u: the daemon has not stirred for %d s", p->domid, PATIENCE_MS / 1000);
    if (n < 0 && errno != EINTR)
        die("poll: %s", strerror(errno));
}

static void wait_event(struct peer *p)
{
    uint32_t domids[256];

    wait_for(p, G.evfd, POLLIN);
    while (sxg_events(&G, domids, 256) == 256)
        ;
}

static void socket_move(struct peer *p, void *data, size_t n, int out)
{
    char *at = data;
    ssize_t k;

    while (n) {
        k = out ? send(p->fd, at, n, MSG_NOSIGNAL | MSG_DONTWAIT) : recv(p->fd, at, n, MSG_DONTWAIT);
        if (k > 0) {
            at += k;
            n -= (size_t)k;
        } else if (k == 0)
            die("domain %u: the daemon closed the connection", p->domid);
        else if (errno == EAGAIN)
            wait_for(p, p->fd, out ? POLLOUT : POLLIN);
        else if (errno != EINTR)
            die("domain %u: %s", p->domid, strerror(errno));
    }
}

/* As Linux does: tell the other side only if it may be waiting. */
static void ring_move(struct peer *p, void *data, size_t n, int out)
{
    struct sx_ring *r = sxg_ring(&G, p->domid);
    _Atomic uint32_t *mine = out ? &r->req_prod : &r->rsp_cons;
    uint32_t cons, prod, used, at, k;
    char *d = data;

    while (n) {
        cons = atomic_load(out ? &r->req_cons : &r->rsp_cons);
        prod = atomic_load(out ? &r->req_prod : &r->rsp_prod);
        used = prod - cons;
        if (used > SX_RING)
            die("domain %u: bad ring indices %u %u, error %u", p->domid, cons, prod, atomic_load(&r->error));
        k = out ? SX_RING - used : used;
        if (!k) {
            wait_event(p);
            continue;
        }
        at = (out ? prod : cons) % SX_RING;
        if (k > SX_RING - at)
            k = SX_RING - at;
        if (k > n)
            k = (uint32_t)n;
        if (out)
            memcpy(r->req + at, d, k);
        else
            memcpy(d, r->rsp + at, k);
        atomic_store(mine, (out ? prod : cons) + k);
        /* Looked at after our index is out: the daemon may have filled the ring meanwhile, and sleep. */
        if (out ? prod == atomic_load(&r->req_cons) : atomic_load(&r->rsp_prod) - cons == SX_RING)
            sxg_notify(&G, p->domid);
        d += k;
        n -= k;
    }
}

static void move(struct peer *p, void *data, size_t n, int out)
{
    if (p->fd < 0)
        ring_move(p, data, n, out);
    else
        socket_move(p, data, n, out);
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

/* --------------------------------------------------------------- requests */

static char answer[PAYLOAD_MAX + 1];
static uint32_t answer_len, answer_type;

/* One request and its answer; watch events on the way are counted.  Whether it
 * succeeded. */
static int request_bytes(struct peer *p, uint32_t type, uint32_t tx, const void *payload, uint32_t len)
{
    static uint32_t last_id;
    struct message m = { type, ++last_id, tx, len };
    char out[sizeof m + PAYLOAD_MAX];

    memcpy(out, &m, sizeof m);
    memcpy(out + sizeof m, payload, len);
    move(p, out, sizeof m + len, 1);
    requests++;
    do {
        move(p, &m, sizeof m, 0);
        if (m.len > PAYLOAD_MAX)
            die("domain %u: an answer of %u bytes", p->domid, m.len);
        move(p, answer, m.len, 0);
        answer[m.len] = 0;
        answer_len = m.len;
        answer_type = m.type;
        events += m.type == WATCH_EVENT;
    } while (m.type == WATCH_EVENT);
    if (m.req_id != last_id)
        die("domain %u: answer to request %u, not %u", p->domid, m.req_id, last_id);
    return m.type == type;
}

/* Strings after the format's first: '|' in the format stands for NUL. */
static int __attribute__((format(printf, 4, 5)))
request(struct peer *p, uint32_t type, uint32_t tx, const char *format, ...)
{
    char payload[PAYLOAD_MAX];
    va_list ap;
    int n, i;

    va_start(ap, format);
    n = vsnprintf(payload, sizeof payload, format, ap);
    va_end(ap);
    for (i = 0; i < n; i++)
        if (payload[i] == '|')
            payload[i] = 0;
    return request_bytes(p, type, tx, payload, (uint32_t)n);
}

static int check(struct peer *p, int ok, const char *what)
{
    if (ok && verbose)
        printf("domain %u: ok: %s\n", p->domid, what);
    if (!ok) {
        failures++;
        printf("domain %u: FAILED: %s: answer type %u, %u bytes '%.60s'\n", p->domid, what, answer_type, answer_len,
               answer);
    }
    return ok;
}

static int is(const char *text) { return answer_len == strlen(text) && !memcmp(answer, text, answer_len); }
static int refused(const char *word) { return answer_len == strlen(word) + 1 && !strcmp(answer, word); }

/* A guest's path: relative over its ring, whole over a socket, whose relative
 * paths are domain 0's. */
static const char *path(struct peer *p, const char *rest)
{
    static char buf[4][80];
    static unsigned k;
    char *b = buf[k++ % 4];

    if (p->fd < 0)
        return rest;
    snprintf(b, sizeof buf[0], "/local/domain/%u/%s", p->domid, rest);
    return b;
}

/* ------------------------------------------------------------ a guest's life */

static void arrive(struct peer *p, int over_socket)
{
    uint32_t d = p->domid;

    if (!sxg_create(&G, d, PORT))       /* first: permissions for domains that are not there do not count */
        die("domain %u: %s", d, errno == EEXIST ? "there already" : strerror(errno));
    p->fd = over_socket ? connected() : -1;
    check(p, request(&dom0, MKDIR, 0, "/local/domain/%u|", d), "dom0 makes its home");
    check(p, request(&dom0, SET_PERMS, 0, "/local/domain/%u|n0|r%u|", d, d), "its home is readable");
    check(p, request(&dom0, MKDIR, 0, "/local/domain/%u/data|", d), "dom0 makes its data");
    check(p, request(&dom0, SET_PERMS, 0, "/local/domain/%u/data|n%u|", d, d), "its data is its own");
    check(p, request(&dom0, WRITE, 0, "/local/domain/%u/domid|%u", d, d), "dom0 writes its domid");
    check(p, request(&dom0, SET_PERMS, 0, "/local/domain/%u/domid|n0|r%u|", d, d), "its domid is readable");
    check(p, request(&dom0, INTRODUCE, 0, "%u|%u|%u|", d, 0x1000 + d, PORT), "introduce");
    check(p, request(&dom0, IS_DOMAIN_INTRODUCED, 0, "%u|", d) && *answer == 'T', "is introduced");
}

/* One write in a transaction, again while it is told EAGAIN. */
static int transact(struct peer *p, const char *value)
{
    unsigned long tx;
    int i;

    for (i = 0; i < 50; i++) {
        if (!check(p, request(p, TRANSACTION_START, 0, "|"), "start a transaction"))
            return 0;
        tx = strtoul(answer, NULL, 10);
        check(p, request(p, WRITE, (uint32_t)tx, "%s|%s", path(p, "data/t"), value), "write in it");
        check(p, request(p, DIRECTORY, (uint32_t)tx, "%s|", path(p, "data")), "directory in it");
        if (request(p, TRANSACTION_END, (uint32_t)tx, "T|"))
            return 1;
        if (!check(p, refused("EAGAIN"), "commit"))
            return 0;
    }
    return check(p, 0, "commit, the 50th time");
}

static void round_of_checks(struct peer *p, int round)
{
    char big[2100], text[40];
    unsigned long before = events;
    int n;

    snprintf(text, sizeof text, "%u", p->domid);
    check(p, request(p, READ, 0, "%s|", path(p, "domid")) && is(text), "read its domid");
    if (p->fd < 0)                      /* a socket may do everything */
        check(p, !request(p, WRITE, 0, "domid|x") && refused("EACCES"), "write it: refused");
    check(p, !request(p, READ, 0, "%s|", path(p, "data/nothing")) && refused("ENOENT"), "read what is not there");
    check(p, request(p, WATCH, 0, "%s|tok|", path(p, "data")), "watch");
    snprintf(text, sizeof text, "v%d", round);
    check(p, request(p, WRITE, 0, "%s|%s", path(p, "data/k"), text), "write");
    check(p, request(p, READ, 0, "%s|", path(p, "data/k")) && is(text), "read it back");
    check(p, events >= before + 2, "the watch fired at once and on the write");
    check(p, request(p, UNWATCH, 0, "%s|tok|", path(p, "data")), "unwatch");
    /* larger than the ring, both ways */
    n = sprintf(big, "%s", path(p, "data/big")) + 1;
    memset(big + n, 'q', 2000);
    check(p, request_bytes(p, WRITE, 0, big, (uint32_t)n + 2000), "write 2000 bytes");
    check(p, request(p, READ, 0, "%s|", path(p, "data/big")) && answer_len == 2000 && answer[1999] == 'q',
          "read 2000 bytes");
    transact(p, "in");
    check(p, request(p, READ, 0, "%s|", path(p, "data/t")) && is("in"), "read after the commit");
    check(p, request(p, RM, 0, "%s|", path(p, "data/t")), "remove");
}

/* Destroyed and known to be: RELEASE first (a toolstack), or found by the
 * daemon (VIRQ_DOM_EXC). */
static void depart(struct peer *p, int by_virq)
{
    if (!by_virq)
        check(p, request(&dom0, RELEASE, 0, "%u|", p->domid), "release");
    sxg_kill(&G, p->domid, 1);
    if (p->fd >= 0)
        close(p->fd);
}

static void departed(struct peer *p)
{
    int tries = 0;

    while (request(&dom0, IS_DOMAIN_INTRODUCED, 0, "%u|", p->domid) && *answer != 'F' && tries++ < 1000)
        usleep(5000);
    check(p, *answer == 'F', "the daemon knows that it is gone");
    check(p, sxg_state(&G, p->domid) == 0, "nobody holds its page: no zombie");
    request(&dom0, RM, 0, "/local/domain/%u|", p->domid);
}

/* ------------------------------------------------------------ steady traffic */

static void on_signal(int sig) { stop = sig; }

/* What a guest with drivers and an agent does, a little at a time. */
static void step(struct peer *p)
{
    char text[24];

    snprintf(text, sizeof text, "%lu", p->steps);
    switch (p->steps++ % 4) {
    case 0:
        check(p, request(p, WRITE, 0, "%s|%s", path(p, "data/beat"), text), "write");
        check(p, request(p, READ, 0, "%s|", path(p, "data/beat")) && is(text), "read it back");
        break;
    case 1:
        check(p, request(&dom0, WRITE, 0, "/local/domain/%u/control/poke|%s", p->domid, text), "dom0 pokes it");
        check(p, request(p, READ, 0, "%s|", path(p, "control/poke")) && is(text), "it reads the poke");
        break;
    case 2:
        transact(p, text);
        break;
    default:
        check(p, request(p, DIRECTORY, 0, "%s|", path(p, "data")), "directory");
    }
}

static void traffic(struct peer *guests, unsigned n, double seconds, double rate, double report)
{
    uint64_t start = now_ns(), now = start, due = start, told = start;
    unsigned long counted = requests, before;
    struct timespec t;
    unsigned i;

    for (i = 0; i < n; i++) {
        request(&dom0, MKDIR, 0, "/local/domain/%u/control|", guests[i].domid);
        check(&guests[i], request(&guests[i], WATCH, 0, "%s|poke|", path(&guests[i], "control")), "watch");
    }
    for (i = 0; !stop && (seconds <= 0 || now - start < seconds * 1e9); i = (i + 1) % n) {
        before = requests;
        step(&guests[i]);
        due += (uint64_t)((double)(requests - before) * 1e9 / rate);
        now = now_ns();
        if (now > due + 1000000000u)
            due = now;                  /* slower than asked: no rush afterwards */
        t = (struct timespec) { (time_t)(due / 1000000000u), (long)(due % 1000000000u) };
        if (!stop)
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        now = now_ns();
        if (now - told >= report * 1e9) {
            printf("%5.0f s: %u guests, %.0f requests/s, %lu requests, %lu watch events, %lu failures\n",
                   (double)(now - start) / 1e9, n, (double)(requests - counted) * 1e9 / (double)(now - told),
                   requests, events, failures);
            fflush(stdout);
            told = now;
            counted = requests;
        }
    }
}

/* -------------------------------------------------------------------- main */

static const char usage[] =
    "usage: simguest [options]\n"
    "\n"
    "Plays guests against the XenStore daemon on the pretend hypervisor in $SIMXEN_DIR.\n"
    "\n"
    "  -n, --guests N         this many guests (3)\n"
    "  -b, --first DOMID      the first one's domid (1)\n"
    "  -r, --rounds N         rounds of checks per guest (3)\n"
    "  -k, --kill             they die and the daemon must notice, instead of RELEASE\n"
    "  -t, --traffic SECONDS  steady traffic instead of rounds; 0: until SIGINT or SIGTERM\n"
    "      --rate N           at most this many requests a second, all together (300)\n"
    "      --report SECONDS   a line of progress this often (3)\n"
    "      --via ring|socket  how the guests talk: over their rings (default), or each over a\n"
    "                         socket of its own\n"
    "  -s, --socket PATH      the daemon's socket ($XENSTORED_PATH, $XENSTORED_RUNDIR/socket)\n"
    "  -v, --verbose          a line for every check\n"
    "  -h, --help             this text\n";

static double number(const char *text, double least, double most)
{
    char *end;
    double v = strtod(text, &end);

    if (end != text && !*end && v >= least && v <= most)
        return v;
    fprintf(stderr, "simguest: '%s' is not a number from %g to %g\n", text, least, most);
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "guests", 1, NULL, 'n' }, { "first", 1, NULL, 'b' },  { "rounds", 1, NULL, 'r' },  { "kill", 0, NULL, 'k' },
        { "traffic", 1, NULL, 't' }, { "rate", 1, NULL, 'R' },  { "report", 1, NULL, 'P' },  { "via", 1, NULL, 'V' },
        { "socket", 1, NULL, 's' }, { "verbose", 0, NULL, 'v' }, { "help", 0, NULL, 'h' },   { NULL, 0, NULL, 0 },
    };
    const char *env = getenv("XENSTORED_PATH"), *rundir = getenv("XENSTORED_RUNDIR");
    struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESETHAND };
    double seconds = -1, rate = 300, report = 3;
    unsigned n = 3, first = 1, i;
    int c, r, rounds = 3, by_virq = 0, over_socket = 0;
    char dflt[108];
    struct peer *guests;
    uint64_t t0, t1;

    snprintf(dflt, sizeof dflt, "%s/socket", rundir && *rundir ? rundir : "/var/run/xenstored");
    socket_path = env && *env ? env : dflt;
    while ((c = getopt_long(argc, argv, "n:b:r:kt:s:vh", options, NULL)) != -1)
        switch (c) {
        case 'n': n = (unsigned)number(optarg, 1, SX_MAXDOM - 1); break;
        case 'b': first = (unsigned)number(optarg, 1, SX_MAXDOM - 1); break;
        case 'r': rounds = (int)number(optarg, 0, 1e9); break;
        case 'k': by_virq = 1; break;
        case 't': seconds = number(optarg, 0, 1e9); break;
        case 'R': rate = number(optarg, 1, 1e9); break;
        case 'P': report = number(optarg, 0.01, 1e9); break;
        case 'V':
            over_socket = !strcmp(optarg, "socket");
            if (over_socket || !strcmp(optarg, "ring"))
                break;
            fprintf(stderr, "simguest: --via is ring or socket, not '%s'\n", optarg);
            return 2;
        case 's': socket_path = optarg; break;
        case 'v': verbose = 1; break;
        case 'h': fputs(usage, stdout); return 0;
        default: fputs("try simguest --help\n", stderr); return 2;
        }
    if (optind < argc || n + first > SX_MAXDOM) {
        fprintf(stderr, "simguest: %s\n", optind < argc ? "no arguments besides options" : "too many guests");
        return 2;
    }
    guests = calloc(n, sizeof *guests);
    if (!guests || sxg_open(&G, NULL, 0) < 0)
        die("the pretend hypervisor: %s", strerror(errno));
    have_hv = 1;
    atexit(leave);
    dom0.fd = connected();
    for (i = 0; i < n; i++) {
        guests[i].domid = first + i;
        arrive(&guests[i], over_socket);
    }
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    t0 = now_ns();
    if (failures)
        die("the guests could not be set up");
    requests = 0;
    if (seconds >= 0)
        traffic(guests, n, seconds, rate, report);
    else
        for (r = 0; r < rounds && !stop; r++)
            for (i = 0; i < n && !stop; i++)
                round_of_checks(&guests[i], r);
    t1 = now_ns();
    c = (int)requests;
    for (i = 0; i < n; i++)
        depart(&guests[i], by_virq);
    for (i = 0; i < n; i++)
        departed(&guests[i]);
    printf("%u guests, %d requests, %lu watch events, %lu failures", n, c, events, failures);
    if (seconds < 0 && c)
        printf(", %.1f us per request", (double)(t1 - t0) / 1e3 / c);
    printf("\n");
    close(dom0.fd);
    free(guests);
    return failures != 0;
}
