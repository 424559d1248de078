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
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#define TREE_CLONE 1u
#define TREE_RECURSIVE 0x8000u
#define MOVE_FROM_FD 0x04u
#define MOVE_TO_FOLLOWS_LINKS 0x10u
#define CHUNK 65536
#define MOUNT_LIMIT 40
#define MOUNT_IF_THERE (1ull << 40)
#define NAMESPACES_WAIT (1ull << 40)

enum reads { READS_NOTHING, READS_INPUT, READS_TERMINAL };
struct process {
    uint32_t tag;
    pid_t pid;
    int pidfd, output[2], input;
    int slave; /* held open, so that the terminal is there while nobody in the guest has it open */
    int instead; /* the signal that SIGKILL stands in for */
    bool input_ends;
    uint8_t *pending; /* input on its way: WINDOW bytes, NULL where nothing is read */
    uint32_t pending_count;
};
static struct process processes[PROCESS_LIMIT];
static int process_count;
static int joined = -1; /* a pidfd: the next process runs where that one does */

/* The process of OP_PREPARE, and the agent's ends of its pipes. */
static struct {
    pid_t pid;
    int order, report, output[2];
} waiting;

/* How the next process reads; see OP_ATTACH. */
static struct {
    enum reads reads;
    struct winsize size;
} attached;

/* What SPAWN carries, in this order. */
struct order {
    const char *root;
    uint64_t namespaces; /* CLONE_NEW..., or NAMESPACES_WAIT: the process is the one that waits */
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
    uint64_t mount_count; /* made inside the root, in the process's own namespaces; by one that waited, moved there */
    struct {
        const char *source, *target, *type, *data;
        uint64_t flags; /* with MOUNT_IF_THERE: no error where the target or the type is not there */
    } mounts[MOUNT_LIMIT];
    const char **argv, **environment;
    int terminal; /* the number of its terminal in /dev/pts, or -1 */
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

static const char *become(const struct order *order) {
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
static _Noreturn void run(const struct order *order, const char *what, int report) {
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

static void settle(const struct order *order, const int standard[3]) {
    signal(SIGPIPE, SIG_DFL);
    setsid();
    for (int number = 0; number < 3 && order->terminal < 0; number++)
        if (dup2(standard[number], number) < 0)
            _exit(125);
}

static bool transfer(int fd, void *data, size_t length, bool out) {
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

/* What the agent tells the process that waits; then the payload of the SPAWN follows. */
struct call {
    uint64_t length;
    int tree;
};

static _Noreturn void await(struct order *order, int agent, int calls, int report) {
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

/* The agent's ends and the process's: what the process reads and writes. */
struct ends {
    int ours[3], theirs[3];
};

static void close_all(int *fds, int count) {
    for (int i = 0; i < count; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

static int open_pipes(const struct order *order, struct ends *ends) {
    for (int standard = 0; standard < 3; standard++) {
        int both[2];
        if (standard == 0 && attached.reads == READS_NOTHING) {
            if ((ends->theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
                return errno;
            continue;
        }
        if (pipe2(both, O_CLOEXEC))
            return errno;
        ends->theirs[standard] = both[standard != 0];
        ends->ours[standard] = both[standard == 0];
        /* /dev/stdout leads to the pipe itself, which its user must be able to open */
        if (fchown(ends->theirs[standard], order->uid, order->gid))
            return errno;
    }
    return 0;
}

/* A terminal of the step's own /dev/pts. The process opens its side by its name there, when it is in its root. */
static int open_terminal(struct order *order, struct ends *ends, int *slave) {
    int unlocked = 0;
    int master = ends->ours[1] = open("/dev-root/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) || ioctl(master, TIOCGPTN, &order->terminal) ||
        ioctl(master, TIOCSWINSZ, &attached.size))
        return errno;
    *slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    ends->ours[0] = fcntl(master, F_DUPFD_CLOEXEC, 0);
    return *slave < 0 || ends->ours[0] < 0 ? errno : 0;
}

/* Waits until the program runs; its process is gone where it does not. */
static int started(int report, pid_t pid) {
    static char failure[4200];
    ssize_t n = 0;
    while ((n = read(report, failure, sizeof failure - 1)) < 0 && errno == EINTR)
        ;
    if (n <= 0)
        return 0;
    failure[n] = 0;
    char *what;
    int error = (int)strtol(failure, &what, 10);
    fault = what + 1;
    waitpid(pid, NULL, 0);
    return error;
}

static int start(const struct order *order, struct ends *ends, struct process *process) {
    int report[2];
    if (pipe2(report, O_CLOEXEC))
        return errno;
    /* a PID namespace is that of children: ours stays what it is, and is asked for again afterwards */
    long pid = -1;
    if (joined < 0 || !setns(joined, CLONE_NEWPID))
        pid = syscall(SYS_clone, (long)order->namespaces | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        settle(order, ends->theirs);
        run(order, become(order), report[1]);
    }
    int error = pid < 0 ? errno : 0;
    if (joined >= 0) {
        int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
        if (own < 0 || setns(own, CLONE_NEWPID))
            die("the agent's own namespace");
        close(own);
        joined = -1;
    }
    close(report[1]);
    if (!error)
        error = started(report[0], (pid_t)pid);
    close(report[0]);
    process->pid = (pid_t)pid;
    return error;
}

static int launch(struct order *order, struct process *process) {
    struct ends ends = {{-1, -1, -1}, {-1, -1, -1}};
    *process = (struct process){.slave = -1};
    order->terminal = -1;
    bool terminal = attached.reads == READS_TERMINAL;
    int error = terminal ? open_terminal(order, &ends, &process->slave) : open_pipes(order, &ends);
    if (!error)
        error = start(order, &ends, process);
    close_all(ends.theirs, 3);
    if (error) {
        close_all(ends.ours, 3);
        close_all(&process->slave, 1);
        return error;
    }
    for (int standard = 0; standard < 3; standard++)
        if (ends.ours[standard] >= 0)
            fcntl(ends.ours[standard], F_SETFL, O_NONBLOCK);
    process->input = ends.ours[0];
    process->output[0] = ends.ours[1];
    process->output[1] = ends.ours[2];
    process->pending = attached.reads == READS_NOTHING ? NULL : grow(NULL, WINDOW);
    return 0;
}

int op_prepare(struct args *args) {
    struct order order = {.terminal = -1};
    struct ends ends = {{-1, -1, -1}, {-1, -1, -1}};
    int calls[2], report[2], agent = -1;
    char answer;
    int error = waiting.pid ? EBUSY : read_order(&order, args);
    if (!error && (pipe2(calls, O_CLOEXEC) || pipe2(report, O_CLOEXEC)))
        error = errno;
    if (!error)
        error = open_pipes(&order, &ends);
    if (!error && (agent = (int)syscall(SYS_pidfd_open, getpid(), 0)) < 0)
        error = errno;
    if (!error && (waiting.pid = (pid_t)syscall(SYS_clone, (long)order.namespaces | SIGCHLD, 0, 0, 0, 0)) == 0) {
        close(calls[1]); /* so that it ends when the agent does not call it any more */
        settle(&order, ends.theirs);
        await(&order, agent, calls[0], report[1]);
    }
    free(order.argv);
    free(order.environment);
    if (error) /* before a template is frozen: what is open does not matter */
        return error;
    close_all((int[]){calls[0], report[1], agent}, 3);
    close_all(ends.theirs, 3);
    waiting.order = calls[1];
    waiting.report = report[0];
    memcpy(waiting.output, ends.ours + 1, sizeof waiting.output);
    if (waiting.pid < 0)
        return errno;
    if (!transfer(waiting.report, &answer, 1, false) || answer != '+')
        return ECHILD;
    return 0;
}

/* Has the process that waits run the program: `payload` is what SPAWN carries. */
static int call_in(const struct order *order, struct args payload, struct process *process) {
    struct call call = {.length = (uint64_t)(payload.end - payload.at)};
    if (waiting.pid <= 0)
        return ECHILD;
    call.tree = (int)syscall(SYS_open_tree, AT_FDCWD, order->root, TREE_CLONE | TREE_RECURSIVE | O_CLOEXEC);
    if (call.tree < 0)
        return errno;
    int error = 0;
    if (!transfer(waiting.order, &call, sizeof call, true) ||
        !transfer(waiting.order, (void *)payload.at, call.length, true))
        error = errno;
    close(waiting.order);
    if (!error)
        error = started(waiting.report, waiting.pid);
    close_all((int[]){waiting.report, call.tree}, 2);
    *process = (struct process){.pid = waiting.pid, .input = -1, .slave = -1};
    memcpy(process->output, waiting.output, sizeof process->output);
    waiting.pid = 0;
    for (int which = 0; which < 2; which++)
        if (error)
            close(process->output[which]);
        else
            fcntl(process->output[which], F_SETFL, O_NONBLOCK);
    return error;
}

int op_attach(struct args *args) {
    uint64_t reads = arg_number(args);
    attached.size.ws_row = (unsigned short)arg_number(args);
    attached.size.ws_col = (unsigned short)arg_number(args);
    if (args->bad || reads > READS_TERMINAL)
        return EPROTO;
    attached.reads = (enum reads)reads;
    return 0;
}

int op_spawn(uint32_t tag, struct args *args) {
    struct order order = {0};
    if (process_count == PROCESS_LIMIT)
        return EAGAIN;
    struct process *process = &processes[process_count];
    struct args payload = *args;
    int error = read_order(&order, args);
    if (!error && order.namespaces & NAMESPACES_WAIT)
        error = call_in(&order, payload, process);
    else if (!error)
        error = launch(&order, process);
    if (!error)
        process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    free(order.argv);
    free(order.environment);
    attached.reads = READS_NOTHING;
    if (error)
        return error;
    process->tag = tag;
    process_count++;
    send_number((uint64_t)process->pid);
    return 0;
}

static struct process *find(uint32_t tag) {
    for (int i = 0; i < process_count; i++)
        if (processes[i].tag == tag)
            return &processes[i];
    return NULL;
}

/* Whether a process does with a signal what everyone does who never heard of it. */
static bool is_default(pid_t pid, int number) {
    char path[32], text[4096], *at;
    uint64_t ignored = ~0ull, caught = ~0ull;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n < 0 ? 0 : n] = 0;
    if ((at = strstr(text, "\nSigIgn:")))
        ignored = strtoull(at + 8, NULL, 16);
    if ((at = strstr(text, "\nSigCgt:")))
        caught = strtoull(at + 8, NULL, 16);
    return !((ignored | caught) >> (number - 1) & 1);
}

/* The signals that end a process which does not handle them. */
static const int ending_signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM};

int op_signal(struct args *args) {
    struct process *process = find((uint32_t)arg_number(args));
    int number = (int)arg_number(args);
    if (args->bad || number < 1 || number > 64)
        return EPROTO;
    if (!process)
        return ESRCH;
    /* from a terminal these go to whoever is in the foreground */
    bool of_terminal = number == SIGINT || number == SIGQUIT || number == SIGTSTP;
    if (process->slave >= 0 && of_terminal && !ioctl(process->output[0], TIOCSIG, number))
        return 0;
    /* The kernel spares the first process of a PID namespace what it has no handler for: it would never end. */
    for (size_t i = 0; i < sizeof ending_signals / sizeof *ending_signals; i++)
        if (ending_signals[i] == number && is_default(process->pid, number)) {
            process->instead = number;
            number = SIGKILL;
            break;
        }
    return kill(process->pid, number) ? errno : 0;
}

static void took(struct process *process, uint64_t count) {
    send_begin(OP_TOOK, process->tag);
    send_number(count);
    send_end();
}

/* Gives the process what it takes now. When it reads no more, the input is thrown away. */
static void feed(struct process *process) {
    if (process->pending_count && process->input >= 0) {
        ssize_t n = write(process->input, process->pending, process->pending_count);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0)
            close_all(&process->input, 1);
        else {
            process->pending_count -= (uint32_t)n;
            memmove(process->pending, process->pending + n, process->pending_count);
            took(process, (uint64_t)n);
        }
    }
    if (process->pending_count && process->input < 0) {
        took(process, process->pending_count);
        process->pending_count = 0;
    }
    if (process->input_ends && !process->pending_count)
        close_all(&process->input, 1);
}

int op_input(struct args *args) {
    struct process *process = find((uint32_t)arg_number(args));
    uint32_t length;
    const char *bytes = arg_text(args, &length);
    if (args->bad)
        return EPROTO;
    if (!process)
        return ESRCH;
    if (!process->pending || length > WINDOW - process->pending_count)
        return ENOBUFS;
    memcpy(process->pending + process->pending_count, bytes, length);
    process->pending_count += length;
    process->input_ends = process->input_ends || !length;
    return 0;
}

int op_resize(struct args *args) {
    struct process *process = find((uint32_t)arg_number(args));
    struct winsize size = {.ws_row = (unsigned short)arg_number(args)};
    size.ws_col = (unsigned short)arg_number(args);
    if (args->bad)
        return EPROTO;
    if (!process || process->slave < 0)
        return ESRCH;
    return ioctl(process->output[0], TIOCSWINSZ, &size) ? errno : 0;
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
        into[4 * i] = (struct pollfd){.fd = processes[i].pidfd, .events = POLLIN};
        into[4 * i + 1] = (struct pollfd){.fd = processes[i].output[0], .events = POLLIN};
        into[4 * i + 2] = (struct pollfd){.fd = processes[i].output[1], .events = POLLIN};
        /* a pipe that nobody reads any more is always ready: asked only when there is something for it */
        int input = processes[i].pending_count ? processes[i].input : -1;
        into[4 * i + 3] = (struct pollfd){.fd = input, .events = POLLOUT};
    }
    return 4 * process_count;
}

/* Passes on what a pipe holds now, at most `rounds` chunks of it. */
static void forward(struct process *process, int which, int rounds) {
    static char chunk[CHUNK];
    while (process->output[which] >= 0 && rounds-- > 0) {
        ssize_t n = read(process->output[which], chunk, sizeof chunk);
        if (n < 0)
            return;
        if (n == 0) {
            close_all(&process->output[which], 1);
            return;
        }
        send_begin(OP_OUTPUT, process->tag);
        send_number((uint64_t)which + 1);
        send_text(chunk, (size_t)n);
        send_end();
    }
}

static void ended(struct process *process, int status) {
    for (int which = 0; which < 2; which++)
        forward(process, which, 64); /* of a terminal, one read gives 4 KiB at most */
    close_all(process->output, 2);
    close_all(&process->input, 1);
    close_all(&process->slave, 1);
    close_all(&process->pidfd, 1);
    free(process->pending);
    if (process->instead && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        status = process->instead;
    send_begin(OP_EXIT, process->tag);
    send_number((uint64_t)status);
    send_end();
    *process = processes[--process_count];
}

void processes_serve(void) {
    int status;
    pid_t pid;
    for (int i = 0; i < process_count; i++) {
        feed(&processes[i]);
        for (int which = 0; which < 2; which++)
            forward(&processes[i], which, 1);
    }
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        clock_mourn(pid);
        for (int i = 0; i < process_count; i++)
            if (processes[i].pid == pid) {
                ended(&processes[i], status);
                break;
            }
    }
}
