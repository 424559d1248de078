/* The commands: each a thin cover of a system call or two. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/blkpg.h>
#include <linux/openat2.h>
#include <linux/random.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#define TREE_CLONE 1u
#define TREE_RECURSIVE 0x8000u
#define MOVE_FROM_FD 0x04u
#define MOVE_TO_FOLLOWS_LINKS 0x10u

const char *fault = "";
static int own_root = -1;

static int failed(const char *what) {
    fault = what;
    return errno ? errno : EIO;
}

int enter_root(const char *root) {
    if (!*root)
        return 0;
    if (own_root < 0 && (own_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
        return failed("/");
    if (chdir(root) || chroot("."))
        return failed(root);
    return 0;
}

void leave_root(void) {
    if (own_root < 0)
        return;
    if (fchdir(own_root) || chroot("."))
        die("leaving a root");
}

static int write_all(int fd, const char *data, size_t length) {
    while (length) {
        ssize_t n = write(fd, data, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        data += n;
        length -= (size_t)n;
    }
    return 0;
}

static int make_folders(char *path, mode_t mode) {
    for (char *slash = path + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        if (mkdir(path, 0755) && errno != EEXIST)
            return -1;
    }
    return mkdir(path, mode) && errno != EEXIST ? -1 : 0;
}

static int op_mkdir(struct args *args) {
    const char *root = arg_text(args, NULL), *given = arg_text(args, NULL);
    mode_t mode = (mode_t)arg_number(args);
    if (args->bad)
        return EPROTO;
    char *path = strdup(given);
    int error = enter_root(root);
    if (!error && (!path || make_folders(path, mode)))
        error = failed(given);
    leave_root();
    free(path);
    return error;
}

static int op_mknod(struct args *args) {
    const char *root = arg_text(args, NULL), *path = arg_text(args, NULL);
    mode_t mode = (mode_t)arg_number(args);
    unsigned major_number = (unsigned)arg_number(args), minor_number = (unsigned)arg_number(args);
    if (args->bad)
        return EPROTO;
    int error = enter_root(root);
    if (!error && mknod(path, mode, makedev(major_number, minor_number)))
        error = failed(path);
    leave_root();
    return error;
}

static int op_symlink(struct args *args) {
    const char *root = arg_text(args, NULL), *target = arg_text(args, NULL), *path = arg_text(args, NULL);
    if (args->bad)
        return EPROTO;
    int error = enter_root(root);
    if (!error && symlink(target, path))
        error = failed(path);
    leave_root();
    return error;
}

/* What is no plain file may never answer. */
static bool is_file(int fd) {
    struct stat st;
    if (fstat(fd, &st))
        return false;
    errno = EINVAL;
    return S_ISREG(st.st_mode);
}

static int op_write(struct args *args) {
    const char *root = arg_text(args, NULL), *path = arg_text(args, NULL);
    mode_t mode = (mode_t)arg_number(args);
    uid_t uid = (uid_t)arg_number(args);
    gid_t gid = (gid_t)arg_number(args);
    uint32_t length;
    const char *content = arg_text(args, &length);
    if (args->bad)
        return EPROTO;
    int error = enter_root(root);
    if (!error) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_CLOEXEC, 0600);
        /* chmod after chown, which clears set-id bits */
        if (fd < 0 || !is_file(fd) || write_all(fd, content, length) || fchown(fd, uid, gid) || fchmod(fd, mode))
            error = failed(path);
        if (fd >= 0)
            close(fd);
    }
    leave_root();
    return error;
}

static int op_read(struct args *args) {
    const char *path = arg_text(args, NULL);
    uint64_t limit = arg_number(args);
    if (args->bad || limit > FRAME_LIMIT)
        return EPROTO;
    /* Of an image's links none may lead into the agent's own file system. */
    struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS};
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    if (fd < 0)
        return failed(path);
    if (!is_file(fd)) {
        close(fd);
        return failed(path);
    }
    char *content = grow(NULL, limit + 1);
    size_t used = 0;
    ssize_t n;
    while (used < limit && (n = read(fd, content + used, limit - used)) > 0)
        used += (size_t)n;
    close(fd);
    send_text(content, used);
    free(content);
    return 0;
}

static int op_mount(struct args *args) {
    const char *root = arg_text(args, NULL), *source = arg_text(args, NULL), *target = arg_text(args, NULL);
    const char *type = arg_text(args, NULL);
    unsigned long flags = (unsigned long)arg_number(args);
    const char *data = arg_text(args, NULL);
    if (args->bad)
        return EPROTO;
    int error = enter_root(root);
    if (!error && mount(source, target, type, flags, data))
        error = failed(target);
    leave_root();
    return error;
}

static int op_unmount(struct args *args) {
    const char *root = arg_text(args, NULL), *target = arg_text(args, NULL);
    int flags = (int)arg_number(args);
    if (args->bad)
        return EPROTO;
    int error = enter_root(root);
    if (!error && umount2(target, flags))
        error = failed(target);
    leave_root();
    return error;
}

static int op_bind(struct args *args) {
    const char *source = arg_text(args, NULL), *root = arg_text(args, NULL), *target = arg_text(args, NULL);
    if (args->bad)
        return EPROTO;
    int tree = (int)syscall(SYS_open_tree, AT_FDCWD, source, TREE_CLONE | TREE_RECURSIVE | O_CLOEXEC);
    if (tree < 0)
        return failed(source);
    int error = enter_root(root);
    if (!error && syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_FROM_FD | MOVE_TO_FOLLOWS_LINKS))
        error = failed(target);
    leave_root();
    close(tree);
    return error;
}

/* Follows the links in `given`, as far as there is anything, within the current root: no component of `found`
 * is a link, and what is missing is named as it would be made. */
static int resolve(const char *given, char found[PATH_MAX]) {
    char rest[2 * PATH_MAX], link[PATH_MAX], candidate[2 * PATH_MAX];
    int links = 0;
    if (strlen(given) >= PATH_MAX)
        return ENAMETOOLONG;
    strcpy(rest, given);
    found[0] = 0;
    for (char *at = rest; *(at += strspn(at, "/"));) {
        size_t length = strcspn(at, "/");
        struct stat st;
        if (length == 2 && !memcmp(at, "..", 2)) {
            char *slash = strrchr(found, '/');
            if (slash)
                *slash = 0;
        } else if (length != 1 || *at != '.') {
            snprintf(candidate, sizeof candidate, "%s/%.*s", found, (int)length, at);
            if (strlen(candidate) >= PATH_MAX)
                return ENAMETOOLONG;
            if (!lstat(candidate, &st) && S_ISLNK(st.st_mode)) {
                ssize_t n = readlink(candidate, link, sizeof link - 1);
                if (n < 0 || ++links > 40)
                    return n < 0 ? errno : ELOOP;
                link[n] = 0;
                if (*link == '/')
                    found[0] = 0;
                snprintf(candidate, sizeof candidate, "%s/%s", link, at + length);
                if (strlen(candidate) >= PATH_MAX)
                    return ENAMETOOLONG;
                strcpy(rest, candidate);
                at = rest;
                continue;
            }
            strcpy(found, candidate);
        }
        at += length;
    }
    return 0;
}

static void parent_of(const char *path, char parent[PATH_MAX]) {
    snprintf(parent, PATH_MAX, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash)
        slash[slash == parent] = 0;
}

/* Making or removing a name must not show in its folder's time. */
static void keep_time(const char *folder, const struct stat *st) {
    struct timespec times[2] = {st->st_atim, st->st_mtim};
    utimensat(AT_FDCWD, folder, times, 0);
}

static int make_one(const char *path, bool is_file, mode_t mode, uid_t uid, gid_t gid) {
    char parent[PATH_MAX];
    struct stat st;
    parent_of(path, parent);
    if (stat(parent, &st))
        return errno;
    if (is_file) {
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (fd < 0)
            return errno;
        close(fd);
    } else if (mkdir(path, mode)) {
        return errno;
    }
    if (chown(path, uid, gid) || chmod(path, mode))
        return errno;
    keep_time(parent, &st);
    return 0;
}

static int ensure(char *path, bool is_file, mode_t mode, uid_t uid, gid_t gid, uint64_t *count, char made[][PATH_MAX],
                  uint64_t limit) {
    for (char *slash = path;;) {
        slash = strchr(slash + 1, '/');
        if (slash)
            *slash = 0;
        bool last = !slash;
        struct stat st;
        if (lstat(path, &st)) {
            if (errno != ENOENT || *count == limit)
                return errno;
            /* the folders above are root's, as a container runtime makes them */
            int error = last ? make_one(path, is_file, mode, uid, gid) : make_one(path, false, 0755, 0, 0);
            if (error)
                return error;
            strcpy(made[(*count)++], path);
        } else if (last && S_ISDIR(st.st_mode) == is_file) {
            return is_file ? EISDIR : ENOTDIR;
        }
        if (last)
            return 0;
        *slash = '/';
    }
}

static int op_ensure(struct args *args) {
    static char path[PATH_MAX], made[64][PATH_MAX];
    const char *root = arg_text(args, NULL), *given = arg_text(args, NULL);
    bool is_file = arg_number(args);
    mode_t mode = (mode_t)arg_number(args);
    uid_t uid = (uid_t)arg_number(args);
    gid_t gid = (gid_t)arg_number(args);
    uint64_t count = 0;
    if (args->bad)
        return EPROTO;
    int error = enter_root(root);
    if (!error) {
        error = resolve(given, path);
        if (!error && *path)
            error = ensure(path, is_file, mode, uid, gid, &count, made, 64);
        fault = given;
    }
    leave_root();
    send_number(count);
    for (uint64_t i = 0; i < count; i++)
        send_text(made[i], strlen(made[i]));
    return error;
}

static int op_unstub(struct args *args) {
    const char *root = arg_text(args, NULL), *path = arg_text(args, NULL);
    char parent[PATH_MAX];
    struct stat st, above;
    if (args->bad)
        return EPROTO;
    int error = enter_root(root);
    parent_of(path, parent);
    if (!error && !lstat(path, &st) && !stat(parent, &above)) {
        bool removed = false;
        if (S_ISDIR(st.st_mode))
            removed = !rmdir(path); /* fails, as it should, when there is something in it */
        else if (S_ISREG(st.st_mode) && !st.st_size)
            removed = !unlink(path);
        if (removed)
            keep_time(parent, &above);
    }
    leave_root();
    return error;
}

static int op_copy_owner(struct args *args) {
    const char *source = arg_text(args, NULL), *target = arg_text(args, NULL);
    struct stat st;
    if (args->bad)
        return EPROTO;
    if (stat(source, &st))
        return failed(source);
    if (chown(target, st.st_uid, st.st_gid) || chmod(target, st.st_mode & 07777))
        return failed(target);
    keep_time(target, &st);
    return 0;
}

static int op_partition(struct args *args) {
    const char *disk = arg_text(args, NULL);
    struct blkpg_partition part = {.pno = (int)arg_number(args)};
    part.start = (long long)arg_number(args);
    part.length = (long long)arg_number(args);
    if (args->bad)
        return EPROTO;
    int fd = open(disk, O_RDONLY | O_CLOEXEC);
    int what = part.length ? BLKPG_ADD_PARTITION : BLKPG_DEL_PARTITION;
    struct blkpg_ioctl_arg request = {.op = what, .datalen = sizeof part, .data = &part};
    int error = fd < 0 || ioctl(fd, BLKPG, &request) ? failed(disk) : 0;
    if (fd >= 0)
        close(fd);
    return error;
}

static int op_load(struct args *args) {
    const char *path = arg_text(args, NULL), *options = arg_text(args, NULL);
    if (args->bad)
        return EPROTO;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int error = 0;
    if (fd < 0 || (syscall(SYS_finit_module, fd, options, 0) && errno != EEXIST))
        error = failed(path);
    if (fd >= 0)
        close(fd);
    return error;
}

static int op_get_clock(void) {
    struct timespec real, mono;
    clock_gettime(CLOCK_REALTIME, &real);
    clock_gettime(CLOCK_MONOTONIC, &mono);
    send_number((uint64_t)real.tv_sec * 1000000000u + (uint64_t)real.tv_nsec);
    send_number((uint64_t)mono.tv_sec * 1000000000u + (uint64_t)mono.tv_nsec);
    return 0;
}

/* Every machine of a template starts with the same random pool. The bytes are credited and the generator reseeded
 * at once, which also drops what it had made ahead for the kernel's own use. */
static int op_reseed(struct args *args) {
    uint32_t length;
    const char *bytes = arg_text(args, &length);
    uint32_t pool[64] = {0};
    struct rand_pool_info *info = (struct rand_pool_info *)pool;
    if (args->bad || length > sizeof pool - sizeof *info)
        return EPROTO;
    info->entropy_count = (int)length * 8;
    info->buf_size = (int)length;
    memcpy(info->buf, bytes, length);
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    int error = fd < 0 || ioctl(fd, RNDADDENTROPY, info) || ioctl(fd, RNDRESEEDCRNG) ? failed("/dev/urandom") : 0;
    explicit_bzero(pool, sizeof pool);
    if (fd >= 0)
        close(fd);
    return error;
}

static int op_statfs(struct args *args) {
    const char *path = arg_text(args, NULL);
    struct statfs st;
    if (args->bad)
        return EPROTO;
    if (statfs(path, &st))
        return failed(path);
    send_number((uint64_t)st.f_bsize);
    send_number(st.f_blocks);
    send_number(st.f_bavail);
    send_number(st.f_files);
    send_number(st.f_ffree);
    return 0;
}

static int op_changes(struct args *args) {
    const char *upper = arg_text(args, NULL), *below = arg_text(args, NULL), *device = arg_text(args, NULL);
    uint64_t length, records;
    if (args->bad)
        return EPROTO;
    int error = write_changes(upper, below, device, &length, &records);
    send_number(length);
    send_number(records);
    return error;
}

static int op_link_up(struct args *args) {
    const char *name = arg_text(args, NULL), *address = arg_text(args, NULL), *mask = arg_text(args, NULL);
    const char *gateway = arg_text(args, NULL);
    if (args->bad)
        return EPROTO;
    fault = name;
    return link_up(name, address, mask, gateway);
}

static int op_hostname(struct args *args) {
    uint32_t length;
    const char *name = arg_text(args, &length);
    if (args->bad)
        return EPROTO;
    return sethostname(name, length) ? failed(name) : 0;
}

static int op_kill_all(void) {
    kill(-1, SIGKILL);
    return 0;
}

int run_operation(uint16_t operation, uint32_t tag, struct args *args) {
    errno = 0;
    switch (operation) {
    case OP_HELLO:
        send_number(PROTOCOL_VERSION);
        send_text(PORT_NAME, strlen(PORT_NAME));
        return 0;
    case OP_LOAD: return op_load(args);
    case OP_MKDIR: return op_mkdir(args);
    case OP_MKNOD: return op_mknod(args);
    case OP_SYMLINK: return op_symlink(args);
    case OP_WRITE: return op_write(args);
    case OP_READ: return op_read(args);
    case OP_MOUNT: return op_mount(args);
    case OP_UNMOUNT: return op_unmount(args);
    case OP_BIND: return op_bind(args);
    case OP_ENSURE: return op_ensure(args);
    case OP_UNSTUB: return op_unstub(args);
    case OP_COPY_OWNER: return op_copy_owner(args);
    case OP_PARTITION: return op_partition(args);
    case OP_SET_CLOCK: return op_set_clock(args);
    case OP_HOLD_CLOCK: return op_hold_clock(args);
    case OP_GET_CLOCK: return op_get_clock();
    case OP_RESEED: return op_reseed(args);
    case OP_HOSTNAME: return op_hostname(args);
    case OP_LINK_UP: return op_link_up(args);
    case OP_SPAWN: return op_spawn(tag, args);
    case OP_PREPARE: return op_prepare(args);
    case OP_SIGNAL: return op_signal(args);
    case OP_STATFS: return op_statfs(args);
    case OP_CHANGES: return op_changes(args);
    case OP_KILL_ALL: return op_kill_all();
    case OP_SYNC: sync(); return 0;
    case OP_CLEAR: return 0;
    case OP_ATTACH: return op_attach(args);
    case OP_INPUT: return op_input(args);
    case OP_RESIZE: return op_resize(args);
    case OP_LISTEN: return op_listen(args);
    case OP_DATA: return op_data(args);
    case OP_TAKEN: return op_taken(args);
    case OP_CLOSE: return op_close(args);
    case OP_BIND_FROM: return op_bind_from(args);
    case OP_OWN: return op_own(args);
    case OP_COPY_TREE: return op_copy_tree(args);
    case OP_RELEASE: return op_release(args);
    case OP_SET_MAC: return op_set_mac(args);
    case OP_HOLD: return op_hold();
    case OP_RESUME: return op_resume();
    case OP_CONNECT: return op_connect(args);
    case OP_JOIN: return op_join(args);
    }
    return ENOSYS;
}
