"""The hypervisor's border: event channels, grants and domain states behind model.Border.

Owns the loading of the Xen tools' libraries at run time, by soname through the ordinary search path
(or the pretend hypervisor in their place), and one C function for each thing the core asks.  Refuses
to know rings' contents and domains' meaning.

    libxenevtchn.so.1, libxengnttab.so.1            always
    libxenmanage.so.1                               domain states, Xen 4.21 and later
    libxenctrl.so.4.N, newest first                 else (see `states`)
"""
from libc.errno cimport EFBIG, EINVAL, ESRCH, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset, strerror
from posix.fcntl cimport O_CLOEXEC, O_RDWR, open as c_open
from posix.ioctl cimport ioctl
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close, read, write

from fastxs._core cimport Border
from fastxs.core.model cimport DomState
from fastxs.hypervisor.states cimport Look, list_domains, look_at_one, look_changed, look_close, look_open

cdef extern from "dlfcn.h" nogil:
    enum:
        RTLD_NOW
        RTLD_GLOBAL
    void *dlopen(const char *name, int flags)
    void *dlsym(void *library, const char *name)
    int dlclose(void *library)
    char *dlerror()

cdef enum:
    VIRQ_DOM_EXC = 3
    GRANT_XENSTORE = 1          # GNTTAB_RESERVED_XENSTORE (SPEC 2.4)
    IOCTL_BACKEND_EVTCHN = 0x4200               # /dev/xen/xenbus_backend (SPEC 2.5)
    IOCTL_EVTCHN_RESET = 0x4505                 # /dev/xen/evtchn
    DOMID_SELF = 0x7FF0
    EVTCHN_UNBOUND = 1
    EVTCHN_INTERDOMAIN = 2
    OLDEST = 3                  # libxenctrl.so.4.3
    NEWEST = 30

cdef struct Status:             # xc_evtchn_status_t; Xen 4.17 to 4.22
    uint16_t dom
    uint32_t port
    uint32_t status             # EVTCHN_...
    uint32_t vcpu
    uint16_t other_domid
    uint32_t other_port
    uint32_t pad[10]            # for a later Xen's

cdef struct Libs:               # owned by its Hypervisor
    void *evtchn                # handles of the libraries
    void *gnttab
    void *xc
    void *manage
    char *dom0_page
    int fd
    Look look                   # only without libxenmanage
    void *(*evtchn_open)(void *, unsigned) noexcept nogil
    int (*evtchn_close)(void *) noexcept nogil
    int (*evtchn_fd)(void *) noexcept nogil
    int (*evtchn_bind)(void *, uint32_t, uint32_t) noexcept nogil
    int (*evtchn_virq)(void *, unsigned) noexcept nogil
    int (*evtchn_unbind)(void *, uint32_t) noexcept nogil
    int (*evtchn_notify)(void *, uint32_t) noexcept nogil
    void *(*gnttab_open)(void *, unsigned) noexcept nogil
    int (*gnttab_close)(void *) noexcept nogil
    void *(*gnttab_map)(void *, uint32_t, uint32_t, int) noexcept nogil
    int (*gnttab_unmap)(void *, void *, uint32_t) noexcept nogil
    int (*xc_close)(void *) noexcept nogil
    int (*manage_close)(void *) noexcept nogil
    int (*manage_info)(void *, unsigned, unsigned *, unsigned *, uint64_t *) noexcept nogil
    int (*manage_poll)(void *, unsigned *, unsigned *, unsigned *, uint64_t *) noexcept nogil
    int (*unmask_many)(void *, const uint32_t *, unsigned) noexcept nogil   # simxen's, for a write to the device
    int (*pending_many)(void *, uint32_t *, unsigned) noexcept nogil        # simxen's, for a read of the device
    int (*reset)(void *) noexcept nogil                                     # simxen's, for the device's ioctl
    void *(*dom0_map)() noexcept nogil                                      # simxen's
    uint32_t (*dom0_port)() noexcept nogil


class HypervisorError(OSError):
    """The hypervisor, or a library that speaks to it, is not there; the text says what to do."""


# ---- what the core calls -------------------------------------------------------------------------------

cdef int b_exists(void *self, uint32_t domid, DomState *state) noexcept nogil:
    """0 and what is known, or ESRCH."""
    cdef Libs *libs = <Libs *>self
    cdef unsigned bits = 0, caps = 0
    cdef uint64_t unique_id = 0
    if libs.manage == NULL:
        return look_at_one(&libs.look, domid, state)
    if libs.manage_info(libs.manage, domid, &bits, &caps, &unique_id) < 0:
        return ESRCH
    state.domid = domid
    state.state = bits
    state.unique_id = unique_id
    return 0


cdef bint b_changed(void *self, DomState *state) noexcept nogil:
    cdef Libs *libs = <Libs *>self
    cdef unsigned domid = 0, bits = 0, caps = 0
    cdef uint64_t unique_id = 0
    if libs.manage == NULL:
        return look_changed(&libs.look, state)
    if libs.manage_poll(libs.manage, &domid, &bits, &caps, &unique_id) < 0:
        return False
    state.domid = domid
    state.state = bits
    state.unique_id = unique_id
    return True


cdef int b_own_ring(void *self, char **page, uint32_t *port) noexcept nogil:
    """The page and the port of dom0's own kernel (SPEC 2.3)."""
    cdef Libs *libs = <Libs *>self
    cdef int fd, remote
    cdef void *p
    if libs.dom0_map != NULL:
        p = libs.dom0_map()
        if p == NULL:
            return errno
        libs.dom0_page = page[0] = <char *>p
        port[0] = libs.dom0_port()
        return 0
    fd = c_open("/dev/xen/xenbus_backend", O_RDWR | O_CLOEXEC)
    if fd < 0:
        return errno
    remote = ioctl(fd, IOCTL_BACKEND_EVTCHN)
    p = MAP_FAILED if remote < 0 else mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if p == MAP_FAILED:
        remote = errno
        close(fd)
        return remote
    close(fd)
    libs.dom0_page = page[0] = <char *>p
    port[0] = <uint32_t>remote
    return 0


cdef int b_map_ring(void *self, uint32_t domid, char **page) noexcept nogil:
    cdef Libs *libs = <Libs *>self
    cdef void *p = libs.gnttab_map(libs.gnttab, domid, GRANT_XENSTORE, PROT_READ | PROT_WRITE)
    if p == NULL:
        return errno if errno else EINVAL
    page[0] = <char *>p
    return 0


cdef void b_unmap_ring(void *self, uint32_t domid, char *page) noexcept nogil:
    cdef Libs *libs = <Libs *>self
    if page == libs.dom0_page:
        munmap(page, 4096)
    else:
        libs.gnttab_unmap(libs.gnttab, page, 1)


cdef int b_bind(void *self, uint32_t domid, uint32_t remote, uint32_t *port) noexcept nogil:
    cdef Libs *libs = <Libs *>self
    cdef int local = libs.evtchn_bind(libs.evtchn, domid, remote)
    if local < 0:
        return errno if errno else EINVAL
    port[0] = <uint32_t>local
    return 0


cdef void b_unbind(void *self, uint32_t port) noexcept nogil:
    (<Libs *>self).evtchn_unbind((<Libs *>self).evtchn, port)


cdef void b_notify(void *self, uint32_t port) noexcept nogil:
    (<Libs *>self).evtchn_notify((<Libs *>self).evtchn, port)


cdef int b_pending(void *self, uint32_t *ports, int room) noexcept nogil:
    """One read of the device: many ports, each masked until it is unmasked."""
    cdef Libs *libs = <Libs *>self
    cdef ssize_t n
    if libs.pending_many != NULL:
        n = libs.pending_many(libs.evtchn, ports, <unsigned>room)
    else:
        n = read(libs.fd, ports, <size_t>room * sizeof(uint32_t))
        n = n // <ssize_t>sizeof(uint32_t) if n > 0 else n
    if n >= 0:
        return <int>n
    if errno != EFBIG:
        return 0
    if libs.reset != NULL:                      # the device's own ring ran over (SPEC 2.5)
        libs.reset(libs.evtchn)
    else:
        ioctl(libs.fd, IOCTL_EVTCHN_RESET, 0)
    return -1


cdef void b_unmask(void *self, const uint32_t *ports, int count) noexcept nogil:
    """One write to the device unmasks them all (SPEC 2.5); simxen has a call for it."""
    cdef Libs *libs = <Libs *>self
    if libs.unmask_many != NULL:
        libs.unmask_many(libs.evtchn, ports, <unsigned>count)
    else:
        write(libs.fd, ports, <size_t>count * sizeof(uint32_t))


# ---- loading ----------------------------------------------------------------------------------------------

cdef void *library(bytes name) noexcept:
    return dlopen(name, RTLD_NOW | RTLD_GLOBAL)


cdef void *symbol(void *lib, bytes name) except NULL:
    cdef void *p = dlsym(lib, name)
    if p == NULL:
        raise HypervisorError(f"{name.decode()} is missing from the Xen libraries: "
                              "install those of Xen 4.17 or later, or use --sim")
    return p


cdef class Hypervisor(Border):
    """The hypervisor, opened.  `Hypervisor.load()` makes one; an Engine takes it as its `border`."""

    cdef Libs *libs                # owned
    cdef str states             # which library tells domains' states
    cdef bint sim

    def __cinit__(self):
        self.libs = <Libs *>calloc(1, sizeof(Libs))
        if self.libs == NULL:
            raise MemoryError

    def __dealloc__(self):
        self.shut()
        free(self.libs)

    cdef void shut(self) noexcept:
        cdef Libs *libs = self.libs
        if libs == NULL:
            return
        if libs.manage != NULL:
            libs.manage_close(libs.manage)
        if libs.xc != NULL:
            look_close(&libs.look)
            libs.xc_close(libs.xc)
        if libs.gnttab != NULL:
            libs.gnttab_close(libs.gnttab)
        if libs.evtchn != NULL:
            libs.evtchn_close(libs.evtchn)
        memset(libs, 0, sizeof(Libs))

    def close(self):
        """Every bound port and mapped page ends here.  Close the Engine first.  Idempotent."""
        self.shut()

    @staticmethod
    def load(sim=False):
        """Open event channels, grants and domain states; with `sim`, those of the pretend hypervisor.

        Raises HypervisorError with what was tried and what would help.
        """
        cdef Hypervisor h = Hypervisor()
        h.sim = sim
        h.open_all()
        return h

    @staticmethod
    def remote_ports(ports, sim=False):
        """{local port: (domid, its port)} of those that are bound to a domain (its port 0: it has closed it)."""
        cdef void *lib = NULL
        cdef void *xc
        cdef void *(*xc_open)(void *, void *, unsigned) noexcept nogil
        cdef int (*xc_close)(void *) noexcept nogil
        cdef int (*xc_status)(void *, void *) noexcept nogil
        cdef Status st
        cdef int minor = NEWEST
        if sim:
            from fastxs.hypervisor.simxen import LIBRARY

            lib = library(str(LIBRARY).encode())
        while lib == NULL and minor >= OLDEST and not sim:
            lib = library(f"libxenctrl.so.4.{minor}".encode())
            minor -= 1
        if lib == NULL:
            raise HypervisorError("libxenctrl.so.4.3 to 4.%d: none can be loaded, and only they know the other ends of "
                                  "event channels: install the Xen libraries" % NEWEST)
        xc_open = <void *(*)(void *, void *, unsigned) noexcept nogil>symbol(lib, b"xc_interface_open")
        xc_close = <int (*)(void *) noexcept nogil>symbol(lib, b"xc_interface_close")
        xc_status = <int (*)(void *, void *) noexcept nogil>symbol(lib, b"xc_evtchn_status")
        xc = xc_open(NULL, NULL, 0)
        if xc == NULL:
            raise HypervisorError(errno, "libxenctrl cannot be opened: " + strerror(errno).decode())
        found = {}
        for port in ports:
            memset(&st, 0, sizeof(st))
            st.dom = DOMID_SELF
            st.port = port
            if xc_status(xc, &st) == 0 and st.status in (EVTCHN_UNBOUND, EVTCHN_INTERDOMAIN):
                found[port] = (st.other_domid, st.other_port if st.status == EVTCHN_INTERDOMAIN else 0)
        xc_close(xc)
        return found

    cdef int open_all(self) except -1:
        cdef void *lib
        cdef void *evtchn
        cdef void *gnttab
        if self.sim:
            from fastxs.hypervisor.simxen import LIBRARY

            lib = library(str(LIBRARY).encode())
            if lib == NULL:
                raise HypervisorError(f"the pretend hypervisor cannot be loaded: {dlerror().decode()}; "
                                      "build it with: python -m fastxs.hypervisor.simxen.build")
            evtchn = gnttab = lib
        else:
            lib = NULL
            evtchn = library(b"libxenevtchn.so.1")
            gnttab = library(b"libxengnttab.so.1")
            if evtchn == NULL or gnttab == NULL:
                raise HypervisorError("libxenevtchn.so.1 and libxengnttab.so.1 cannot be loaded: install the Xen "
                                      "libraries (Debian: libxenevtchn1 libxengnttab1), or use --sim")
        self.bind_calls(evtchn, gnttab)
        self.open_handles(lib)
        return 0

    cdef int bind_calls(self, void *evtchn, void *gnttab) except -1:
        cdef Libs *libs = self.libs
        libs.evtchn_open = <void *(*)(void *, unsigned) noexcept nogil>symbol(evtchn, b"xenevtchn_open")
        libs.evtchn_close = <int (*)(void *) noexcept nogil>symbol(evtchn, b"xenevtchn_close")
        libs.evtchn_fd = <int (*)(void *) noexcept nogil>symbol(evtchn, b"xenevtchn_fd")
        libs.evtchn_bind = <int (*)(void *, uint32_t, uint32_t) noexcept nogil>symbol(
            evtchn, b"xenevtchn_bind_interdomain")
        libs.evtchn_virq = <int (*)(void *, unsigned) noexcept nogil>symbol(evtchn, b"xenevtchn_bind_virq")
        libs.evtchn_unbind = <int (*)(void *, uint32_t) noexcept nogil>symbol(evtchn, b"xenevtchn_unbind")
        libs.evtchn_notify = <int (*)(void *, uint32_t) noexcept nogil>symbol(evtchn, b"xenevtchn_notify")
        libs.gnttab_open = <void *(*)(void *, unsigned) noexcept nogil>symbol(gnttab, b"xengnttab_open")
        libs.gnttab_close = <int (*)(void *) noexcept nogil>symbol(gnttab, b"xengnttab_close")
        libs.gnttab_map = <void *(*)(void *, uint32_t, uint32_t, int) noexcept nogil>symbol(
            gnttab, b"xengnttab_map_grant_ref")
        libs.gnttab_unmap = <int (*)(void *, void *, uint32_t) noexcept nogil>symbol(gnttab, b"xengnttab_unmap")
        libs.unmask_many = <int (*)(void *, const uint32_t *, unsigned) noexcept nogil>dlsym(
            evtchn, b"simxen_unmask_many")
        libs.pending_many = <int (*)(void *, uint32_t *, unsigned) noexcept nogil>dlsym(evtchn, b"simxen_pending_many")
        libs.reset = <int (*)(void *) noexcept nogil>dlsym(evtchn, b"simxen_reset")
        libs.dom0_map = <void *(*)() noexcept nogil>dlsym(evtchn, b"simxen_dom0_map")
        libs.dom0_port = <uint32_t (*)() noexcept nogil>dlsym(evtchn, b"simxen_dom0_port")
        return 0

    cdef int open_states(self, void *sim) except -1:
        """libxenmanage where there is one and the hypervisor has what it asks for, else the newest libxenctrl."""
        cdef void *lib = sim if sim != NULL else library(b"libxenmanage.so.1")
        cdef int minor = NEWEST
        if lib != NULL and self.open_manage(lib):
            self.states = "libxenmanage.so.1"
            return 0
        lib = sim
        while lib == NULL and minor >= OLDEST:
            lib = library(f"libxenctrl.so.4.{minor}".encode())
            minor -= 1
        if lib == NULL:
            raise HypervisorError("no library tells which domains exist: tried libxenmanage.so.1 and libxenctrl.so.4.3 "
                                  f"to 4.{NEWEST}; install the Xen libraries, or use --sim")
        self.states = "libxenctrl" if sim != NULL else f"libxenctrl.so.4.{minor + 1}"
        self.open_ctrl(lib)
        return 0

    cdef bint open_manage(self, void *lib) except -1:
        cdef Libs *libs = self.libs
        cdef void *(*manage_open)(void *, unsigned) noexcept nogil
        manage_open = <void *(*)(void *, unsigned) noexcept nogil>symbol(lib, b"xenmanage_open")
        libs.manage_close = <int (*)(void *) noexcept nogil>symbol(lib, b"xenmanage_close")
        libs.manage_info = <int (*)(void *, unsigned, unsigned *, unsigned *, uint64_t *) noexcept nogil>symbol(
            lib, b"xenmanage_get_domain_info")
        libs.manage_poll = <int (*)(void *, unsigned *, unsigned *, unsigned *, uint64_t *) noexcept nogil>symbol(
            lib, b"xenmanage_poll_changed_domain")
        libs.manage = manage_open(NULL, 0)
        return libs.manage != NULL

    cdef int open_ctrl(self, void *lib) except -1:
        cdef Libs *libs = self.libs
        cdef void *(*xc_open)(void *, void *, unsigned) noexcept nogil
        xc_open = <void *(*)(void *, void *, unsigned) noexcept nogil>symbol(lib, b"xc_interface_open")
        libs.xc_close = <int (*)(void *) noexcept nogil>symbol(lib, b"xc_interface_close")
        libs.xc = xc_open(NULL, NULL, 0)
        if libs.xc == NULL:
            raise HypervisorError(errno, f"{self.states} cannot be opened: " + strerror(errno).decode())
        if look_open(&libs.look, <list_domains>symbol(lib, b"xc_domain_getinfolist"), libs.xc):
            raise HypervisorError(f"{self.states} lists domains in an unknown form (known: Xen 4.3 to 4.20); "
                                  "every later one has libxenmanage.so.1: install it")
        return 0

    cdef int open_handles(self, void *sim) except -1:
        cdef Libs *libs = self.libs
        cdef int virq
        libs.evtchn = libs.evtchn_open(NULL, 0)
        if libs.evtchn == NULL:
            raise HypervisorError(errno, "event channels cannot be opened (is this dom0, and /dev/xen/evtchn there? "
                                         "--sim needs no Xen): " + strerror(errno).decode())
        libs.gnttab = libs.gnttab_open(NULL, 0)
        if libs.gnttab == NULL:
            raise HypervisorError(errno, "grants cannot be opened (is /dev/xen/gntdev there?): "
                                  + strerror(errno).decode())
        self.open_states(sim)
        virq = libs.evtchn_virq(libs.evtchn, VIRQ_DOM_EXC)
        if virq < 0:
            raise HypervisorError(errno, "VIRQ_DOM_EXC cannot be bound (does another XenStore daemon run?): "
                                  + strerror(errno).decode())
        libs.fd = libs.evtchn_fd(libs.evtchn)
        self.c.self = libs
        self.c.evtchn_fd = libs.fd
        self.c.virq_port = virq
        self.c.exists = b_exists
        self.c.own_ring = b_own_ring
        self.c.map_ring = b_map_ring
        self.c.unmap_ring = b_unmap_ring
        self.c.bind = b_bind
        self.c.unbind = b_unbind
        self.c.notify = b_notify
        self.c.pending = b_pending
        self.c.unmask = b_unmask
        self.c.changed = b_changed
        return 0

    def evtchn_fd(self):
        return self.c.evtchn_fd

    def let_virq(self):
        self.libs.evtchn_unbind(self.libs.evtchn, <uint32_t>self.c.virq_port)
        self.c.virq_port = 0

    def bind_virq(self):
        cdef int virq = self.libs.evtchn_virq(self.libs.evtchn, VIRQ_DOM_EXC)
        if virq < 0:
            raise HypervisorError(errno, "VIRQ_DOM_EXC cannot be bound: " + strerror(errno).decode())
        self.c.virq_port = virq

    def describe(self):
        """One line for the log: what was loaded."""
        return f"{'the pretend hypervisor' if self.sim else 'Xen'}, domain states from {self.states}"
