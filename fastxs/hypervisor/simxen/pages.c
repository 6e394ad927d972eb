/*
 * libxengnttab and libxenforeignmemory as libsimxen.so plays them: who maps
 * whose page.  A mapped page lies at a fixed place of a reserved range, from
 * which its domain follows: PLANES mappings of each domain's page at a time.
 * While it is mapped, its domain cannot be gone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "shim.h"
#include "xen.h"

#define PLANES 4u
enum { NOT, GRANT, FOREIGN };
static char *range = MAP_FAILED;
static uint8_t how[PLANES * SX_MAXDOM];
static int space_fd = -1;
static unsigned space;
#define RANGE_SIZE ((size_t)PLANES * SX_MAXDOM * SX_PAGE)

/* Straight to the kernel: preload.c stands in front of munmap(). */
static int reserve(char *at, size_t size)
{
    void *a = mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);

    if (!at)
        range = a;
    return a == MAP_FAILED ? -1 : 0;
}

static int take_space(void)
{
    unsigned k;

    if (space_fd >= 0)
        return 0;
    sx_reap(&shim);
    for (k = 0; k < SX_SPACES; k++)
        if (!(shim.hv->spaces & 1u << k) && (space_fd = sx_take(&shim, "space", k, O_CLOEXEC)) >= 0) {
            space = k;
            shim.hv->spaces |= 1u << k;
            return 0;
        }
    errno = EMFILE;
    return -1;
}

static void *map_page(uint32_t domid, int prot, int as)
{
    void *a = NULL;
    struct sx_dom *d;
    uint32_t i;

    sx_lock(&shim);
    d = shim_known(domid);
    if (shim_refused(SX_FAIL_MAP))
        goto out;
    if (!d || d->state & (SX_DYING | SX_DEAD)) {
        errno = as == GRANT ? EINVAL : ESRCH;
        goto out;
    }
    for (i = domid; i < PLANES * SX_MAXDOM && how[i]; i += SX_MAXDOM)
        ;
    if (i >= PLANES * SX_MAXDOM) {
        errno = ENOSPC;
        goto out;
    }
    if (take_space() < 0 || (range == MAP_FAILED && reserve(NULL, RANGE_SIZE) < 0))
        goto out;
    a = mmap(range + (size_t)i * SX_PAGE, SX_PAGE, prot, MAP_SHARED | MAP_FIXED, shim.rings_fd, (off_t)d->page * SX_PAGE);
    if (a == MAP_FAILED) {
        a = NULL;
        goto out;
    }
    how[i] = (uint8_t)as;
    d->maps[space]++;
    d->mapped++;
out:
    sx_unlock(&shim);
    return a;
}

int pages_contain(const void *a)
{
    return range != MAP_FAILED && (const char *)a >= range && (const char *)a < range + RANGE_SIZE;
}

static int unmap_page(void *a, int as)
{
    size_t i = pages_contain(a) ? (size_t)((char *)a - range) / SX_PAGE : 0;

    if (!pages_contain(a) || (uintptr_t)a % SX_PAGE || how[i] == NOT || (as && how[i] != as)) {
        errno = EINVAL;
        return -1;
    }
    if (reserve(a, SX_PAGE) < 0)
        return -1;
    how[i] = NOT;
    sx_lock(&shim);
    sx_drop_map(&shim, i % SX_MAXDOM, space);
    sx_unlock(&shim);
    return 0;
}

int pages_munmap(void *a)
{
    return unmap_page(a, NOT);
}

static int one(size_t n)
{
    if (n == 1)
        return 1;
    errno = EINVAL;
    return 0;
}

static char the_gnttab, the_memory;

SX_API void *xengnttab_open(void *logger, unsigned flags)
{
    (void)logger; (void)flags;
    return shim_attach() < 0 ? NULL : &the_gnttab;
}
SX_API int xengnttab_close(void *x) { (void)x; return 0; }  /* mapped pages stay */
SX_API int xengnttab_set_max_grants(void *x, uint32_t n) { (void)x; (void)n; return 0; }
SX_API void *xengnttab_map_grant_ref(void *x, uint32_t domid, uint32_t ref, int prot)
{
    (void)x;
    return one(ref == SX_GRANT) ? map_page(domid, prot, GRANT) : NULL;
}
SX_API int xengnttab_unmap(void *x, void *a, uint32_t n)
{
    (void)x;
    return one(n) ? unmap_page(a, GRANT) : -1;
}

SX_API void *xenforeignmemory_open(void *logger, unsigned flags)
{
    (void)logger; (void)flags;
    return shim_attach() < 0 ? NULL : &the_memory;
}
SX_API int xenforeignmemory_close(void *x) { (void)x; return 0; }
SX_API void *xenforeignmemory_map(void *x, uint32_t domid, int prot, size_t n, const uint64_t gfn[], int err[])
{
    void *a;

    (void)x; (void)gfn;                 /* a domain has one page here, at every frame */
    if (!one(n))
        return NULL;
    a = map_page(domid, prot, FOREIGN);
    if (err)
        err[0] = a ? 0 : -errno;
    return a;
}
SX_API int xenforeignmemory_unmap(void *x, void *a, size_t n)
{
    (void)x;
    return one(n) ? unmap_page(a, FOREIGN) : -1;
}
SX_API void *xc_map_foreign_range(void *x, uint32_t domid, int size, int prot, unsigned long gfn)
{
    (void)x; (void)gfn;                 /* taken down by plain munmap() */
    return one(size > 0 && size <= (int)SX_PAGE) ? map_page(domid, prot, FOREIGN) : NULL;
}

SX_API void *simxen_dom0_map(void)
{
    void *a;

    if (shim_attach() < 0)
        return NULL;
    a = mmap(NULL, SX_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shim.rings_fd, 0);
    return a == MAP_FAILED ? NULL : a;
}
SX_API uint32_t simxen_dom0_port(void) { return SX_DOM0_PORT; }

void pages_detach(void)
{
    if (range != MAP_FAILED)
        syscall(SYS_munmap, range, RANGE_SIZE);
    range = MAP_FAILED;
    memset(how, NOT, sizeof how);
    if (space_fd >= 0)
        close(space_fd);
    space_fd = -1;
}
