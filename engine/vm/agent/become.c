/* What a new process does until it is the program that it was started for. */
#define _GNU_SOURCE
#include "spawn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <net/route.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOVE_FROM_FD 0x04u
#define MOVE_TO_FOLLOWS_LINKS 0x10u
#define MOUNT_IF_THERE (1ull << 40)

int read_order(struct order *order, struct args *args) {
    order->root = arg_text(args, NULL);
    order->namespaces = arg_number(args);
    order->uid = (uid_t)arg_number(args);
    order->gid = (gid_t)arg_number(args);
    order->group_count = arg_number(args);
    if (order->group_count > 64)
        return E2BIG;
    for (uint64_t i = 0; i < order->group_count; i++)
        order->groups[i] = (gid_t)arg_number(args);
    order->umask = (mode_t)arg_number(args);
    order->capabilities = arg_number(args);
    order->folder = arg_text(args, NULL);
    order->limit_count = arg_number(args);
    if (order->limit_count > 16)
        return E2BIG;
    for (uint64_t i = 0; i < order->limit_count; i++) {
        order->limits[i].resource = arg_number(args);
        order->limits[i].soft = arg_number(args);
        order->limits[i].hard = arg_number(args);
    }
    order->mount_count = arg_number(args);
    if (order->mount_count > MOUNT_LIMIT)
        return E2BIG;
    for (uint64_t i = 0; i < order->mount_count; i++) {
        order->mounts[i].source = arg_text(args, NULL);
        order->mounts[i].target = arg_text(args, NULL);
        order->mounts[i].type = arg_text(args, NULL);
        order->mounts[i].flags = arg_number(args);
        order->mounts[i].data = arg_text(args, NULL);
    }
    order->argv = arg_texts(args);
    order->environment = arg_texts(args);
    return args->bad || !order->argv[0] ? EPROTO : 0;
}

int link_up(const char *name, const char *address, const char *mask, const char *gateway) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    struct ifreq request = {0};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
    int error = 0;
    if (*address) {
        in->sin_family = AF_INET;
        in->sin_addr.s_addr = inet_addr(address);
        error = ioctl(fd, SIOCSIFADDR, &request) ? errno : 0;
        in->sin_addr.s_addr = inet_addr(mask);
        if (!error && ioctl(fd, SIOCSIFNETMASK, &request))
            error = errno;
    }
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (!error && ioctl(fd, SIOCSIFFLAGS, &request))
        error = errno;
    if (!error && *gateway) {
        struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
        route.rt_dst.sa_family = route.rt_genmask.sa_family = AF_INET;
        in = (struct sockaddr_in *)&route.rt_gateway;
        in->sin_family = AF_INET;
        in->sin_addr.s_addr = inet_addr(gateway);
        error = ioctl(fd, SIOCADDRT, &route) ? errno : 0;
    }
    close(fd);
    return error;
}

static int drop_capabilities(uint64_t kept) {
    for (int capability = 0; capability < 64; capability++)
        if (!(kept >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) && errno != EINVAL)
            return -1;
    return 0;
}

/* Makes the terminal the process's own, as runc does it: /dev/console is another name of it. */
static int take_terminal(const struct order *order) {
    char path[32];
    snprintf(path, sizeof path, "/dev/pts/%d", order->terminal);
    int fd = open(path, O_RDWR | O_NOCTTY);
    if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) || fchown(fd, order->uid, (gid_t)-1))
        return -1;
    int console = open("/dev/console", O_WRONLY | O_CREAT | O_NOCTTY | O_CLOEXEC, 0600);
    if (console < 0 || mount(path, "/dev/console", NULL, MS_BIND, NULL))
        return -1;
    close(console);
    for (int standard = 0; standard < 3; standard++)
        if (dup2(fd, standard) < 0)
            return -1;
    if (fd > 2)
        close(fd);
    return 0;
}

/* In the child, from here to the program. Each of these gives what it failed on, with errno, or NULL. */
static const char *leave_shelter(void) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1)
        return "oom_score_adj";
    close(fd);
    return NULL;
}

/* As switch_root does it: what lies under the moved mount cannot be reached again. */
static const char *enter(const char *root) {
    return chdir(root) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/") ? root : NULL;
}

static const char *make_mounts(const struct order *order) {
    for (uint64_t i = 0; i < order->mount_count; i++)
        if (mount(order->mounts[i].source, order->mounts[i].target, order->mounts[i].type,
                  (unsigned long)(order->mounts[i].flags & ~MOUNT_IF_THERE), order->mounts[i].data) &&
            !(order->mounts[i].flags & MOUNT_IF_THERE && (errno == ENOENT || errno == ENODEV)))
            return order->mounts[i].target;
    return NULL;
}

static const char *limit(const struct order *order) {
    for (uint64_t i = 0; i < order->limit_count; i++)
        if (setrlimit((int)order->limits[i].resource,
                      &(struct rlimit){order->limits[i].soft, order->limits[i].hard}))
            return "resource limits";
    if (drop_capabilities(order->capabilities))
        return "capabilities";
    umask(order->umask);
    return NULL;
}

const char *become(const struct order *order, int joined) {
    const char *what;
    if ((what = leave_shelter()))
        return what;
    if (joined >= 0 && setns(joined, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET))
        return "namespaces";
    if (*order->root && (what = enter(order->root)))
        return what;
    if ((order->namespaces & CLONE_NEWNET) && (errno = link_up("lo", "", "", "")))
        return "lo";
    if ((what = make_mounts(order)))
        return what;
    if (order->terminal >= 0 && take_terminal(order))
        return "the terminal";
    return limit(order);
}

/* One that waited: its mounts are there, and those of the step are in a tree that the agent has. */
static const char *resume(const struct order *order, int agent, int tree) {
    int own[MOUNT_LIMIT];
    const char *what;
    if ((tree = (int)syscall(SYS_pidfd_getfd, agent, tree, 0)) < 0 ||
        syscall(SYS_move_mount, tree, "", AT_FDCWD, order->root, MOVE_FROM_FD))
        return order->root;
    for (uint64_t i = 0; i < order->mount_count; i++)
        if ((own[i] = open(order->mounts[i].source, O_PATH | O_CLOEXEC)) < 0)
            return order->mounts[i].source;
    if ((what = enter(order->root)))
        return what;
    for (uint64_t i = 0; i < order->mount_count; i++)
        if (syscall(SYS_move_mount, own[i], "", AT_FDCWD, order->mounts[i].target,
                    MOVE_FROM_FD | MOVE_TO_FOLLOWS_LINKS))
            return order->mounts[i].target;
    /* /dev/stdout leads to the pipe itself, which its user must be able to open */
    return fchown(1, order->uid, order->gid) || fchown(2, order->uid, order->gid) ? "the output" : NULL;
}

/* What is left when `what` went well; in the end, or where something failed, the child is gone. */
_Noreturn void run(const struct order *order, const char *what, int report) {
    if (!what && chdir(order->folder))
        what = order->folder;
    if (!what && (setgroups(order->group_count, order->groups) || setgid(order->gid) || setuid(order->uid)))
        what = "user and groups";
    if (what) {
        dprintf(report, "%d %s", errno, what);
        _exit(125);
    }
    environ = (char **)order->environment;
    execvp(order->argv[0], (char **)order->argv);
    int error = errno; /* the command itself cannot be started: the step fails, as in a shell */
    dprintf(2, "exec %s: %s\n", order->argv[0], strerror(error));
    _exit(error == ENOENT ? 127 : 126);
}

void settle(const struct order *order, const int standard[3]) {
    signal(SIGPIPE, SIG_DFL);
    setsid();
    for (int number = 0; number < 3 && order->terminal < 0; number++)
        if (dup2(standard[number], number) < 0)
            _exit(125);
}

bool transfer(int fd, void *data, size_t length, bool out) {
    for (uint8_t *at = data; length;) {
        ssize_t n = out ? write(fd, at, length) : read(fd, at, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        length -= (size_t)n;
    }
    return true;
}

_Noreturn void await_call(struct order *order, int agent, int calls, int report) {
    static uint8_t room[WINDOW];
    struct call call;
    const char *what = leave_shelter();
    memset(room, 1, sizeof room); /* its pages are there, and need not come when it is called */
    if (!what)
        what = make_mounts(order);
    if (!what)
        what = limit(order);
    if (what)
        dprintf(report, "%d %s", errno, what);
    else if (write(report, "+", 1) == 1 && transfer(calls, &call, sizeof call, false)) {
        uint8_t *payload = call.length <= sizeof room ? room : grow(NULL, call.length);
        struct args args = {payload, payload + call.length, false};
        *order = (struct order){.terminal = -1};
        if (transfer(calls, payload, call.length, false) && !read_order(order, &args))
            run(order, resume(order, agent, call.tree), report);
    }
    _exit(125);
}
