/* Between shim.c and preload.c. */
#ifndef SIMXEN_SHIM_H
#define SIMXEN_SHIM_H
int shim_attach(void);                  /* 0, or -1 with errno */
int shim_is_page(const void *a);        /* in the range where pages are mapped */
int shim_munmap(void *a);
#endif
