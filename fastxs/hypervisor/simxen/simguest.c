/*
 * simguest: plays guests, and dom0 beside them, against a XenStore daemon that
 * runs on simxen.  Here: options, the course of a run, the report.
 *
 * Exit status 0: all was well; 1: something failed; 2: usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "simguest.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof *(a))

static const struct { const char *name; unsigned what; int arriving; } faults[] = {
    { "map", SX_FAIL_MAP, 1 }, { "bind", SX_FAIL_BIND, 1 },     /* meet guests that are introduced */
    { "notify", SX_FAIL_NOTIFY, 0 }, { "read", SX_FAIL_READ, 0 },   /* and those that are there */
};

static const struct workload *workload = workloads;
static unsigned parallel = 16, injected[SX_FAILS];
static int errors_of[SX_FAILS];         /* what they fail with */
static int have_hv, json;
static double report_s = 3, limit_s = -1;       /* of the work: 0 until a signal, -1 by rounds */

static struct {                         /* the part of the run that goes on */
    const char *name;
    void (*act)(struct guest *);
    unsigned next, done;
    uint64_t began_ns;
} phase;

/* ------------------------------------------------------------------- report */

static unsigned long all_rounds(void)
{
    unsigned long n = 0;
    unsigned i;

    for (i = 0; i < n_guests; i++)
        n += guests[i].rounds;
    return n;
}

static void tell_json(double seconds)
{
    const struct operation *o = measured.operations;
    const char *comma = "";
    unsigned i;

    printf("{\"workload\": \"%s\", \"guests\": %u, \"rounds\": %lu, \"unit\": \"%s\", \"seconds\": %.6f, "
           "\"requests\": %lu, \"events\": %lu, \"failures\": %lu, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"operations\": {", workload->name, n_guests, all_rounds(), workload->unit, seconds, measured.requests,
           measured.events, failures, latency_us(o, OPERATIONS, .5), latency_us(o, OPERATIONS, .99));
    for (i = 0; i < OPERATIONS; i++)
        if (o[i].count) {
            printf("%s\"%s\": {\"count\": %lu, \"errors\": %lu, \"p50_us\": %.1f, \"p99_us\": %.1f}", comma,
                   operation_names[i], o[i].count, o[i].errors, latency_us(o + i, 1, .5), latency_us(o + i, 1, .99));
            comma = ", ";
        }
    printf("}, \"errors\": {");
    for (i = 0, comma = ""; i < WORDS; i++)
        if (measured.errors[i]) {
            printf("%s\"%s\": %lu", comma, error_words[i], measured.errors[i]);
            comma = ", ";
        }
    printf("}, \"faults\": {");
    for (i = 0, comma = ""; i < ARRAY_SIZE(faults); i++)
        if (injected[faults[i].what]) {
            printf("%s\"%s\": %u", comma, faults[i].name, injected[faults[i].what] - sxg_failing(&G, faults[i].what));
            comma = ", ";
        }
    printf("}, \"introductions_refused\": %lu, \"late\": %lu}\n", introductions_refused, late);
}

static void tell(void)
{
    double seconds = (double)((measured.ended_ns ? measured.ended_ns : now_ns()) - measured.began_ns) / 1e9;

    if (json) {
        tell_json(measured.began_ns ? seconds : 0);
        return;
    }
    printf("%u guests, %lu requests, %lu watch events, %lu failures", n_guests, measured.requests, measured.events,
           failures);
    if (measured.requests && rate <= 0)
        printf(", %.1f us per request", seconds * 1e6 / (double)measured.requests);
    putchar('\n');
}

/* Progress, every --report seconds. */
static void tick(void)
{
    static uint64_t told;
    static unsigned long counted;
    uint64_t now = now_ns();

    if (measured.requests < counted)
        counted = 0;                    /* another phase is measured */
    if (!phase.name || (told && now - told < report_s * 1e9))
        return;
    if (json)
        printf("{\"phase\": \"%s\", \"done\": %u, \"of\": %u, \"seconds\": %.1f, \"limit\": %.1f}\n", phase.name,
               phase.done, n_guests, (double)(now - phase.began_ns) / 1e9,
               phase.act == workload->work ? limit_s : -1);
    else if (told && measured.began_ns && !measured.ended_ns)
        printf("%5.0f s: %u guests, %.0f requests/s, %lu requests, %lu watch events, %lu failures\n",
               (double)(now - measured.began_ns) / 1e9, n_guests,
               (double)(measured.requests - counted) * 1e9 / (double)(now - told), measured.requests, measured.events,
               failures);
    fflush(stdout);
    told = now;
    counted = measured.requests;
}

/* ---------------------------------------------------------------------- run */

static void on_signal(int sig) { stop = sig; }

static void worker(void *unused)
{
    (void)unused;
    while (phase.next < n_guests && !(stop && phase.act == workload->arrive)) {
        phase.act(&guests[phase.next++]);
        phase.done++;
    }
}

static void all_guests(const char *name, void (*act)(struct guest *), unsigned at_a_time)
{
    unsigned i;

    if (!act)
        return;
    phase.name = name;
    phase.act = act;
    phase.next = phase.done = 0;
    phase.began_ns = now_ns();
    for (i = 0; i < at_a_time && i < n_guests; i++)
        fiber_start(worker, NULL);
    talk_run(tick);
}

static void inject(int arriving)
{
    unsigned i, what;

    for (i = 0; i < ARRAY_SIZE(faults); i++)
        if (faults[i].arriving == arriving && injected[what = faults[i].what])
            sxg_fail(&G, what, injected[what], errors_of[what]);
}

static void run(void)
{
    fiber_start(settle_dom0, NULL);
    talk_run(tick);
    inject(1);
    measure(1);
    all_guests("arrive", workload->arrive, parallel);
    if (failures)
        die("the guests could not be set up");
    inject(0);
    measure(!workload->measures_arrival);
    deadline_ns = limit_s < 0 ? 0 : limit_s > 0 ? now_ns() + (uint64_t)(limit_s * 1e9) : UINT64_MAX;
    all_guests("work", workload->work, workload->at_a_time == ALL ? n_guests : parallel);
    if (!workload->measures_arrival)
        measure(0);
    all_guests("leave", workload->leave, parallel);
}

static void leave(void)
{
    if (dom0.kind != CLOSED)
        tell();
    if (have_hv)
        sxg_close(&G);
}

/* ------------------------------------------------------------------ options */

static const char usage[] =
    "usage: simguest [options]\n"
    "\n"
    "Plays guests against the XenStore daemon on the pretend hypervisor in $SIMXEN_DIR.\n"
    "\n"
    "  -n, --guests N         this many guests (3)\n"
    "  -b, --first DOMID      the first one's domid (1)\n"
    "  -w, --workload NAME    what they do (checks), below\n"
    "  -r, --rounds N         each does it so often\n"
    "  -t, --seconds S        for so long; 0: until SIGINT or SIGTERM\n"
    "  -p, --parallel N       so many come, go and boot at a time (16)\n"
    "  -k, --kill             they die and the daemon must notice, instead of RELEASE\n"
    "      --reuse            a domid is used again as soon as Xen allows, after every kind of end\n"
    "      --fault KIND=N:E   the daemon's next N calls of this kind (map, bind, notify, read) fail with errno E\n"
    "      --rate N           at most this many requests a second, all together (0: no limit)\n"
    "      --report SECONDS   a line of progress this often (3)\n"
    "      --json             progress and report are JSON, a line each\n"
    "      --via ring|socket  how the guests talk: over their rings (default), or each over a\n"
    "                         socket of its own\n"
    "  -s, --socket PATH      the daemon's socket ($XENSTORED_PATH, $XENSTORED_RUNDIR/socket)\n"
    "  -v, --verbose          a line for every check\n"
    "  -h, --help             this text\n"
    "\n"
    "Workloads, and for how long unless told:\n";

static void help(void)
{
    const struct workload *w;
    char how_long[32];

    fputs(usage, stdout);
    for (w = workloads; w->name; w++) {
        snprintf(how_long, sizeof how_long, w->seconds < 0 ? "%g round(s)" : w->seconds > 0 ? "%g s" : "until a signal",
                 w->seconds < 0 ? w->rounds : w->seconds);
        printf("  %-10s %-16s %s\n", w->name, how_long, w->help);
    }
}

static void __attribute__((noreturn)) misused(const char *what, const char *text)
{
    fprintf(stderr, "simguest: %s: '%s'; try simguest --help\n", what, text);
    exit(2);
}

static double number(const char *text, double least, double most)
{
    char *end;
    double v = strtod(text, &end);

    if (end != text && !*end && v >= least && v <= most)
        return v;
    fprintf(stderr, "simguest: '%s' is not a number from %g to %g\n", text, least, most);
    exit(2);
}

static void plan_fault(const char *text)
{
    unsigned i, count;
    char name[8];
    int error;

    if (sscanf(text, "%7[a-z]=%u:%d", name, &count, &error) == 3)
        for (i = 0; i < ARRAY_SIZE(faults); i++)
            if (!strcmp(name, faults[i].name)) {
                injected[faults[i].what] = count;
                errors_of[faults[i].what] = error;
                return;
            }
    misused("no such fault", text);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "guests", 1, NULL, 'n' },   { "first", 1, NULL, 'b' }, { "workload", 1, NULL, 'w' },
        { "rounds", 1, NULL, 'r' },   { "seconds", 1, NULL, 't' }, { "parallel", 1, NULL, 'p' },
        { "kill", 0, NULL, 'k' },     { "reuse", 0, NULL, 'U' }, { "fault", 1, NULL, 'F' },
        { "rate", 1, NULL, 'R' },     { "report", 1, NULL, 'P' }, { "json", 0, NULL, 'J' },
        { "via", 1, NULL, 'V' },      { "socket", 1, NULL, 's' }, { "verbose", 0, NULL, 'v' },
        { "help", 0, NULL, 'h' },     { NULL, 0, NULL, 0 },
    };
    const char *env = getenv("XENSTORED_PATH"), *rundir = getenv("XENSTORED_RUNDIR");
    struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESETHAND };
    struct rlimit files;
    double each = -1;
    char dflt[108];
    unsigned i;
    int c;

    n_guests = 3;
    snprintf(dflt, sizeof dflt, "%s/socket", rundir && *rundir ? rundir : "/var/run/xenstored");
    socket_path = env && *env ? env : dflt;
    while ((c = getopt_long(argc, argv, "n:b:w:r:t:p:ks:vh", options, NULL)) != -1)
        switch (c) {
        case 'n': n_guests = (unsigned)number(optarg, 1, SX_MAXDOM - 1); break;
        case 'b': first_domid = (unsigned)number(optarg, 1, SX_MAXDOM - 1); break;
        case 'w':
            for (workload = workloads; workload->name && strcmp(workload->name, optarg); workload++)
                ;
            if (!workload->name)
                misused("no such workload", optarg);
            break;
        case 'r': each = number(optarg, 0, 1e15); break;
        case 't': limit_s = number(optarg, 0, 1e9); break;
        case 'p': parallel = (unsigned)number(optarg, 1, SX_MAXDOM); break;
        case 'k': by_virq = 1; break;
        case 'U': reuse = 1; break;
        case 'F': plan_fault(optarg); break;
        case 'R': rate = number(optarg, 0, 1e9); break;
        case 'P': report_s = number(optarg, 0.01, 1e9); break;
        case 'J': json = 1; break;
        case 'V':
            over_socket = !strcmp(optarg, "socket");
            if (!over_socket && strcmp(optarg, "ring"))
                misused("--via is ring or socket", optarg);
            break;
        case 's': socket_path = optarg; break;
        case 'v': verbose = 1; break;
        case 'h': help(); return 0;
        default: fputs("try simguest --help\n", stderr); return 2;
        }
    if (optind < argc)
        misused("no arguments besides options", argv[optind]);
    if (n_guests + first_domid > SX_MAXDOM) {
        fputs("simguest: too many guests\n", stderr);
        return 2;
    }
    if (each >= 0)
        rounds = (unsigned long)each;
    else if (limit_s < 0) {
        rounds = (unsigned long)workload->rounds;
        limit_s = workload->seconds;
    }
    guests = calloc(n_guests, sizeof *guests);
    if (!guests || sxg_open(&G, NULL, 0) < 0)
        die("the pretend hypervisor: %s", strerror(errno));
    have_hv = 1;
    atexit(leave);
    for (i = 0; i < n_guests; i++)
        guests[i].number = i;
    refusals = injected[SX_FAIL_MAP] + injected[SX_FAIL_BIND];
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {        /* --via socket, and many who boot, need descriptors */
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    talk_open(n_guests * WATCHES, injected[SX_FAIL_NOTIFY] != 0);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    run();
    return failures != 0;
}
