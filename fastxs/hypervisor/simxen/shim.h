/* What the parts of libsimxen.so share. */
#ifndef SIMXEN_SHIM_H
#define SIMXEN_SHIM_H
#include "simxen.h"

extern struct sx shim;                  /* attached by the first open call of any library */
int  shim_attach(void);                 /* 0, or -1 with errno */
void shim_hypercall(void);              /* a real system call in the place of one */
int  shim_refused(unsigned what);       /* an injected fault: 1 and errno */
struct sx_dom *shim_known(uint32_t domid);

void evtchn_detach(void);
void pages_detach(void);
int  pages_contain(const void *a);      /* a lies where pages are mapped */
int  pages_munmap(void *a);             /* taken down without its library */
#endif
