/*
 * load.h - what the files of xsload share.
 *
 *   meter.c    the clock, what the kernel says the daemon used, latencies, the line of JSON
 *   traffic.c  kinds of load: paths and values, what a request looks like, what its reply must be
 *   engine.c   peers over sockets and rings, bursts, the closed loop
 *   guests.c   domains: their nodes, how they are introduced and how they die
 *   xsload.c   options; what comes before and after the measured part
 */
#ifndef LOAD_H
#define LOAD_H
#include <stdbool.h>
#include <stdint.h>
#include "simxen.h"

enum op {
    DIRECTORY = 1, READ = 2, WATCH = 4, UNWATCH = 5, START = 6, END = 7, INTRODUCE = 8, GET_DOMAIN_PATH = 10,
    WRITE = 11, MKDIR = 12, RM = 13, SET_PERMS = 14, WATCH_EVENT = 15, ERROR = 16, IS_INTRODUCED = 17,
};
struct header {
    uint32_t type, req_id, tx_id, len;
};
enum {
    PAYLOAD = 4096,
    MAX_REQUEST = 256,              /* bytes of the largest request made here */
    MAX_DEPTH = 128,                /* so many replies of full size fit into the input buffer */
    RING_DEPTH = 16,                /* so many requests of a guest fit into its ring */
    FILL_DEPTH = 64,
    STALL_MS = 60000,               /* C xenstored takes seconds for a step of 300 clients in lock-step */
    FIRST_DOMID = 1,
    OWN_NODES = 4,                  /* that each guest reads and writes */
};

struct conn {
    int fd;
    struct sx_ring *ring;           /* a guest's; NULL: the peer is a socket */
    uint32_t domid;                 /* a guest's */
    uint32_t index;
    uint32_t sent, answered;        /* req_id of the next request, of the next reply */
    uint32_t base;                  /* `sent` when this phase began */
    uint32_t held;                  /* bytes of a reply that has not come in whole */
    uint32_t tx_id, x;              /* of a script: its transaction's id, the domain it makes */
    uint32_t step_sent, step_done;  /* and how far it is */
    bool busy;                      /* it has one to finish */
    uint64_t when[MAX_DEPTH];       /* when a request left */
    char rest[sizeof(struct header) + PAYLOAD];
};

/* What a client says.  From a START to an END it is a transaction: all of it again after an EAGAIN. */
struct step {
    enum op op;
    const char *path;               /* as in fill_in; NULL: a node of its own */
    bool maybe;                     /* it may be refused */
};
struct script {
    const struct step *steps;
    uint32_t last;
};

/* One kind of traffic: how a request is made and what its reply must be. */
struct load {
    const char *name;
    enum op (*op)(const struct conn *c, uint32_t id);
    char *(*path)(const struct conn *c, uint32_t id, char *p);
    uint32_t (*key)(const struct conn *c, uint32_t id);     /* the number in the value, by default one drawn */
    const struct script *script;
    bool untimed;                   /* what takes time is not its reply */
};

struct layout {
    const char *name, *dir;
    uint32_t folders;               /* levels of 100 below dir */
    const char *leaf;
    uint32_t digits, max;
};
enum { AT_BENCH, AT_WIDE, AT_NODES, AT_OWN, LAYOUTS };

struct options {
    const char *socket, *workload;
    int pid, cpu;
    uint32_t connections, depth, keys, of, watches, first;
    uint32_t domains;               /* 0: sockets */
    uint64_t requests, warmup;
    double seconds;
    const struct layout *at;
    bool slide, lockstep, bare, echo, shared;
};
extern struct options opt;

/* ---- meter.c */

struct count {
    uint64_t requests, errors, eagain, commits, scripts, events;
    char first_error[200];
    uint64_t histogram[64 * 32];    /* logarithmic with 32 steps to an octave: 3 % wide */
};
extern struct count count;

struct span {                       /* a measured part */
    uint64_t cpu_ns, own_cpu_ns, wall_ns, switches, rss_open, rss_end;
};

unsigned long long ull(uint64_t v);     /* for printf */
uint64_t now_ns(void);
uint64_t end_of(double seconds);        /* when they are over; 0: never */
uint64_t rss_bytes(void);
void took(uint64_t ns);
/* Count a wrong reply; the first one is told in words. */
void complain(const char *load, const char *what, const struct conn *c, const struct header *h, const char *body);
/* From here on it counts, and what came before must have been right. */
struct span begin(void);
void end(struct span *s);
/* The line of JSON; `fewest` and `most` are what the slowest and the fastest connection had answered. */
void report(const struct span *s, uint64_t rss_start, uint32_t fewest, uint32_t most);

/* ---- traffic.c */

extern const struct layout layouts[LAYOUTS];
extern const struct load *load;     /* this phase's */
extern const struct load renew, fill, unchurn, hello, listen_in, tell, make_roots, drop_roots, drop_made;
enum { ROOTS = 3 };

const struct load *find_load(const char *name);
/* `#` becomes the domid, `|` a NUL. */
char *fill_in(char *p, const char *pattern, uint32_t domid);
char *render(const struct conn *c, uint32_t id, char *out);
/* NULL, or what is wrong with the reply to the connection's oldest request. */
const char *check(const struct conn *c, const struct header *h, const char *body);
/* The first step of the transaction that this one belongs to; -1: none. */
int32_t start_of(uint32_t step);
/* Whether the whole transaction is to be done again. */
bool is_conflict(const struct conn *c, const struct header *h, const char *body);

/* ---- engine.c */

extern struct conn *conns;
extern struct sxg hv;               /* where the guests live */
extern uint64_t in_flight;          /* requests under way */
extern uint32_t domains_made;       /* by scripts, from opt.first on */

typedef void on_message(struct conn *c, const struct header *h, const char *body, uint64_t now);
typedef void on_idle(struct conn *c);

void engine_open(void);
void open_socket(struct conn *c);
void open_ring(struct conn *c, uint32_t domid);
/* One connection for all clients: --shared. */
void share_socket(void);
void close_socket(struct conn *c);
void put(struct conn *c, const char *p, uint32_t n);
/* Until nothing is under way and `events` events have come: each message to `handle`, then `next` for who had some. */
void serve(on_message *handle, on_idle *next, uint64_t events);
/* One phase: `n` requests (scripts) of `what`, at most `each` per connection, at most `seconds`. */
void run(const struct load *what, uint32_t clients, uint32_t burst, uint64_t n, uint32_t each, double seconds);
void await_events(uint64_t events);

/* ---- guests.c */

/* Make --domains domains with their nodes, and introduce them; the guests are `conns`. */
void populate(void);
/* --requests domains more, one after the other, and then their ends: one of the two is measured. */
void come_and_go(bool deaths);
/* --requests domains more, which stay: their nodes and their introductions are measured. */
void arrive(void);
#endif
