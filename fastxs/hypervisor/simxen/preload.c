/*
 * libsimxen.so in front of libc, for daemons that know their file names only:
 *
 *   SIMXEN_RUNDIR  moves what is under /var/run/xenstored, /var/run/xen and
 *                  /var/log/xen into this folder
 *   dom0's page and port (/proc/xen/xsd_*, /dev/xen/xsd_*) come from $SIMXEN_DIR
 *   munmap() gives a foreign page back, as oxenstored does it
 *   setrlimit() asks for no more descriptors than may be had
 *
 * It acts only in a program that was started with LD_PRELOAD.  Knows nothing
 * of event channels or domains.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "shim.h"

static int preloaded;
static const char *rundir, *simdir;

__attribute__((constructor)) static void start(void)
{
    const char *libs = getenv("LD_PRELOAD");

    preloaded = libs && strstr(libs, "libsimxen");
    rundir = getenv("SIMXEN_RUNDIR");
    simdir = getenv("SIMXEN_DIR");
    if (!simdir || !*simdir)
        simdir = "/dev/shm/simxen";
}

static const char *moved(const char *path, char *buf, size_t size)
{
    static const struct { const char *from, *to; int sim; } t[] = {
        { "/proc/xen/xsd_kva",   "/rings", 1 },    { "/dev/xen/xsd_kva",  "/rings", 1 },
        { "/proc/xen/xsd_port",  "/xsd_port", 1 }, { "/dev/xen/xsd_port", "/xsd_port", 1 },
        { "/var/run/xenstored",  "", 0 },          { "/run/xenstored",    "", 0 },
        { "/var/run/xen",        "/run-xen", 0 },  { "/run/xen",          "/run-xen", 0 },
        { "/var/log/xen",        "/log", 0 },
    };
    const char *to;
    size_t i, n;

    if (!preloaded || !path || *path != '/')
        return path;
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        n = strlen(t[i].from);
        if (strncmp(path, t[i].from, n) || (path[n] != '/' && path[n]))
            continue;
        to = t[i].sim ? simdir : rundir;
        if (!to || !*to || (t[i].sim && shim_attach() < 0))
            return path;
        snprintf(buf, size, "%s%s%s", to, t[i].to, path + n);
        return buf;
    }
    return path;
}

#define NEXT(name) ({ static __typeof__(name) *next_; if (!next_) next_ = dlsym(RTLD_NEXT, #name); next_; })
#define MOVE(path) char moved_[512]; path = moved(path, moved_, sizeof moved_)
#define OPENLIKE(name)                                          \
SX_API int name(const char *path, int flags, ...)               \
{                                                               \
    va_list ap;                                                 \
    mode_t mode;                                                \
    va_start(ap, flags);                                        \
    mode = va_arg(ap, mode_t);                                  \
    va_end(ap);                                                 \
    MOVE(path);                                                 \
    return NEXT(name)(path, flags, mode);                       \
}
OPENLIKE(open)
OPENLIKE(open64)

SX_API FILE *fopen(const char *path, const char *mode) { MOVE(path); return NEXT(fopen)(path, mode); }
SX_API FILE *fopen64(const char *path, const char *mode) { MOVE(path); return NEXT(fopen64)(path, mode); }
SX_API int unlink(const char *path) { MOVE(path); return NEXT(unlink)(path); }
SX_API int mkdir(const char *path, mode_t mode) { MOVE(path); return NEXT(mkdir)(path, mode); }
SX_API int chmod(const char *path, mode_t mode) { MOVE(path); return NEXT(chmod)(path, mode); }
SX_API int access(const char *path, int mode) { MOVE(path); return NEXT(access)(path, mode); }
SX_API int stat(const char *path, struct stat *st) { MOVE(path); return NEXT(stat)(path, st); }
SX_API int stat64(const char *path, struct stat64 *st) { MOVE(path); return NEXT(stat64)(path, st); }
SX_API int lstat64(const char *path, struct stat64 *st) { MOVE(path); return NEXT(lstat64)(path, st); }
SX_API int rename(const char *path, const char *to)
{
    char buf[512];

    MOVE(path);
    return NEXT(rename)(path, moved(to, buf, sizeof buf));
}

static const struct sockaddr *moved_address(const struct sockaddr *a, socklen_t *n, struct sockaddr_un *un)
{
    char old[sizeof un->sun_path + 1], buf[512];
    const char *path;
    size_t size;

    if (!preloaded || !a || a->sa_family != AF_UNIX || *n <= offsetof(struct sockaddr_un, sun_path))
        return a;
    size = *n - offsetof(struct sockaddr_un, sun_path);
    if (size >= sizeof old)
        return a;
    memcpy(old, ((const struct sockaddr_un *)(const void *)a)->sun_path, size);
    old[size] = 0;
    path = moved(old, buf, sizeof buf);
    if (path == old || strlen(path) >= sizeof un->sun_path)
        return a;
    memset(un, 0, sizeof *un);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, strlen(path));
    *n = sizeof *un;
    return (const struct sockaddr *)un;
}

SX_API int bind(int fd, const struct sockaddr *a, socklen_t n)
{
    struct sockaddr_un un;
    const struct sockaddr *to = moved_address(a, &n, &un);

    return NEXT(bind)(fd, to, n);
}
SX_API int connect(int fd, const struct sockaddr *a, socklen_t n)
{
    struct sockaddr_un un;
    const struct sockaddr *to = moved_address(a, &n, &un);

    return NEXT(connect)(fd, to, n);
}

SX_API int munmap(void *a, size_t n)
{
    return preloaded && pages_contain(a) && n <= SX_PAGE ? pages_munmap(a) : NEXT(munmap)(a, n);
}

/* oxenstored wants fs.nr_open descriptors and ends where it may not have them. */
SX_API int setrlimit(__rlimit_resource_t what, const struct rlimit *want)
{
    struct rlimit now, w = *want;
    int r = NEXT(setrlimit)(what, want);

    if (r == 0 || !preloaded || what != RLIMIT_NOFILE || getrlimit(what, &now) < 0)
        return r;
    if (w.rlim_max > now.rlim_max)
        w.rlim_max = now.rlim_max;
    if (w.rlim_cur > w.rlim_max)
        w.rlim_cur = w.rlim_max;
    return NEXT(setrlimit)(what, &w);
}
