/* Processes: started apart from the agent, their output sent to the host as it comes. */
#define _GNU_SOURCE
#include "agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <net/route.h>
#include <poll.h>
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
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#define CHUNK 65536

struct process {
    uint32_t tag;
    pid_t pid;
    int pidfd, output[2];
};
static struct process processes[PROCESS_LIMIT];
static int process_count;
static int joined = -1; /* a pidfd: the next process runs where that one does */

/* What SPAWN carries, in this order. */
struct order {
    const char *root;
    uint64_t namespaces; /* CLONE_NEW... */
    uid_t uid;
    gid_t gid;
    uint64_t group_count;
    gid_t groups[64];
    mode_t umask;
    uint64_t capabilities; /* the bounding set, a bit each */
    const char *folder;
    uint64_t limit_count;
    struct {
        uint64_t resource, soft, hard;
    } limits[16];
    uint64_t mount_count; /* made inside the root, in the process's own namespaces */
    struct {
        const char *source, *target, *type, *data;
        uint64_t flags;
    } mounts[16];
    const char **argv, **environment;
};

static int read_order(struct order *order, struct args *args) {
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
    if (order->mount_count > 16)
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

/* In the child, from here to the program; gives what it failed on, with errno. */
static const char *become(const struct order *order) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1)
        return "oom_score_adj";
    close(fd);
    if (joined >= 0 && setns(joined, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET))
        return "namespaces";
    if (*order->root) {
        /* As switch_root does it: what lies under the moved mount cannot be reached again. */
        if (chdir(order->root) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
            return order->root;
    }
    if ((order->namespaces & CLONE_NEWNET) && (errno = link_up("lo", "", "", "")))
        return "lo";
    for (uint64_t i = 0; i < order->mount_count; i++)
        if (mount(order->mounts[i].source, order->mounts[i].target, order->mounts[i].type,
                  (unsigned long)order->mounts[i].flags, order->mounts[i].data))
            return order->mounts[i].target;
    for (uint64_t i = 0; i < order->limit_count; i++)
        if (setrlimit((int)order->limits[i].resource,
                      &(struct rlimit){order->limits[i].soft, order->limits[i].hard}))
            return "resource limits";
    if (chdir(order->folder))
        return order->folder;
    if (drop_capabilities(order->capabilities))
        return "capabilities";
    if (setgroups(order->group_count, order->groups) || setgid(order->gid) || setuid(order->uid))
        return "user and groups";
    umask(order->umask);
    environ = (char **)order->environment;
    execvp(order->argv[0], (char **)order->argv);
    return "";
}

static _Noreturn void child(const struct order *order, int out, int err, int report) {
    signal(SIGPIPE, SIG_DFL);
    setsid();
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (dup2(null, 0) >= 0 && dup2(out, 1) >= 0 && dup2(err, 2) >= 0) {
        const char *what = become(order);
        int error = errno;
        if (!*what) /* the command itself cannot be started: the step fails, as in a shell */
            dprintf(2, "exec %s: %s\n", order->argv[0], strerror(error));
        if (!*what)
            _exit(error == ENOENT ? 127 : 126);
        dprintf(report, "%d %s", error, what);
    }
    _exit(125);
}

static int launch(const struct order *order, struct process *process) {
    static char failure[4200];
    int out[2], err[2], report[2];
    if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) || pipe2(report, O_CLOEXEC))
        return errno;
    /* /dev/stdout leads to the pipe itself, which its user must be able to open */
    if (fchown(out[1], order->uid, order->gid) || fchown(err[1], order->uid, order->gid))
        return errno;
    /* a PID namespace is that of children: ours stays what it is, and is asked for again afterwards */
    long pid = -1;
    if (joined < 0 || !setns(joined, CLONE_NEWPID))
        pid = syscall(SYS_clone, (long)order->namespaces | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        child(order, out[1], err[1], report[1]);
    int error = pid < 0 ? errno : 0;
    if (joined >= 0) {
        int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
        if (own < 0 || setns(own, CLONE_NEWPID))
            die("the agent's own namespace");
        close(own);
        joined = -1;
    }
    close(out[1]);
    close(err[1]);
    close(report[1]);
    ssize_t n = 0;
    while (!error && (n = read(report[0], failure, sizeof failure - 1)) < 0 && errno == EINTR)
        ;
    close(report[0]);
    if (n > 0) {
        failure[n] = 0;
        char *what;
        error = (int)strtol(failure, &what, 10);
        fault = what + 1;
        waitpid((pid_t)pid, NULL, 0);
    }
    if (error) {
        close(out[0]);
        close(err[0]);
        return error;
    }
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(err[0], F_SETFL, O_NONBLOCK);
    process->pid = (pid_t)pid;
    process->output[0] = out[0];
    process->output[1] = err[0];
    process->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return 0;
}

int op_spawn(uint32_t tag, struct args *args) {
    struct order order = {0};
    if (process_count == PROCESS_LIMIT)
        return EAGAIN;
    struct process *process = &processes[process_count];
    int error = read_order(&order, args);
    if (!error)
        error = launch(&order, process);
    free(order.argv);
    free(order.environment);
    if (error)
        return error;
    process->tag = tag;
    process_count++;
    send_number((uint64_t)process->pid);
    return 0;
}

int op_signal(struct args *args) {
    uint32_t tag = (uint32_t)arg_number(args);
    int number = (int)arg_number(args);
    for (int i = 0; i < process_count && !args->bad; i++)
        if (processes[i].tag == tag)
            return kill(processes[i].pid, number) ? errno : 0;
    return args->bad ? EPROTO : ESRCH;
}

int op_join(struct args *args) {
    uint32_t tag = (uint32_t)arg_number(args);
    for (int i = 0; i < process_count && !args->bad; i++)
        if (processes[i].tag == tag) {
            joined = processes[i].pidfd;
            return 0;
        }
    return args->bad ? EPROTO : ESRCH;
}

int processes_poll(struct pollfd *into) {
    for (int i = 0; i < process_count; i++) {
        into[3 * i] = (struct pollfd){.fd = processes[i].pidfd, .events = POLLIN};
        into[3 * i + 1] = (struct pollfd){.fd = processes[i].output[0], .events = POLLIN};
        into[3 * i + 2] = (struct pollfd){.fd = processes[i].output[1], .events = POLLIN};
    }
    return 3 * process_count;
}

/* Passes on what a pipe holds now, at most `rounds` chunks of it. */
static void forward(struct process *process, int which, int rounds) {
    static char chunk[CHUNK];
    while (process->output[which] >= 0 && rounds-- > 0) {
        ssize_t n = read(process->output[which], chunk, sizeof chunk);
        if (n < 0)
            return;
        if (n == 0) {
            close(process->output[which]);
            process->output[which] = -1;
            return;
        }
        send_begin(OP_OUTPUT, process->tag);
        send_number((uint64_t)which + 1);
        send_text(chunk, (size_t)n);
        send_end();
    }
}

static void ended(struct process *process, int status) {
    for (int which = 0; which < 2; which++) {
        forward(process, which, 32);
        if (process->output[which] >= 0)
            close(process->output[which]);
    }
    close(process->pidfd);
    send_begin(OP_EXIT, process->tag);
    send_number((uint64_t)status);
    send_end();
    *process = processes[--process_count];
}

void processes_serve(void) {
    int status;
    pid_t pid;
    for (int i = 0; i < process_count; i++)
        for (int which = 0; which < 2; which++)
            forward(&processes[i], which, 1);
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (int i = 0; i < process_count; i++)
            if (processes[i].pid == pid) {
                ended(&processes[i], status);
                break;
            }
}
