/*
 * xsload - closed-loop load on a XenStore daemon, at C speed: over its unix socket, or over the rings of domains on the
 * pretend hypervisor, all of which this one program plays.
 *
 * Every reply is checked, and a run ends in one line of JSON.  Of the daemon it knows, with --pid, what the kernel says
 * that it used.
 *
 *     xsload --socket S --workload read [--pid P] [--connections C] [--depth D] [--requests N] [--seconds T] ...
 *     SIMXEN_DIR=D xsload --socket S --domains N [--workload read ...]
 *
 * A connection sends a burst of D requests in one write and waits for the D replies (--slide: as many requests as
 * replies came).  With guests the first line is about their introductions; without a workload each line of standard
 * input has the options of one run, by any --connections of the domains, until it ends.
 *
 * Workloads
 *   read write mixed   one of --keys paths of five components, 16-byte values; mixed is 3 reads to 1 write
 *   directory          list the folder of such a path
 *   domain-path        GET_DOMAIN_PATH of dom0, which touches no node
 *   churn              each connection makes a node and removes it again, over and over
 *   rest               nothing at all, for --seconds
 *   fill               --requests nodes, in order: what the layouts below consist of
 *   own                START, 3 reads and 3 writes of nodes that nobody else uses, END; --requests counts commits
 *   transaction        START, 12 writes under /vm/X /vss/X /local/domain/X, END, again on EAGAIN; --requests counts
 *                      commits; --lockstep: nobody goes on before everybody has the answer to this step
 *   life               X is made, gets three disks, is shut down and forgotten, in five transactions and what is
 *                      between them; --requests counts lives
 *   fan-out            one writes, --connections others watch it; done when all of them know
 *   connect            --connections connections come at a time, each is served once, and go
 *   hold               --connections idle connections with --watches watches each, until standard input ends
 *   arrive             --requests domains come, and stay: their nodes and their introductions
 *   introduce, die     --requests domains come, one after the other, and then go; the one or the other is measured
 * Layouts (--at), of --of nodes
 *   bench              /local/domain/0/bench/k123: made anew before each run
 *   wide               /local/domain/0/wide/c123456: one directory (made by a fill before)
 *   nodes              /tool/nodes/12/34/56: 100 in each directory (made by a fill before)
 *   guests have data/k123, four each, below their own folder
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "load.h"

struct options opt;

static bool load_is(const char *name) { return !strcmp(opt.workload, name); }

static bool is_one_of(const char *const *names)
{
    while (*names && !load_is(*names))
        names++;
    return *names;
}

static const char *const makers[] = { "transaction", "life", NULL };    /* of domains, in the store only */

/* --------------------------------------------------------------------------------------------------------- the runs */

static void chore(const struct load *what, uint64_t n)
{
    bool lockstep = opt.lockstep;

    opt.lockstep = false;
    if (!opt.echo)
        run(what, 1, FILL_DEPTH, n, UINT32_MAX, 0);
    opt.lockstep = lockstep;
}

static void before(void)
{
    if (load_is("hold") || load_is("fill"))
        return;
    if (is_one_of(makers)) {
        chore(&make_roots, ROOTS);
        if (opt.bare)
            chore(&drop_roots, 2);  /* /local/domain belongs to others too */
    } else if (opt.at == &layouts[AT_BENCH]) {
        chore(&renew, 2);
        chore(&fill, opt.keys);
    }
}

/* Leave the store as it was, so that the next run measures the same. */
static void after(void)
{
    if (is_one_of(makers)) {
        chore(&make_roots, ROOTS);
        chore(&drop_roots, 2);
        chore(&drop_made, domains_made);
    } else if (load_is("churn")) {
        run(&unchurn, opt.connections, 1, opt.connections, 1, 0);
    }
}

/* Everybody is accepted and was served once. */
static void connect_all(void)
{
    if (!(conns = calloc(opt.connections, sizeof *conns)))
        err(1, "start");
    for (uint32_t i = 0; i < opt.connections; i++) {
        conns[i].index = i;
        if (!opt.shared)
            open_socket(&conns[i]);
    }
    if (opt.shared)
        share_socket();
    run(&hello, opt.connections, 1, opt.connections, 1, 0);
}

static void measure(uint64_t rss_start)
{
    const struct load *what = find_load(opt.workload);
    bool holds = load_is("hold");
    uint64_t n = holds ? (uint64_t)opt.connections * opt.watches : opt.requests;
    uint32_t each = holds ? opt.watches : UINT32_MAX, burst = holds ? FILL_DEPTH : opt.depth;
    uint32_t fewest = UINT32_MAX, most = 0;
    struct span span;

    before();
    if (opt.warmup)
        run(what, opt.connections, burst, opt.warmup, each, opt.seconds);
    span = begin();
    run(what, opt.connections, burst, n, each, opt.seconds);
    if (holds && !opt.echo)
        await_events(n);            /* every watch fires once when it is set */
    end(&span);
    for (uint32_t i = 0; i < opt.connections; i++) {
        uint32_t had = conns[i].answered - conns[i].base;

        fewest = had < fewest ? had : fewest;
        most = had > most ? had : most;
    }
    report(&span, rss_start, fewest, most);
    if (!holds)
        after();
}

/* Many small phases, --requests of them or for --seconds; each is worth `each`. */
static void repeat(uint64_t rss_start, void (*once)(void), uint32_t each)
{
    struct span span = begin();
    uint64_t deadline = end_of(opt.seconds), begun, done = 0;

    while (done < opt.requests && now_ns() < deadline) {
        begun = now_ns();
        once();
        took(now_ns() - begun);
        done++;
    }
    count.requests = done * each;
    end(&span);
    report(&span, rss_start, 1, 1);
}

/* The writer watches, too. */
static void tell_all(void)
{
    uint64_t events = count.events + opt.connections;

    run(&tell, 1, 1, 1, 1, 0);
    await_events(events);
}

static void fan_out(uint64_t rss_start)
{
    run(&listen_in, opt.connections, 1, opt.connections, 1, 0);
    await_events(opt.connections);
    repeat(rss_start, tell_all, 1);
}

static void come_and_hang_up(void)
{
    for (uint32_t i = 0; i < opt.connections; i++)
        open_socket(&conns[i]);
    run(find_load("connect"), opt.connections, 1, opt.connections, 1, 0);
    for (uint32_t i = 0; i < opt.connections; i++)
        close_socket(&conns[i]);
}

static void connect_and_go(uint64_t rss_start)
{
    for (uint32_t i = 0; i < opt.connections; i++)
        close_socket(&conns[i]);
    repeat(rss_start, come_and_hang_up, opt.connections);
}

/* Nobody says anything. */
static void rest(void)
{
    struct span span = begin();

    usleep((useconds_t)(opt.seconds * 1e6));
    end(&span);
    report(&span, span.rss_open, 0, 0);
}

static void play(uint64_t rss_start)
{
    if (load_is("introduce") || load_is("die"))
        come_and_go(load_is("die"));
    else if (load_is("arrive"))
        arrive();
    else if (load_is("fan-out"))
        fan_out(rss_start);
    else if (load_is("connect"))
        connect_and_go(rss_start);
    else if (load_is("rest"))
        rest();
    else
        measure(rss_start);
}

static const char usage[] =
    "usage: xsload --socket PATH --workload NAME [options]\n"
    "       xsload --socket PATH --domains N [--workload NAME] [options]\n"
    "  --workload NAME     read write mixed directory domain-path churn own rest;\n"
    "                      over sockets: fill transaction life fan-out connect hold;\n"
    "                      with guests: arrive introduce die\n"
    "  --pid PID           the daemon's: adds its CPU time and memory to the result\n"
    "  --domains N         play N guests on the pretend hypervisor in $SIMXEN_DIR, and go over their rings\n"
    "  --connections C     clients, or guests, that say something (1)\n"
    "  --depth D           requests in one burst, at most 128, over rings 16 (1)\n"
    "  --slide             keep D under way instead of bursts\n"
    "  --requests N        how many, all connections together; transactions, lives, or domains (no limit)\n"
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
    "  --shared            all clients on one connection, as threads of one program are\n"
    "  --cpu N             stay on this CPU\n";

static const struct options defaults = {
    .cpu = -1, .connections = 1, .depth = 1, .keys = 500, .first = 1000, .at = &layouts[AT_BENCH],
};

enum { SLIDE = 256, LOCKSTEP, BARE, ECHO, SHARED, HELP };

static uint64_t to_number(const char *name, const char *s, uint64_t min, uint64_t max)
{
    char *stop;
    unsigned long long v;

    errno = 0;
    v = strtoull(s, &stop, 10);
    if (errno || *stop || stop == s || *s == '-' || v < min || v > max)
        errx(2, "--%s %s: a number from %llu to %llu is wanted", name, s, ull(min), ull(max));
    return v;
}

static const struct layout *to_layout(const char *name)
{
    for (int i = 0; i < AT_OWN; i++)
        if (!strcmp(layouts[i].name, name))
            return &layouts[i];
    errx(2, "--at %s: bench, wide or nodes is wanted", name);
}

static void __attribute__((noreturn)) bad_usage(void)
{
    fputs(usage, stderr);
    exit(2);
}

static void parse(int argc, char **argv)
{
    static const struct option longs[] = {
        { "socket", 1, 0, 's' }, { "workload", 1, 0, 'w' }, { "pid", 1, 0, 'p' }, { "connections", 1, 0, 'c' },
        { "depth", 1, 0, 'd' }, { "requests", 1, 0, 'n' }, { "seconds", 1, 0, 't' }, { "warmup", 1, 0, 'u' },
        { "at", 1, 0, 'a' }, { "of", 1, 0, 'o' }, { "keys", 1, 0, 'k' }, { "watches", 1, 0, 'W' },
        { "first", 1, 0, 'x' }, { "cpu", 1, 0, 'C' }, { "domains", 1, 0, 'D' }, { "slide", 0, 0, SLIDE },
        { "lockstep", 0, 0, LOCKSTEP }, { "bare", 0, 0, BARE }, { "echo", 0, 0, ECHO }, { "shared", 0, 0, SHARED }, { "help", 0, 0, HELP },
        { 0, 0, 0, 0 },
    };
    cpu_set_t one;
    int o, i;

    optind = 0;                     /* from the beginning, also the second time */
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
        case 'a': opt.at = to_layout(optarg); break;
        case 'o': opt.of = (uint32_t)NUMBER(1, 1000000); break;
        case 'k': opt.keys = (uint32_t)NUMBER(1, 1000000); break;
        case 'W': opt.watches = (uint32_t)NUMBER(0, 100000); break;
        case 'x': opt.first = (uint32_t)NUMBER(1, 1000000); break;
        case 'C': opt.cpu = (int)NUMBER(0, CPU_SETSIZE - 1); break;
        case 'D': opt.domains = (uint32_t)NUMBER(1, SX_MAXDOM / 2); break;
        case SLIDE: opt.slide = true; break;
        case LOCKSTEP: opt.lockstep = true; break;
        case BARE: opt.bare = true; break;
        case ECHO: opt.echo = true; break;
        case SHARED: opt.shared = true; break;
        case HELP: fputs(usage, stdout); exit(0);
        default: bad_usage();
        }
    if (optind < argc)
        bad_usage();
    if (opt.cpu >= 0) {
        CPU_ZERO(&one);
        CPU_SET(opt.cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one) < 0)
            err(1, "CPU %d", opt.cpu);
    }
}

/* What options mean together, for one run. */
static void settle(void)
{
    static const char *const everywhere[] = {
        "read", "write", "mixed", "directory", "domain-path", "churn", "own", "rest", NULL,
    };
    static const char *const sockets[] = { "fill", "transaction", "life", "fan-out", "connect", "hold", NULL };
    static const char *const rings[] = { "arrive", "introduce", "die", NULL };

    if (!is_one_of(everywhere) && !is_one_of(opt.domains ? rings : sockets))
        errx(2, "--workload %s: there is no such one", opt.workload);
    if (opt.domains) {
        opt.at = &layouts[AT_OWN];
        opt.of = opt.keys = OWN_NODES;
        if (opt.depth > RING_DEPTH || opt.connections > opt.domains)
            errx(2, "--depth %u --connections %u: at most %u and %u", opt.depth, opt.connections, RING_DEPTH,
                 opt.domains);
    } else if (load_is("fill")) {
        if (opt.connections != 1 || !opt.requests || opt.requests > opt.at->max)
            errx(2, "fill: one connection and 1 to %u --requests are wanted", opt.at->max);
        opt.of = opt.keys = (uint32_t)opt.requests;
    } else if (!opt.of) {
        opt.of = opt.at == &layouts[AT_BENCH] ? opt.keys : opt.at->max;
    }
    if (opt.of > opt.at->max || opt.keys > opt.of)
        errx(2, "--keys %u --of %u: %s has at most %u nodes", opt.keys, opt.of, opt.at->name, opt.at->max);
    if (opt.echo && (is_one_of(makers) || load_is("own") || load_is("fan-out")))
        errx(2, "an echo has no transactions and no watches");
    if (opt.shared && (opt.domains || load_is("hold") || load_is("fan-out") || load_is("connect")))
        errx(2, "--shared: these are connections of their own");
    if (!load_is("hold") && !opt.requests) {
        if (!(opt.seconds > 0) || is_one_of(rings))
            errx(2, "--requests or --seconds is wanted");
        opt.requests = UINT32_MAX;
    }
}

/* The options of one run in each line, over those of the command line. */
static void play_lines(char *program)
{
    const struct options given = opt;
    char line[1024], *words[64], *rest;

    while (fgets(line, sizeof line, stdin)) {
        int n = 1;

        words[0] = program;
        for (char *word = strtok_r(line, " \n", &rest); word && n < 63; word = strtok_r(NULL, " \n", &rest))
            words[n++] = word;
        words[n] = NULL;
        opt = given;
        parse(n, words);
        settle();
        play(rss_bytes());
    }
}

int main(int argc, char **argv)
{
    struct options given;
    uint64_t rss_start;

    opt = defaults;
    parse(argc, argv);
    if (!opt.socket || (!opt.workload && !opt.domains))
        bad_usage();
    if (opt.workload)
        settle();
    given = opt;
    rss_start = rss_bytes();
    engine_open();
    if (opt.domains) {
        populate();
        opt = given;
    } else {
        connect_all();
    }
    if (opt.workload)
        play(rss_start);
    if (!opt.workload || load_is("hold"))
        play_lines(argv[0]);
    if (given.domains)
        sxg_close(&hv);
    return count.errors ? 1 : 0;
}
