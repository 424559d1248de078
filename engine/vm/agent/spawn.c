/* Processes: started apart from the agent, their output sent to the host as it comes. */
#define _GNU_SOURCE
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TREE_CLONE 1u
#define TREE_RECURSIVE 0x8000u
#define CHUNK 65536

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
        run(order, become(order, joined), report[1]);
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
        await_call(&order, agent, calls[0], report[1]);
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
