/* Sockets of the guest that lead to the host: each connection is a stream of frames, with a window each way. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct listener {
    uint64_t number;
    int fd;
};
static struct listener listeners[LISTENER_LIMIT];
static int listener_count;

struct stream {
    uint64_t number;
    int fd;
    uint32_t credit; /* bytes that the host still takes */
    uint32_t pending_count;
    uint8_t *pending;  /* WINDOW bytes: what the guest is to get */
    bool guest_ended;  /* it will write no more, and the host knows */
    bool host_ended;   /* the host will send no more */
    bool write_closed; /* and the guest has been told */
};
static struct stream streams[STREAM_LIMIT];
static int stream_count;
static uint64_t next_number = 1;

int op_listen(struct args *args) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint64_t number = arg_number(args);
    uint32_t length;
    const char *path = arg_text(args, &length);
    mode_t mode = (mode_t)arg_number(args);
    uid_t uid = (uid_t)arg_number(args);
    gid_t gid = (gid_t)arg_number(args);
    if (args->bad)
        return EPROTO;
    fault = path;
    if (listener_count == LISTENER_LIMIT)
        return EAGAIN;
    if (length >= sizeof address.sun_path)
        return ENAMETOOLONG;
    memcpy(address.sun_path, path, length);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return errno;
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || chown(path, uid, gid) || chmod(path, mode) ||
        listen(fd, STREAM_LIMIT)) {
        int error = errno;
        close(fd);
        return error;
    }
    listeners[listener_count++] = (struct listener){number, fd};
    return 0;
}

static struct stream *find(uint64_t number) {
    for (int i = 0; i < stream_count; i++)
        if (streams[i].number == number)
            return &streams[i];
    return NULL;
}

static void say(uint16_t operation, uint64_t first, uint64_t second) {
    send_begin(operation, 0);
    send_number(first);
    if (operation != OP_CLOSED)
        send_number(second);
    send_end();
}

static void drop(struct stream *stream) {
    close(stream->fd);
    free(stream->pending);
    *stream = streams[--stream_count];
}

/* A stream that the host closed at the same moment is no error: what it still sends is for nobody. */
int op_data(struct args *args) {
    struct stream *stream = find(arg_number(args));
    uint32_t length;
    const char *bytes = arg_text(args, &length);
    if (args->bad)
        return EPROTO;
    if (!stream)
        return 0;
    if (length > WINDOW - stream->pending_count)
        return ENOBUFS;
    memcpy(stream->pending + stream->pending_count, bytes, length);
    stream->pending_count += length;
    stream->host_ended = stream->host_ended || !length;
    return 0;
}

int op_taken(struct args *args) {
    struct stream *stream = find(arg_number(args));
    uint64_t count = arg_number(args);
    if (args->bad || (stream && count > WINDOW - stream->credit))
        return EPROTO;
    if (stream)
        stream->credit += (uint32_t)count;
    return 0;
}

int op_close(struct args *args) {
    struct stream *stream = find(arg_number(args));
    if (args->bad)
        return EPROTO;
    if (stream)
        drop(stream);
    return 0;
}

int streams_poll(struct pollfd *into) {
    int count = 0;
    for (int i = 0; i < listener_count && stream_count < STREAM_LIMIT; i++)
        into[count++] = (struct pollfd){.fd = listeners[i].fd, .events = POLLIN};
    for (int i = 0; i < stream_count; i++) {
        short events = 0;
        if (streams[i].credit && !streams[i].guest_ended)
            events |= POLLIN;
        if (streams[i].pending_count)
            events |= POLLOUT;
        /* one that is waited for in neither way would be ready all the time once the guest has closed it */
        into[count++] = (struct pollfd){.fd = events ? streams[i].fd : -1, .events = events};
    }
    return count;
}

static void take_connections(struct listener *listener) {
    int fd;
    while (stream_count < STREAM_LIMIT && (fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        streams[stream_count++] =
            (struct stream){.number = next_number, .fd = fd, .credit = WINDOW, .pending = grow(NULL, WINDOW)};
        say(OP_OPENED, listener->number, next_number++);
    }
}

static bool is_over(ssize_t n) { return n < 0 && errno != EAGAIN && errno != EINTR; }

/* From the guest to the host, as much as the host takes. Gives false when the connection is broken. */
static bool receive(struct stream *stream) {
    static char chunk[WINDOW];
    if (!stream->credit || stream->guest_ended)
        return true;
    ssize_t n = read(stream->fd, chunk, stream->credit);
    if (n < 0)
        return !is_over(n);
    send_begin(OP_RECEIVED, 0);
    send_number(stream->number);
    send_text(chunk, (size_t)n);
    send_end();
    stream->credit -= (uint32_t)n;
    stream->guest_ended = n == 0;
    return true;
}

static bool give(struct stream *stream) {
    if (stream->pending_count) {
        ssize_t n = write(stream->fd, stream->pending, stream->pending_count);
        if (n < 0)
            return !is_over(n);
        stream->pending_count -= (uint32_t)n;
        memmove(stream->pending, stream->pending + n, stream->pending_count);
        say(OP_GIVEN, stream->number, (uint64_t)n);
    }
    if (stream->host_ended && !stream->pending_count && !stream->write_closed) {
        shutdown(stream->fd, SHUT_WR);
        stream->write_closed = true;
    }
    return true;
}

void streams_serve(void) {
    for (int i = 0; i < listener_count; i++)
        take_connections(&listeners[i]);
    for (int i = stream_count - 1; i >= 0; i--) { /* from the end: dropping one moves the last into its place */
        bool sound = give(&streams[i]) && receive(&streams[i]);
        bool over = streams[i].write_closed && streams[i].guest_ended;
        if (sound && !over)
            continue;
        say(OP_CLOSED, streams[i].number, 0);
        drop(&streams[i]);
    }
}
