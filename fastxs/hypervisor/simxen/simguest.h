/*
 * What the parts of simguest share.  Each knows only those above it:
 *
 *   loop.c      fibers, and the loop that resumes them
 *   talk.c      requests and answers over sockets and rings, and what is counted of them
 *   lives.c     what toolstacks, guests and drivers do: the workloads
 *   simguest.c  options, the run, the report
 */
#ifndef SIMGUEST_H
#define SIMGUEST_H
#include <signal.h>
#include "simxen.h"

#define NS_PER_S    1000000000u
#define NS_PER_MS   1000000u
#define PATIENCE_NS (10ull * NS_PER_S)  /* so long may a daemon say nothing at all */

/* ---- loop.c: a fiber tells its story in a straight line, and waits in the middle of it ---- */

struct fiber;
struct source { void (*ready)(struct source *self); };  /* first member of what epoll watches */

uint64_t now_ns(void);
void loop_open(void);
/* Tell `source` while something waits to be read from this descriptor.  Closing it ends that. */
void loop_watch(int fd, struct source *source);
void loop_watch_room(int fd, struct source *source, int on);    /* also while there is room to write */
/* Until every fiber has ended.  `settle` is called before each sleep; `silence` when nothing came for `quiet_ns`. */
void loop_run(void (*settle)(void), void (*silence)(void), uint64_t quiet_ns);

void fiber_start(void (*run)(void *), void *arg);
struct fiber *fiber_self(void);
void fiber_wait(void);                  /* for a resume or a wake */
void fiber_nap_until(uint64_t ns);
void fiber_wake(struct fiber *f);       /* it goes on when its turn comes */
void fiber_resume(struct fiber *f);     /* it goes on now; from the loop only, that is, from a source */

/* ---- talk.c ---- */

enum {                                  /* the wire's numbers */
    DIRECTORY = 1, READ = 2, GET_PERMS = 3, WATCH = 4, UNWATCH = 5, TRANSACTION_START = 6, TRANSACTION_END = 7,
    INTRODUCE = 8, RELEASE = 9, WRITE = 11, MKDIR = 12, RM = 13, SET_PERMS = 14, WATCH_EVENT = 15, ERROR = 16,
    IS_DOMAIN_INTRODUCED = 17, OPERATIONS = 27,
};
#define PAYLOAD_MAX 4096u

#define BUCKETS 640u                    /* of a latency: 16 for each power of two, in ns */
struct operation { unsigned long count, errors; uint32_t latency[BUCKETS]; };
#define WORDS       17u                 /* errors, the last one: any other */

struct stats {
    uint64_t began_ns, ended_ns;
    unsigned long requests, events, errors[WORDS];
    struct operation operations[OPERATIONS];
};

enum kind { CLOSED, RING, SOCKET };

struct conn {                           /* a peer's connection to the daemon */
    struct source source;
    uint32_t domid;                     /* 0: the toolstack's */
    enum kind kind;
    int fd;
    struct ask *first, **end;           /* requests without an answer, in their order */
    char *out, *rest;                   /* what the daemon has not taken; what is no whole message yet */
    uint32_t out_len, rest_len;
    int waits_for_room;
    struct conn *next, **at;            /* in the list of those that are open */
};

struct watch { unsigned fired; struct fiber *waiter; uint32_t domid; };   /* domid: who waits */

extern struct sxg G;
extern const char *socket_path;
extern struct conn dom0;
extern const char *const operation_names[OPERATIONS];
extern const char *const error_words[WORDS];
extern struct stats measured;
extern unsigned long failures, late;
extern double rate;                     /* requests per second, all together; 0: no limit */
extern int verbose;

/* So many watches, numbered from 0; `patient`: notifications get lost. */
void talk_open(unsigned watches, int patient);
void measure(int on);                   /* count from now on, from nothing; or no longer */
/* The loop, until every fiber has ended; `tick` is called before each sleep. */
void talk_run(void (*tick)(void));
void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...);

void conn_open(struct conn *c, uint32_t domid, enum kind kind);
void conn_close(struct conn *c);

/* One request and its answer; whether it succeeded.  In the format '|' stands for NUL. */
int __attribute__((format(printf, 4, 5))) request(struct conn *c, uint32_t type, uint32_t tx, const char *format, ...);
int request_bytes(struct conn *c, uint32_t type, uint32_t tx, const void *payload, uint32_t len);
/* About the last answer, until this fiber waits again. */
extern char answer[PAYLOAD_MAX + 1];
extern uint32_t answer_len;
int is(const char *value);
int refused(const char *word);

/* A check that failed is counted and told; `ok` again. */
int check(uint32_t domid, int ok, const char *what);

struct watch *watch_of(unsigned number);        /* whose token is this number */
/* Until it has fired more than `seen` times. */
void watch_await(struct watch *w, unsigned seen, uint32_t domid);
void watch_fire(struct watch *w);               /* by hand, to tell another fiber */

/* The time that `part` (0..1) of the answers stayed below, in us. */
double latency_us(const struct operation *o, unsigned how_many, double part);

/* ---- lives.c ---- */

struct guest {
    struct conn conn, toolstack;        /* the second one: its own, while it boots */
    struct conn *tools;                 /* that one, or dom0's shared one */
    uint32_t domid;
    unsigned number;                    /* from 0 */
    int present;
    unsigned long lives, rounds;        /* rounds: what its workload counts */
};

struct workload {
    const char *name, *unit, *help;
    void (*arrive)(struct guest *), (*work)(struct guest *), (*leave)(struct guest *);
    enum { SOME, ALL } at_a_time;       /* --parallel guests work at a time, or all */
    double rounds, seconds;             /* unless told; seconds 0: until a signal; -1: as many rounds */
    int measures_arrival;               /* the rest says nothing */
};
extern const struct workload workloads[];

extern struct guest *guests;
extern unsigned n_guests, first_domid, refusals;
extern int over_socket, by_virq, reuse;  /* --via socket, --kill, --reuse */
extern volatile sig_atomic_t stop;
extern uint64_t deadline_ns;            /* UINT64_MAX: none; 0: `rounds` rounds */
extern unsigned long rounds, introductions_refused;

#define WATCHES 4u                      /* numbers per guest */
void settle_dom0(void *);               /* what dom0's own start leaves in the store */
#endif
