/*
 * meter.c - owns the clock, the counts and the line of JSON.  What the daemon used is what the kernel says: schedstat
 * of all its threads, read before and after the measured part while they sleep, so that start, filling and warm-up
 * do not count.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "load.h"

enum { SETTLE_US = 10000, BUCKETS = sizeof count.histogram / sizeof *count.histogram };
/* schedstat is exact for a thread that sleeps */

struct count count;

unsigned long long ull(uint64_t v) { return v; }

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

uint64_t end_of(double seconds)
{
    return seconds > 0 ? now_ns() + (uint64_t)(seconds * 1e9) : UINT64_MAX;
}

/* ------------------------------------------------------------------------------------- what the kernel says it cost */

/* The first number of each thread's schedstat. */
static uint64_t thread_cpu_ns(const char *task)
{
    unsigned long long ns = 0;
    char name[300];
    FILE *f;

    snprintf(name, sizeof name, "%s/schedstat", task);
    if ((f = fopen(name, "r"))) {
        if (fscanf(f, "%llu", &ns) != 1)
            ns = 0;
        fclose(f);
    }
    return ns;
}

/* How often it went to sleep of its own accord. */
static uint64_t thread_switches(const char *task)
{
    unsigned long long n = 0;
    char name[300], line[128];
    FILE *f;

    snprintf(name, sizeof name, "%s/status", task);
    if ((f = fopen(name, "r"))) {
        while (fgets(line, sizeof line, f) && sscanf(line, "voluntary_ctxt_switches: %llu", &n) != 1)
            ;
        fclose(f);
    }
    return n;
}

static uint64_t all_threads(uint64_t (*of)(const char *task))
{
    char name[280];
    struct dirent *task;
    uint64_t sum = 0;
    DIR *tasks;

    if (!opt.pid)
        return 0;
    snprintf(name, sizeof name, "/proc/%d/task", opt.pid);
    if (!(tasks = opendir(name)))
        err(1, "%s", name);
    while ((task = readdir(tasks))) {
        snprintf(name, sizeof name, "/proc/%d/task/%s", opt.pid, task->d_name);
        if (task->d_name[0] != '.')
            sum += of(name);        /* 0 for a thread that ends meanwhile */
    }
    closedir(tasks);
    return sum;
}

uint64_t rss_bytes(void)
{
    char name[64];
    unsigned long long pages = 0;
    FILE *f;

    if (!opt.pid)
        return 0;
    snprintf(name, sizeof name, "/proc/%d/statm", opt.pid);
    if (!(f = fopen(name, "r")) || fscanf(f, "%*s %llu", &pages) != 1)
        err(1, "%s", name);
    fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

struct span begin(void)
{
    struct span s;

    if (count.errors)
        errx(1, "before the measured part: %s", count.first_error);
    memset(&count, 0, sizeof count);
    usleep(SETTLE_US);
    s.rss_open = rss_bytes();
    s.switches = all_threads(thread_switches);
    s.cpu_ns = all_threads(thread_cpu_ns);
    s.own_cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    s.wall_ns = now_ns();
    return s;
}

void end(struct span *s)
{
    s->wall_ns = now_ns() - s->wall_ns;
    s->own_cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - s->own_cpu_ns;
    usleep(SETTLE_US);
    s->cpu_ns = all_threads(thread_cpu_ns) - s->cpu_ns;
    s->switches = all_threads(thread_switches) - s->switches;
    s->rss_end = rss_bytes();
}

/* ------------------------------------------------------------------------------------------------- what was counted */

void took(uint64_t ns)
{
    uint32_t octave;

    if (ns < 64) {
        count.histogram[ns]++;
        return;
    }
    octave = 63u - (uint32_t)__builtin_clzll(ns);
    count.histogram[(octave - 4) * 32 + ((ns >> (octave - 5)) & 31)]++;
}

/* Where bucket `i` begins. */
static uint64_t bucket_ns(uint32_t i)
{
    return i < 64 ? i : (uint64_t)(32 + i % 32) << (i / 32 - 1);
}

static uint64_t percentile(double share)
{
    uint64_t seen = 0, all = 0, want;

    for (uint32_t i = 0; i < BUCKETS; i++)
        all += count.histogram[i];
    want = (uint64_t)(share * (double)all);
    for (uint32_t i = 0; i < BUCKETS; i++)
        if ((seen += count.histogram[i]) > want)
            return bucket_ns(i);
    return 0;
}

void complain(const char *name, const char *what, const struct conn *c, const struct header *h, const char *body)
{
    char got[64];
    uint32_t n = h->len < sizeof got - 1 ? h->len : sizeof got - 1;

    if (count.errors++)
        return;
    for (uint32_t i = 0; i < n; i++)    /* it goes into JSON */
        got[i] = body[i] < ' ' || body[i] > '~' || body[i] == '"' || body[i] == '\\' ? '.' : body[i];
    got[n] = 0;
    snprintf(count.first_error, sizeof count.first_error, "%s: %s: connection %u request %u type %u tx %u len %u: %s",
             name, what, c->index, h->req_id, h->type, h->tx_id, h->len, got);
}

void report(const struct span *s, uint64_t rss_start, uint32_t fewest, uint32_t most)
{
    const char *comma = "";

    printf("{\"workload\": \"%s\", \"connections\": %u, \"depth\": %u, \"requests\": %llu, \"errors\": %llu, ",
           opt.workload, opt.connections, opt.depth, ull(count.requests), ull(count.errors));
    printf("\"first_error\": \"%s\", \"eagain\": %llu, \"commits\": %llu, \"events\": %llu, \"wall_s\": %.6f, ",
           count.first_error, ull(count.eagain), ull(count.commits), ull(count.events), (double)s->wall_ns / 1e9);
    printf("\"cpu_ns\": %llu, \"client_cpu_ns\": %llu, \"p50_ns\": %llu, \"p99_ns\": %llu, \"p999_ns\": %llu, ",
           ull(s->cpu_ns), ull(s->own_cpu_ns), ull(percentile(0.5)), ull(percentile(0.99)), ull(percentile(0.999)));
    printf("\"scripts\": %llu, \"fewest\": %u, \"most\": %u, \"switches\": %llu, \"latency\": [", ull(count.scripts),
           fewest, most, ull(s->switches));
    for (uint32_t i = 0; i < BUCKETS; i++)
        if (count.histogram[i]) {
            printf("%s[%llu, %llu]", comma, ull(bucket_ns(i)), ull(count.histogram[i]));
            comma = ", ";
        }
    printf("], \"rss_start\": %llu, \"rss_open\": %llu, \"rss_end\": %llu}\n",
           ull(rss_start), ull(s->rss_open), ull(s->rss_end));
    fflush(stdout);
}
