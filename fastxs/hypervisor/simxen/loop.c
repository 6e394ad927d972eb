/*
 * simguest's one thread: fibers, each a straight-line story of a guest or a
 * toolstack, and the loop that resumes one when what it waits for is there.
 * Knows no message.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include "simguest.h"

/* A story holds few locals (talk.c has the buffers); stacks are touched as far as they are used. */
#define FIBER_SIZE  32768u
#define CANARY      0x6e6f206d6f7265ull

struct fiber {                          /* at the low end of its stack */
    ucontext_t context;
    void (*run)(void *);
    void *arg;
    struct fiber *next;                 /* in `spare` */
    uint64_t canary;
};

struct nap { uint64_t due; struct fiber *fiber; };

static ucontext_t loop_context;
static struct fiber *self, *spare;
static struct nap *naps;                /* a heap: the earliest first */
static unsigned n_naps, room_for_naps, n_fibers;
static int epoll_fd;

uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ------------------------------------------------------------------- fibers */

static void enter(void)
{
    self->run(self->arg);
    self->next = spare;
    spare = self;
    n_fibers--;
    setcontext(&loop_context);
}

void fiber_resume(struct fiber *f)
{
    self = f;
    swapcontext(&loop_context, &f->context);
    if (f->canary != CANARY)
        abort();                        /* its stack was too small */
    self = NULL;
}

void fiber_wait(void)
{
    swapcontext(&self->context, &loop_context);
}

struct fiber *fiber_self(void) { return self; }

static void sleep_until(uint64_t due, struct fiber *f)
{
    unsigned i, up;

    if (n_naps == room_for_naps) {
        room_for_naps = room_for_naps ? 2 * room_for_naps : 256;
        naps = realloc(naps, room_for_naps * sizeof *naps);
        if (!naps)
            abort();
    }
    for (i = n_naps++; i && naps[up = (i - 1) / 2].due > due; i = up)
        naps[i] = naps[up];
    naps[i] = (struct nap) { due, f };
}

static struct fiber *pop_nap(void)
{
    struct fiber *f = naps[0].fiber;
    struct nap last = naps[--n_naps];
    unsigned i, down;

    for (i = 0; (down = 2 * i + 1) < n_naps; i = down) {
        if (down + 1 < n_naps && naps[down + 1].due < naps[down].due)
            down++;
        if (naps[down].due >= last.due)
            break;
        naps[i] = naps[down];
    }
    naps[i] = last;
    return f;
}

void fiber_wake(struct fiber *f) { sleep_until(0, f); }

void fiber_nap_until(uint64_t ns)
{
    sleep_until(ns, self);
    fiber_wait();
}

static struct fiber *new_fiber(void)
{
    struct fiber *f = spare;

    if (f) {
        spare = f->next;
        return f;
    }
    f = mmap(NULL, FIBER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f == MAP_FAILED) {
        perror("simguest: no memory for a fiber");
        exit(1);
    }
    return f;
}

/* By itself, since getcontext() might return twice, for all that the compiler knows. */
static void __attribute__((noinline)) prepare(struct fiber *f)
{
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f + 1;
    f->context.uc_stack.ss_size = FIBER_SIZE - sizeof *f;
    makecontext(&f->context, enter, 0);
}

void fiber_start(void (*run)(void *), void *arg)
{
    struct fiber *f = new_fiber();

    f->run = run;
    f->arg = arg;
    f->canary = CANARY;
    prepare(f);
    n_fibers++;
    fiber_wake(f);
}

/* --------------------------------------------------------------------- loop */

void loop_open(void)
{
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) {
        perror("simguest: epoll");
        exit(1);
    }
}

static void control(int how, int fd, struct source *source, uint32_t events)
{
    struct epoll_event e = { .events = events, .data.ptr = source };

    if (epoll_ctl(epoll_fd, how, fd, &e) < 0) {
        perror("simguest: epoll");
        exit(1);
    }
}

void loop_watch(int fd, struct source *source)
{
    control(EPOLL_CTL_ADD, fd, source, EPOLLIN);
}

void loop_watch_room(int fd, struct source *source, int on)
{
    control(EPOLL_CTL_MOD, fd, source, EPOLLIN | (on ? EPOLLOUT : 0));
}

void loop_run(void (*settle)(void), void (*silence)(void), uint64_t quiet_ns)
{
    struct epoll_event ready[256];
    uint64_t heard = now_ns(), now, until;
    int n, i;

    while (n_fibers) {
        now = now_ns();
        while (n_naps && naps[0].due <= now)
            fiber_resume(pop_nap());
        settle();
        until = heard + quiet_ns;
        if (n_naps && naps[0].due < until)
            until = naps[0].due;
        now = now_ns();
        n = n_fibers ? epoll_wait(epoll_fd, ready, 256, until > now ? (int)((until - now) / NS_PER_MS) + 1 : 0) : 0;
        for (i = 0; i < n; i++) {
            struct source *source = ready[i].data.ptr;

            source->ready(source);
        }
        now = now_ns();
        if (n > 0)
            heard = now;
        else if (now >= heard + quiet_ns) {
            silence();
            heard = now;
        }
    }
}
