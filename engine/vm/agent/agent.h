/* The guest agent: PID 1 of the microVM's first file system. It obeys small framed commands that come over a
 * virtio serial port, each answered in order; what a build step needs is decided by the host (engine/vm/guest.py).
 *
 * A frame, both ways, little endian: u32 length of the payload, u16 operation, u16 flags, u32 tag, payload.
 * A payload is a row of values: a number is 8 bytes; a text is u32 length, the bytes, and a NUL that the length
 * leaves out. An ANSWER carries the tag of its command and starts with a number, 0 or an errno; after an errno
 * comes a text that says on what. After a failed command every later one is answered with ECANCELED until CLEAR,
 * so that the host may send many at once; a command with FLAG_TOLERATE fails alone.
 * OUTPUT, EXIT and TOOK come unasked and carry the tag of the SPAWN they belong to.
 *
 * Streams: a connection to a socket of LISTEN is a stream with a number of its own, said by OPENED. Each way at
 * most WINDOW bytes are under way: who sends waits for TAKEN or GIVEN of them; the same holds for INPUT and TOOK.
 */
#ifndef MBUILD_AGENT_H
#define MBUILD_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROTOCOL_VERSION 1
#define PORT_NAME "mbuild.agent"
#define FRAME_LIMIT (64u << 20)
#define FLAG_TOLERATE 1

/* `root` is a folder that the agent enters (chroot) for the command, so that links are followed inside it;
 * an empty text means the agent's own file system. */
enum operation {
    OP_HELLO = 1,      /* -> version, name */
    OP_LOAD = 2,       /* module path, options */
    OP_MKDIR = 3,      /* root, path, mode; with its parents, no error if it is there */
    OP_MKNOD = 4,      /* root, path, mode with type, major, minor */
    OP_SYMLINK = 5,    /* root, target, path */
    OP_WRITE = 6,      /* root, path, mode, uid, gid, content; replaces what is there; plain files only */
    OP_READ = 7,       /* path, limit -> content; no link is followed, plain files only */
    OP_MOUNT = 8,      /* root, source, target, type, flags, data */
    OP_UNMOUNT = 9,    /* root, target, flags */
    OP_BIND = 10,      /* source, root, target; with the mounts below source; links in target are followed */
    OP_ENSURE = 11,    /* root, path, is file, mode, uid, gid -> count, paths made, outermost first */
    OP_UNSTUB = 12,    /* root, path: removed if it is an empty file or folder */
    OP_COPY_OWNER = 13,/* source, target: mode, owner, time */
    OP_PARTITION = 14, /* disk, number, start, length; in bytes; with a length of 0 it is removed */
    OP_SET_CLOCK = 15, /* seconds, nanoseconds since 1970 */
    OP_GET_CLOCK = 16, /* -> nanoseconds since 1970, nanoseconds of the monotonic clock */
    OP_RESEED = 17,    /* fresh random bytes from the host */
    OP_HOSTNAME = 18,  /* name */
    OP_LINK_UP = 19,   /* interface, address, mask, gateway; empty texts for none */
    OP_SPAWN = 20,     /* see spawn.c -> pid; then OUTPUT and EXIT */
    OP_SIGNAL = 21,    /* tag of the SPAWN, signal */
    OP_STATFS = 22,    /* path -> block size, blocks, free blocks, files, free files */
    OP_CHANGES = 23,   /* upper, below, device -> length of the stream, records; see changes.c */
    OP_KILL_ALL = 24,  /* every process but the agent and the kernel's */
    OP_SYNC = 25,
    OP_CLEAR = 26,     /* forget the failure of an earlier command */
    /* streams.c, spawn.c: standard input, terminals, sockets */
    OP_ATTACH = 35,    /* kind, rows, columns: how the next SPAWN reads: 0 nothing, 1 INPUT, 2 a terminal */
    OP_INPUT = 36,     /* tag of the SPAWN, bytes; none: the end */
    OP_RESIZE = 37,    /* tag of the SPAWN, rows, columns */
    OP_LISTEN = 38,    /* number of the socket, path, mode, uid, gid */
    OP_DATA = 39,      /* stream, bytes for the guest; none: the end */
    OP_TAKEN = 40,     /* stream, count: so many bytes of RECEIVED have been taken */
    OP_CLOSE = 41,     /* stream: no more of it, either way */
    /* 27 to 34: mounts.c */
    OP_BIND_FROM = 27, /* root of the source, source, root, target, mount attributes to set; links are followed in each */
    OP_OWN = 28,       /* root, path, mode, uid, gid; the highest number leaves one as it is */
    OP_COPY_TREE = 29, /* source, target -> entries copied: what is missing or older there; uses the folder around it */
    OP_RELEASE = 30,   /* mount point, device: unmounted, and all of it on the device when this is answered */
    /* machines.c, spawn.c: what machines are frozen and restored with */
    OP_SET_MAC = 45,   /* interface, six bytes */
    OP_HOLD = 46,      /* every process but the agent and the kernel's stands still, without noticing */
    OP_RESUME = 47,    /* and goes on */
    OP_CONNECT = 48,   /* TCP port of 127.0.0.1 -> 0 if somebody accepts there, or an errno */
    OP_JOIN = 49,      /* tag of a SPAWN: the next SPAWN runs in the namespaces and the root of its process */
    OP_HOLD_CLOCK = 55,/* seconds since 1970, where the clock stands from now on; see clock.c */
    OP_PREPARE = 56,   /* as SPAWN: a process with its own namespaces, mounts and limits, which waits for a SPAWN */
    OP_ANSWER = 100,   /* errno, ... */
    OP_OUTPUT = 101,   /* stream 1 or 2, bytes */
    OP_EXIT = 102,     /* wait status */
    OP_TOOK = 103,     /* count: so many bytes of INPUT have been taken, or nobody wants them */
    OP_OPENED = 104,   /* number of the socket, stream */
    OP_RECEIVED = 105, /* stream, bytes from the guest; none: the end */
    OP_GIVEN = 106,    /* stream, count: so many bytes of DATA have been given */
    OP_CLOSED = 107,   /* stream: no more of it, either way */
};

/* Values of a payload, taken in order; `bad` is set once when they are not there. */
struct args {
    const uint8_t *at, *end;
    bool bad;
};
uint64_t arg_number(struct args *args);
const char *arg_text(struct args *args, uint32_t *length);
/* A row of texts: a number, then as many texts; NULL-terminated, to be freed. */
const char **arg_texts(struct args *args);

/* One frame on its way out, in a buffer that is written by send_flush. */
void send_begin(uint16_t operation, uint32_t tag);
void send_number(uint64_t value);
void send_text(const void *data, size_t length);
void send_end(void);
void send_flush(void);

/* A command: gives 0 or an errno; what it sends before is part of its answer. `fault` says on what it failed. */
extern const char *fault;
int run_operation(uint16_t operation, uint32_t tag, struct args *args);
int enter_root(const char *root);
void leave_root(void);

/* spawn.c */
#define PROCESS_LIMIT 16
#define PROCESS_POLLS (4 * PROCESS_LIMIT)
#define WINDOW 65536u
struct pollfd;
int op_attach(struct args *args);
int op_prepare(struct args *args);
int op_spawn(uint32_t tag, struct args *args);
int op_signal(struct args *args);
int op_input(struct args *args);
int op_resize(struct args *args);
int op_join(struct args *args);
/* The descriptors to wait for: four a process. */
int processes_poll(struct pollfd *into);
void processes_serve(void);
int link_up(const char *name, const char *address, const char *mask, const char *gateway);

/* streams.c */
#define LISTENER_LIMIT 16
#define STREAM_LIMIT 64
#define STREAM_POLLS (LISTENER_LIMIT + STREAM_LIMIT)
int op_listen(struct args *args);
int op_data(struct args *args);
int op_taken(struct args *args);
int op_close(struct args *args);
int streams_poll(struct pollfd *into);
void streams_serve(void);
/* clock.c */
int op_set_clock(struct args *args);
int op_hold_clock(struct args *args);
/* A child of the agent has ended: nothing goes on without the one that holds the clock. */
void clock_mourn(pid_t pid);

/* machines.c */
int op_set_mac(struct args *args);
int op_hold(void);
int op_resume(void);
int op_connect(struct args *args);

/* extents.c: brings what is left of a file's content to the scratch disk and finds out where it is. False if it must
 * be copied: it is small, only in memory, in too many pieces, or the file system cannot tell. */
#define EXTENT_LIMIT 1024u
struct extent {
    uint64_t offset, length;
};
extern struct extents {
    uint32_t count;
    struct extent at[EXTENT_LIMIT];
} extents;
bool find_extents(int fd, uint64_t size);

/* changes.c */
int write_changes(const char *upper, const char *below, const char *device, uint64_t *length, uint64_t *records);

/* mounts.c */
int op_bind_from(struct args *args);
int op_own(struct args *args);
int op_copy_tree(struct args *args);
int op_release(struct args *args);

void *grow(void *memory, size_t size);
_Noreturn void die(const char *what);

#endif
