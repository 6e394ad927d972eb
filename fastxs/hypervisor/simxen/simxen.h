/*
 * simxen: a pretend hypervisor, so that XenStore daemons and guests meet
 * without Xen.  This header owns the shared state and the guest programs'
 * face; it knows nothing of XenStore.
 *
 * What a hypervisor would keep lives in one folder, $SIMXEN_DIR (default
 * /dev/shm/simxen).  All-zero files are a valid start: whoever comes first
 * makes them.
 *
 *   hv        struct sx_hv, mapped by every daemon and every guest program;
 *             flock() on it is the hypervisor's lock (slow paths only)
 *   rings     the domains' XenStore pages.  Page 0 is dom0's (what
 *             /proc/xen/xsd_kva maps); a domain's page changes with every
 *             creation of its domid (sx_dom.page)
 *   xsd_port  dom0's offered port, as text
 *   evtchn.K  a pipe of 4-byte port numbers: the read side of one open
 *             /dev/xen/evtchn.  Its holder keeps flock() on the descriptor:
 *             the kernel drops it with the last copy, and the ports with it
 *   space.K   locked by a process that holds mapped pages, gone at exec or exit
 *   guest.K   a pipe of 4-byte domids with an event for guest program K, or for
 *             one domain of it alone; locked by that program
 */
#ifndef SIMXEN_H
#define SIMXEN_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define SX_API __attribute__((visibility("default")))

#define SX_ABI      3u              /* layout of the files; others are refused */
#define SX_PAGE     4096u
#define SX_RING     1024u
#define SX_MAXDOM   32752u          /* domids from here on are reserved in Xen */
#define SX_BANKS    2u              /* pages per domid, used in turn */
#define SX_MAXPORT  65536u
#define SX_HANDLES  16u             /* open event-channel handles per host */
#define SX_SPACES   16u             /* processes with mapped pages per host */
#define SX_SLOTS    4096u           /* guest programs, and domains heard alone, per host (slot 0: nobody) */
#define SX_GRANT    1u              /* the grant reference of a XenStore page */
#define SX_DOM0_PORT 1u             /* the port that dom0's kernel offers */
#define SXG_SIZE    1024u

/* Domain states, bits.  0: there is no such domain. */
#define SX_ALIVE    1u
#define SX_SHUTDOWN 2u              /* shut down, not destroyed */
#define SX_DYING    4u              /* being torn down */
#define SX_DEAD     8u              /* torn down, a zombie while somebody holds its page */

/* Port kinds and port states, bits. */
#define SX_FREE     0u
#define SX_INTER    1u
#define SX_VIRQ     2u
#define SX_PENDING  1u              /* fired again while masked */
#define SX_MASKED   2u              /* in the pipe, or read and not unmasked yet */

/* Calls that can be told to fail: the next `count` of them give `error`. */
enum { SX_FAIL_MAP, SX_FAIL_BIND, SX_FAIL_NOTIFY, SX_FAIL_READ, SX_FAILS };

struct sx_dom {                     /* one cache line */
    _Atomic uint32_t state;
    _Atomic uint32_t lport;         /* the daemon's port that is bound to it, 0 none */
    _Atomic uint32_t rport;         /* the port that the guest offers, 0 none */
    _Atomic uint32_t owner;         /* slot of the guest program that plays it */
    _Atomic uint32_t ear;           /* the slot whose pipe gets its events, 0: its owner's */
    _Atomic uint32_t gpend;         /* its domid is in that pipe already */
    _Atomic uint32_t mapped;        /* how often other domains map its page */
    uint32_t page;                  /* in `rings` */
    uint32_t creations;
    _Atomic uint64_t uid;           /* differs for every creation */
    uint8_t maps[SX_SPACES];        /* `mapped`, by process */
};

struct sx_port {
    _Atomic uint32_t state;
    _Atomic uint32_t kind;
    _Atomic uint32_t handle;        /* who bound it: K of evtchn.K */
    uint32_t domid;                 /* its other end: domain and port, or 0 and virq */
    uint32_t rport;
    uint32_t pad[3];
};

struct sx_hv {
    _Atomic uint32_t abi;
    _Atomic uint32_t virq_dom_exc;  /* the port bound to VIRQ_DOM_EXC, 0 none */
    _Atomic uint32_t free_hint;     /* no free port below */
    _Atomic uint32_t handles;       /* bit K: evtchn.K was opened (its holder may be dead) */
    _Atomic uint32_t spaces;        /* bit K: space.K was taken (as above) */
    _Atomic uint32_t top;           /* no domid from here on was ever used */
    _Atomic uint64_t last_uid;
    _Atomic uint64_t n_notify;      /* daemon -> guest */
    _Atomic uint64_t n_pending;     /* xenevtchn_pending calls */
    _Atomic uint64_t n_unmask;      /* ports unmasked */
    _Atomic uint64_t n_getinfo;     /* domain queries */
    _Atomic uint64_t n_gnotify;     /* guest -> daemon */
    struct { _Atomic uint32_t count, error; } fail[SX_FAILS];
    char pad1[SX_PAGE - 104];
    struct sx_dom  dom[SX_MAXDOM];
    struct sx_port port[SX_MAXPORT];
    _Atomic uint64_t changed[(SX_MAXDOM + 63) / 64];    /* since libxenmanage looked */
};

/* A XenStore page as guests and daemons share it (xenstore-ring.txt). */
struct sx_ring {
    char req[SX_RING];
    char rsp[SX_RING];
    _Atomic uint32_t req_cons, req_prod;
    _Atomic uint32_t rsp_cons, rsp_prod;
    _Atomic uint32_t server_features;
    _Atomic uint32_t connection;
    _Atomic uint32_t error;
    _Atomic uint32_t evtchn_port;
};

/* The files as one process has them open.  Not for two threads at once. */
struct sx {
    struct sx_hv *hv;
    int hv_fd, rings_fd, null_fd;
    int evt_fd[SX_HANDLES];         /* write side of evtchn.K, -1: not open yet */
    char dir[160];
};

/* ---- the guest programs' face; -1 or NULL with errno where something fails ---- */

struct sxg {                        /* at most SXG_SIZE bytes */
    struct sx sx;
    unsigned slot;
    unsigned last_ear;              /* the slot that sxg_listen() found last */
    int evfd;                       /* readable: sxg_events() has something */
    char *rings;                    /* the whole file */
};

/* Join the hypervisor in `dir` (NULL: $SIMXEN_DIR) as guest program 1..4095, or
 * any free one (0).  EBUSY: somebody lives there.  Domains that a dead holder
 * left behind are destroyed. */
SX_API int sxg_open(struct sxg *g, const char *dir, unsigned slot);
/* Destroy this program's domains and leave. */
SX_API void sxg_close(struct sxg *g);

/* A new domain with an empty page that offers `rport` to dom0 (rport 0: none).
 * EEXIST: it lives, or is a zombie because its page is still mapped. */
SX_API struct sx_ring *sxg_create(struct sxg *g, uint32_t domid, uint32_t rport);
SX_API struct sx_ring *sxg_ring(struct sxg *g, uint32_t domid);
/* Play a domain that exists: dom0's kernel, or the guest of another program. */
SX_API int sxg_adopt(struct sxg *g, uint32_t domid);
/* What Xen does to a domain that it builds itself, before any toolstack runs
 * (dom0less): its port is in the page, which says that nobody is connected. */
SX_API int sxg_prebuild(struct sxg *g, uint32_t domid);
/* Close the domain's port and offer another, as a soft reset or kexec does. */
SX_API int sxg_offer(struct sxg *g, uint32_t domid, uint32_t rport);

/* The guest's side of its event channel; not bound: nothing happens. */
SX_API void sxg_notify(struct sxg *g, uint32_t domid);
SX_API int sxg_fileno(struct sxg *g);
/* Up to max domids with an event since the last call; never waits. */
SX_API int sxg_events(struct sxg *g, uint32_t *domids, int max);
/* A descriptor for one domain's events, which come no longer with sxg_events():
 * readable when there was one since sxg_heard(), which never waits.  EMFILE: all
 * slots are taken.  sxg_unlisten() closes it. */
SX_API int sxg_listen(struct sxg *g, uint32_t domid);
SX_API void sxg_heard(struct sxg *g, uint32_t domid, int fd);
SX_API void sxg_unlisten(struct sxg *g, uint32_t domid, int fd);

/* The guest's end of its ring, as Linux plays it: it tells the daemon only if
 * that may be waiting.  How many bytes went; never waits.  ESRCH: the domain is
 * no more; ECONNRESET: the daemon has set the ring's error; EPROTO: the indices
 * are corrupt. */
SX_API int sxg_put(struct sxg *g, uint32_t domid, const void *data, uint32_t n);
SX_API int sxg_take(struct sxg *g, uint32_t domid, void *data, uint32_t n);

/* The ways to go.  Shut down: still there, flagged.  Dying: tear-down began,
 * no port any more.  Kill: torn down, gone at once or when the last mapping of
 * its page goes.  virq 0 leaves out Xen's VIRQ_DOM_EXC: the news is missed, or
 * comes with the next. */
SX_API int sxg_shutdown(struct sxg *g, uint32_t domid, int virq);
SX_API int sxg_dying(struct sxg *g, uint32_t domid);
SX_API int sxg_kill(struct sxg *g, uint32_t domid, int virq);
/* The VIRQ that was left out. */
SX_API void sxg_virq(struct sxg *g);

/* SX_ALIVE ... or 0, after those who died have let go of their pages. */
SX_API uint32_t sxg_state(struct sxg *g, uint32_t domid);
SX_API uint32_t sxg_mapped(struct sxg *g, uint32_t domid);
SX_API uint64_t sxg_uid(struct sxg *g, uint32_t domid);
/* Let the next `count` calls of a kind (SX_FAIL_...) fail with `error`.  A read of
 * the event channels that failed with EFBIG fails on until it is reset. */
SX_API void sxg_fail(struct sxg *g, unsigned what, uint32_t count, int error);
SX_API uint32_t sxg_failing(struct sxg *g, unsigned what);      /* how many are left */
/* One of the counters by name ("notify", "unmask", ...), 0 if there is none. */
SX_API uint64_t sxg_count(struct sxg *g, const char *name);

/* ---- what libsimxen.so has beyond libxen*'s functions ---- */

/* Unmask many ports for one system call, as one write to /dev/xen/evtchn does.
 * -1, EINVAL: one of them was neither bound nor read (the others are unmasked). */
SX_API int simxen_unmask_many(void *evtchn_handle, const uint32_t *ports, unsigned n);
/* One read of /dev/xen/evtchn: how many ports came, or -1.  EFBIG: its buffer has
 * overflowed, and no read will succeed until the reset, which loses what was not
 * read; those ports stay masked, and nobody knows which they are. */
SX_API int simxen_pending_many(void *evtchn_handle, uint32_t *ports, unsigned room);
SX_API int simxen_reset(void *evtchn_handle);
/* dom0's page, read and write, and the port that its kernel offers. */
SX_API void *simxen_dom0_map(void);
SX_API uint32_t simxen_dom0_port(void);
/* Forget $SIMXEN_DIR: close and unmap everything, as the end of the process
 * would; handles and mapped pages are void.  The next call attaches anew. */
SX_API void simxen_detach(void);

/* ---- inside: state.c, for the library and the guest programs ---- */

int  sx_attach(struct sx *s, const char *dir);
void sx_detach(struct sx *s);
void sx_lock(struct sx *s);
void sx_unlock(struct sx *s);
/* Is one of evtchn / space / guest .K held?  An open, locked descriptor of it
 * if not, else -1. */
int  sx_take(struct sx *s, const char *what, unsigned k, int flags);
/* The rest with the lock held, except for deliver and unmask. */
void sx_reap(struct sx *s);
void sx_free_port(struct sx *s, uint32_t port);
void sx_drop_map(struct sx *s, uint32_t domid, unsigned space);
void sx_bury(struct sx *s, uint32_t domid);
void sx_changed(struct sx *s, uint32_t domid);
void sx_virq(struct sx *s);
void sx_deliver(struct sx *s, uint32_t port);
int  sx_unmask(struct sx *s, uint32_t port);    /* 1: it fired meanwhile, queue it again */
void sx_push(struct sx *s, unsigned handle, const uint32_t *ports, unsigned n);
#endif
