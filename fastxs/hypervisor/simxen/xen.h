/*
 * The part of Xen's library interface that simxen plays: layouts and numbers
 * of the x86-64 / arm64 ABI of libxenctrl 4.17, libxenevtchn 1, libxengnttab 1,
 * libxenforeignmemory 1 and libxenmanage 1.  Declared here so that building
 * needs none of Xen's headers; the static asserts hold it to the binaries.
 */
#ifndef SIMXEN_XEN_H
#define SIMXEN_XEN_H
#include <stddef.h>
#include <stdint.h>

#define XEN_VIRQ_DOM_EXC     3u
#define XEN_NR_VIRQS         24u
#define XEN_NO_CLOEXEC       1u         /* xenevtchn_open's flag */

/* xc_domaininfo_t.flags */
#define XEN_FLAG_DYING       0x01u
#define XEN_FLAG_SHUTDOWN    0x04u
#define XEN_FLAG_RUNNING     0x20u

/* xc_dominfo_t.flags (a bit field in Xen's header) */
#define XC_DYING             0x01u
#define XC_SHUTDOWN          0x04u
#define XC_RUNNING           0x20u

/* xc_evtchn_status */
#define XEN_PORT_CLOSED      0u
#define XEN_PORT_UNBOUND     1u
#define XEN_PORT_INTERDOMAIN 2u
#define XEN_PORT_VIRQ        4u

/* libxenmanage */
#define XM_EXIST             1u
#define XM_SHUTDOWN          2u
#define XM_DYING             4u
#define XM_DEAD              8u
#define XM_CAP_CONTROL       1u
#define XM_CAP_HARDWARE      2u
#define XM_CAP_XENSTORE      4u

typedef struct {                        /* xc_domain_getinfolist's record */
    uint16_t domain;
    uint32_t flags;
    uint64_t tot_pages, max_pages, outstanding_pages, shr_pages, paged_pages;
    uint64_t shared_info_frame, cpu_time;
    uint32_t nr_online_vcpus, max_vcpu_id, ssidref;
    uint8_t  handle[16];
    uint32_t cpupool;
    uint8_t  gpaddr_bits;
    uint32_t arch_config[2];
} xc_domaininfo;
_Static_assert(sizeof(xc_domaininfo) == 112, "xc_domaininfo_t");
_Static_assert(offsetof(xc_domaininfo, flags) == 4, "xc_domaininfo_t.flags");
_Static_assert(offsetof(xc_domaininfo, tot_pages) == 8, "xc_domaininfo_t.tot_pages");
_Static_assert(offsetof(xc_domaininfo, nr_online_vcpus) == 64, "xc_domaininfo_t.nr_online_vcpus");
_Static_assert(offsetof(xc_domaininfo, handle) == 76, "xc_domaininfo_t.handle");
_Static_assert(offsetof(xc_domaininfo, gpaddr_bits) == 96, "xc_domaininfo_t.gpaddr_bits");

typedef struct {                        /* xc_domain_getinfo's record */
    uint32_t domid, ssidref;
    uint32_t flags;
    uint32_t shutdown_reason;
    uint64_t nr_pages, nr_outstanding_pages, nr_shared_pages, nr_paged_pages;
    uint64_t shared_info_frame, cpu_time, max_memkb;
    uint32_t nr_online_vcpus, max_vcpu_id;
    uint8_t  handle[16];
    uint32_t cpupool;
    uint8_t  gpaddr_bits;
    uint32_t arch_config[2];
} xc_dominfo;
_Static_assert(sizeof(xc_dominfo) == 112, "xc_dominfo_t");
_Static_assert(offsetof(xc_dominfo, flags) == 8, "xc_dominfo_t's bits");
_Static_assert(offsetof(xc_dominfo, nr_pages) == 16, "xc_dominfo_t.nr_pages");
_Static_assert(offsetof(xc_dominfo, nr_online_vcpus) == 72, "xc_dominfo_t.nr_online_vcpus");
_Static_assert(offsetof(xc_dominfo, handle) == 80, "xc_dominfo_t.handle");
_Static_assert(offsetof(xc_dominfo, gpaddr_bits) == 100, "xc_dominfo_t.gpaddr_bits");

typedef struct {                        /* xc_evtchn_status: asked and answered */
    uint16_t dom;
    uint32_t port;
    uint32_t status, vcpu;
    union {
        struct { uint16_t dom; } unbound;
        struct { uint16_t dom; uint32_t port; } interdomain;
        uint32_t virq;
    } u;
} xc_evtchn;
_Static_assert(sizeof(xc_evtchn) == 24, "xc_evtchn_status_t");
_Static_assert(offsetof(xc_evtchn, u.interdomain.port) == 20, "xc_evtchn_status_t.u.interdomain.port");

typedef struct {                        /* xc_get_last_error's answer */
    int32_t code;
    char message[1024];
} xc_error;
_Static_assert(sizeof(xc_error) == 1028, "xc_error");
#endif
