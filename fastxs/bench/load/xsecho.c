/*
 * xsecho - the least that a server on a unix socket can do per request.
 *
 * Every request comes back as it went: header and body, byte for byte, so a reply has the size of its
 * request.  One read and one write per ready connection, edge-triggered, nothing parsed, nothing kept.
 * What it costs is what the kernel's socket calls cost: the bound that a XenStore daemon is held against.
 *
 *     xsecho SOCKET
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char buf[1 << 18];

/* A closed-loop client never fills a socket; if one does, waiting for it is all right here. */
static int put(int fd, const char *p, size_t n)
{
    struct pollfd full = { .fd = fd, .events = POLLOUT };

    while (n) {
        ssize_t w = write(fd, p, n);

        if (w < 0 && errno == EAGAIN) {
            poll(&full, 1, -1);
        } else if (w < 0) {
            return -1;
        } else {
            p += w;
            n -= (size_t)w;
        }
    }
    return 0;
}

/* A read that does not fill the buffer has emptied the socket: the next edge is a new request. */
static void serve(int fd)
{
    ssize_t n;

    do {
        n = read(fd, buf, sizeof buf);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0 || put(fd, buf, (size_t)n) < 0) {
            close(fd);
            return;
        }
    } while (n == sizeof buf);
}

static void welcome(int epfd, int listener)
{
    struct epoll_event ev = { .events = EPOLLIN | EPOLLET };

    while ((ev.data.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        if (epoll_ctl(epfd, EPOLL_CTL_ADD, ev.data.fd, &ev) < 0)
            err(1, "epoll_ctl");
    if (errno != EAGAIN && errno != ECONNABORTED)
        err(1, "accept");
}

int main(int argc, char **argv)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct epoll_event ready[256], ev = { .events = EPOLLIN };
    struct rlimit files;
    int epfd, listener, i, n;

    if (argc != 2 || strlen(argv[1]) >= sizeof addr.sun_path)
        errx(2, "usage: xsecho SOCKET");
    strcpy(addr.sun_path, argv[1]);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    unlink(addr.sun_path);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (epfd < 0 || listener < 0 || bind(listener, (struct sockaddr *)&addr, sizeof addr) < 0 ||
        listen(listener, 4096) < 0)
        err(1, "%s", argv[1]);
    ev.data.fd = listener;
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev) < 0)
        err(1, "epoll_ctl");
    for (;;) {
        n = epoll_wait(epfd, ready, sizeof ready / sizeof *ready, -1);
        if (n < 0 && errno != EINTR)
            err(1, "epoll_wait");
        for (i = 0; i < n; i++) {
            if (ready[i].data.fd == listener)
                welcome(epfd, listener);
            else
                serve(ready[i].data.fd);
        }
    }
}
