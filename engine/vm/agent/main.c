/* The agent's start, its port to the host, and the frames on it. */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct buffer {
    uint8_t *data;
    size_t used, size;
};
static struct buffer in, out;
static size_t frame_start;
static int port = -1;

_Noreturn void die(const char *what) {
    dprintf(2, "mbuild-agent: %s: %s\n", what, strerror(errno));
    _exit(1); /* the death of PID 1 panics the kernel, which ends the VM: the console has the message above */
}

void *grow(void *memory, size_t size) {
    void *grown = realloc(memory, size);
    if (!grown)
        die("out of memory");
    return grown;
}

static void reserve(struct buffer *buffer, size_t more) {
    if (buffer->used + more <= buffer->size)
        return;
    size_t size = buffer->size ? buffer->size : 65536;
    while (size < buffer->used + more)
        size *= 2;
    buffer->data = grow(buffer->data, size);
    buffer->size = size;
}

static void append(const void *data, size_t length) {
    reserve(&out, length);
    memcpy(out.data + out.used, data, length);
    out.used += length;
}

void send_begin(uint16_t operation, uint32_t tag) {
    uint32_t length = 0;
    uint16_t flags = 0;
    frame_start = out.used;
    append(&length, 4);
    append(&operation, 2);
    append(&flags, 2);
    append(&tag, 4);
}

void send_number(uint64_t value) { append(&value, 8); }

void send_text(const void *data, size_t length) {
    uint32_t size = (uint32_t)length;
    append(&size, 4);
    append(data, length);
    append("", 1);
}

void send_end(void) {
    uint32_t length = (uint32_t)(out.used - frame_start - 12);
    memcpy(out.data + frame_start, &length, 4);
}

void send_flush(void) {
    size_t done = 0;
    while (done < out.used) {
        ssize_t n = write(port, out.data + done, out.used - done);
        if (n > 0)
            done += (size_t)n;
        else if (errno != EINTR && errno != EAGAIN)
            die("the host's port");
        else
            poll(&(struct pollfd){.fd = port, .events = POLLOUT}, 1, 100);
    }
    out.used = 0;
}

uint64_t arg_number(struct args *args) {
    uint64_t value = 0;
    if (args->end - args->at < 8) {
        args->bad = true;
        return 0;
    }
    memcpy(&value, args->at, 8);
    args->at += 8;
    return value;
}

const char *arg_text(struct args *args, uint32_t *length) {
    uint32_t size;
    if (args->end - args->at < 5)
        goto bad;
    memcpy(&size, args->at, 4);
    if ((uint64_t)(args->end - args->at) < (uint64_t)size + 5 || args->at[4 + size])
        goto bad;
    const char *text = (const char *)args->at + 4;
    args->at += (size_t)size + 5;
    if (length)
        *length = size;
    return text;
bad:
    args->bad = true;
    args->at = args->end;
    if (length)
        *length = 0;
    return "";
}

const char **arg_texts(struct args *args) {
    uint64_t count = arg_number(args);
    if (count > (uint64_t)(args->end - args->at)) {
        args->bad = true;
        count = 0;
    }
    const char **texts = grow(NULL, (count + 1) * sizeof *texts);
    for (uint64_t i = 0; i < count; i++)
        texts[i] = arg_text(args, NULL);
    texts[count] = NULL;
    return texts;
}

/* Runs one command and leaves its answer in the buffer. */
static void obey(uint16_t operation, uint16_t flags, uint32_t tag, struct args *args) {
    static bool failed;
    if (operation == OP_CLEAR)
        failed = false;
    size_t before = out.used;
    send_begin(OP_ANSWER, tag);
    send_number(0);
    fault = "";
    int error = failed ? ECANCELED : run_operation(operation, tag, args);
    if (error) {
        out.used = before;
        send_begin(OP_ANSWER, tag);
        send_number((uint64_t)error);
        send_text(fault, strlen(fault));
        failed = failed || !(flags & FLAG_TOLERATE);
    }
    send_end();
}

static void take_frames(void) {
    size_t at = 0;
    while (in.used - at >= 12) {
        uint32_t length, tag;
        uint16_t operation, flags;
        memcpy(&length, in.data + at, 4);
        memcpy(&operation, in.data + at + 4, 2);
        memcpy(&flags, in.data + at + 6, 2);
        memcpy(&tag, in.data + at + 8, 4);
        if (length > FRAME_LIMIT) {
            errno = EPROTO;
            die("the host sent what is no frame");
        }
        if (in.used - at - 12 < length)
            break;
        struct args args = {in.data + at + 12, in.data + at + 12 + length, false};
        obey(operation, flags, tag, &args);
        at += 12 + (size_t)length;
    }
    memmove(in.data, in.data + at, in.used - at);
    in.used -= at;
}

/* The port's number is not fixed: it is found by its name. */
static int open_port(void) {
    for (int tries = 0; tries < 2000; tries++) {
        DIR *ports = opendir("/sys/class/virtio-ports");
        struct dirent *entry;
        while (ports && (entry = readdir(ports))) {
            char path[600], name[64] = "";
            snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd < 0)
                continue;
            ssize_t n = read(fd, name, sizeof name - 1);
            close(fd);
            if (n <= 0 || strcmp(name, PORT_NAME "\n") != 0)
                continue;
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            closedir(ports);
            return open(path, O_RDWR | O_CLOEXEC);
        }
        if (ports)
            closedir(ports);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    errno = ENODEV;
    return -1;
}

static void receive(void) {
    reserve(&in, 65536);
    ssize_t n = read(port, in.data + in.used, in.size - in.used);
    if (n > 0)
        in.used += (size_t)n;
    else if (n == 0) /* nobody is at the other end yet: this is no end of file */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    else if (errno != EINTR && errno != EAGAIN)
        die("the host's port");
}

static void boot_modules(void) {
    /* Named so that their order is the order of loading; what is needed to reach the host. */
    for (char digit = '0'; digit <= '9'; digit++) {
        char path[] = "/boot-modules/0.ko";
        path[14] = digit;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            break;
        struct args args;
        uint8_t payload[64];
        uint32_t length = sizeof path - 1, none = 0;
        memcpy(payload, &length, 4);
        memcpy(payload + 4, path, sizeof path);
        memcpy(payload + 4 + sizeof path, &none, 4);
        payload[8 + sizeof path] = 0;
        args = (struct args){payload, payload + 9 + sizeof path, false};
        int error = run_operation(OP_LOAD, 0, &args);
        close(fd);
        if (error) {
            errno = error;
            die(path);
        }
    }
}

static void start(void) {
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, NULL) && errno != EBUSY)
        die("/dev");
    int console = open("/dev/console", O_RDWR | O_NOCTTY);
    for (int fd = 0; console >= 0 && fd < 3; fd++)
        dup2(console, fd);
    if (console > 2)
        close(console);
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) ||
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL))
        die("/proc and /sys");
    /* The agent outlives whatever the step does to memory. */
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "-1000", 5) != 5)
        die("oom_score_adj");
    close(fd);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){1 << 20, 1 << 20});
    signal(SIGPIPE, SIG_IGN);
    umask(0);
    boot_modules();
    port = open_port();
    if (port < 0)
        die("the host's port");
}

int main(int argc, char **argv) {
    if (getpid() != 1 || argc > 1) {
        /* Run by hand, or by the host to prove that a restored machine runs programs: `init probe`. */
        int status = 0;
        pid_t child = fork();
        if (child == 0)
            _exit(41);
        bool sound = child > 0 && waitpid(child, &status, 0) == child && status == 41 << 8;
        dprintf(1, "%s\n", argc > 1 ? argv[1] : "this is the guest agent of mbuild");
        return sound ? 42 : 1;
    }
    start();
    for (;;) {
        struct pollfd waits[1 + PROCESS_POLLS + STREAM_POLLS] = {{.fd = port, .events = POLLIN}};
        int count = 1 + processes_poll(waits + 1);
        count += streams_poll(waits + count);
        if (poll(waits, (nfds_t)count, -1) < 0 && errno != EINTR)
            die("poll");
        if (waits[0].revents & (POLLIN | POLLHUP))
            receive();
        take_frames();
        streams_serve();
        processes_serve();
        send_flush();
    }
}
