/* What RUN --mount needs: parts of other file systems bound into a root, caches merged and let go of. */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#define TREE_CLONE 1u
#define MOVE_FROM_FD 0x04u
#define MOVE_TO_FOLLOWS_LINKS 0x10u
#define BUFFER (256u << 10)
#define XATTR_LIMIT 65536
#define DEPTH_LIMIT 512
#define RELEASE_TRIES 1000 /* of 10 ms */

static char where[PATH_MAX]; /* the name on which something failed, kept until it is told */

static int failed(const char *what) {
    int error = errno ? errno : EIO;
    strncpy(where, what, sizeof where - 1);
    fault = where;
    return error;
}

int op_bind_from(struct args *args) {
    struct {
        uint64_t set, clear, propagation, userns;
    } attributes = {0};
    const char *origin = arg_text(args, NULL), *source = arg_text(args, NULL);
    const char *root = arg_text(args, NULL), *target = arg_text(args, NULL);
    attributes.set = arg_number(args);
    if (args->bad)
        return EPROTO;
    int error = enter_root(origin), tree = -1;
    if (!error) {
        tree = (int)syscall(SYS_open_tree, AT_FDCWD, source, TREE_CLONE | O_CLOEXEC);
        if (tree < 0)
            error = failed(source);
    }
    leave_root();
    if (!error && attributes.set && syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes))
        error = failed(source);
    if (!error)
        error = enter_root(root);
    if (!error && syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_FROM_FD | MOVE_TO_FOLLOWS_LINKS))
        error = failed(target);
    leave_root();
    if (tree >= 0)
        close(tree);
    return error;
}

int op_own(struct args *args) {
    const char *root = arg_text(args, NULL), *path = arg_text(args, NULL);
    uint64_t mode = arg_number(args), uid = arg_number(args), gid = arg_number(args);
    if (args->bad)
        return EPROTO;
    int error = enter_root(root);
    if (!error && (chown(path, (uid_t)uid, (gid_t)gid) || (mode != UINT64_MAX && chmod(path, (mode_t)mode))))
        error = failed(path);
    leave_root();
    return error;
}

/* Unmounts and waits until the file system has let go of its device: then all that was written is there. */
int op_release(struct args *args) {
    const char *target = arg_text(args, NULL), *device = arg_text(args, NULL);
    if (args->bad)
        return EPROTO;
    int fd = -1;
    if (umount2(target, 0))
        return failed(target);
    for (int tries = 0; fd < 0 && tries < RELEASE_TRIES; tries++) {
        fd = open(device, O_RDWR | O_EXCL | O_CLOEXEC);
        if (fd < 0 && errno != EBUSY)
            break;
        if (fd < 0)
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    if (fd < 0)
        return failed(device);
    int error = fsync(fd) ? failed(device) : 0;
    close(fd);
    return error;
}

/* The copying of a tree onto another. No link is followed: every name is opened from its folder. */
struct copy {
    uint8_t *data;
    uint64_t copied;
    int error;
    struct link {
        uint64_t inode;
        char *path; /* below the target's root */
    } *links;
    size_t link_count, link_room;
    int target_root;
    int beside; /* the folder around the target, where files are made whole before they are put in their place */
    char path[PATH_MAX]; /* below both roots, of what is being looked at */
    size_t length;
};

static void give_up(struct copy *c) {
    if (!c->error)
        c->error = failed(c->path);
}

static void fd_name(char name[32], int fd) {
    static const char prefix[] = "/proc/self/fd/";
    char digits[12];
    int n = 0;
    memcpy(name, prefix, sizeof prefix - 1);
    do
        digits[n++] = (char)('0' + fd % 10);
    while (fd /= 10);
    char *at = name + sizeof prefix - 1;
    while (n)
        *at++ = digits[--n];
    *at = 0;
}

/* The attributes of an entry; `fd` may be one that only names it (O_PATH). */
static void copy_xattrs(struct copy *c, int from, int to) {
    static char names[XATTR_LIMIT], value[XATTR_LIMIT];
    char source[32], target[32];
    fd_name(source, from);
    fd_name(target, to);
    ssize_t total = listxattr(source, names, sizeof names);
    if (total < 0 && errno != ENOTSUP)
        give_up(c);
    for (ssize_t at = 0; at < total && !c->error; at += (ssize_t)strlen(names + at) + 1) {
        if (!strncmp(names + at, "trusted.overlay.", 16))
            continue;
        ssize_t length = getxattr(source, names + at, value, sizeof value);
        if (length < 0 || (setxattr(target, names + at, value, (size_t)length, 0) && errno != ENOTSUP))
            give_up(c);
    }
}

static void dress(struct copy *c, int folder, const char *name, const struct stat *st) {
    struct timespec times[2] = {st->st_mtim, st->st_mtim};
    if (fchownat(folder, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) ||
        (!S_ISLNK(st->st_mode) && fchmodat(folder, name, st->st_mode & 07777, 0)) ||
        utimensat(folder, name, times, AT_SYMLINK_NOFOLLOW))
        give_up(c);
}

static void copy_content(struct copy *c, int from, int to, off_t size) {
    off_t at = 0;
    if (ftruncate(to, size))
        give_up(c);
    while (!c->error && at < size) {
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0) {
            if (errno != ENXIO && errno != EINVAL)
                give_up(c);
            if (errno != EINVAL)
                return; /* only a hole is left */
            data = at;
        }
        off_t hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0)
            hole = size;
        for (at = data; at < hole && !c->error;) {
            size_t part = hole - at < (off_t)BUFFER ? (size_t)(hole - at) : BUFFER;
            ssize_t n = pread(from, c->data, part, at);
            if (n < 0)
                give_up(c);
            if (n <= 0)
                return;
            for (ssize_t done = 0, m; done < n; done += m)
                if ((m = pwrite(to, c->data + done, (size_t)(n - done), at + done)) <= 0) {
                    give_up(c);
                    return;
                }
            at += n;
        }
    }
}

static bool newer(const struct stat *one, const struct stat *other) {
    if (one->st_mtim.tv_sec != other->st_mtim.tv_sec)
        return one->st_mtim.tv_sec > other->st_mtim.tv_sec;
    return one->st_mtim.tv_nsec > other->st_mtim.tv_nsec;
}

/* Where an inode with more than one name was copied to, or a free slot. */
static struct link *link_slot(struct copy *c, uint64_t inode) {
    size_t at = inode * 0x9E3779B97F4A7C15u % c->link_room;
    while (c->links[at].path && c->links[at].inode != inode)
        at = (at + 1) % c->link_room;
    return &c->links[at];
}

static const char *linked_to(struct copy *c, uint64_t inode) {
    return c->link_room ? link_slot(c, inode)->path : NULL;
}

static void remember_link(struct copy *c, uint64_t inode) {
    if (c->link_count * 2 >= c->link_room) {
        struct link *old = c->links;
        size_t room = c->link_room;
        c->link_room = room ? room * 2 : 1024;
        c->links = grow(NULL, c->link_room * sizeof *c->links);
        memset(c->links, 0, c->link_room * sizeof *c->links);
        for (size_t i = 0; i < room; i++)
            if (old[i].path)
                *link_slot(c, old[i].inode) = old[i];
        free(old);
    }
    char *path = grow(NULL, c->length + 1);
    memcpy(path, c->path, c->length + 1);
    *link_slot(c, inode) = (struct link){inode, path};
    c->link_count++;
}

static void copy_file(struct copy *c, int from_folder, int to_folder, const char *name, const char *fresh,
                      const struct stat *st) {
    int from = openat(from_folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    int to = openat(to_folder, fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (from < 0 || to < 0)
        give_up(c);
    if (!c->error)
        copy_content(c, from, to, st->st_size);
    if (!c->error) {
        dress(c, to_folder, fresh, st);
        copy_xattrs(c, from, to);
    }
    if (from >= 0)
        close(from);
    if (to >= 0)
        close(to);
}

/* What is no folder: made under a name of its own, outside the target, then put in its place. */
static void copy_leaf(struct copy *c, int from, int to, const char *name, const struct stat *st) {
    static const char fresh[] = ".mbuild-merge";
    char target[PATH_MAX];
    const char *twin = S_ISREG(st->st_mode) && st->st_nlink > 1 ? linked_to(c, st->st_ino) : NULL;
    unlinkat(c->beside, fresh, 0);
    if (twin) {
        if (linkat(c->target_root, twin, c->beside, fresh, 0))
            give_up(c);
    } else if (S_ISREG(st->st_mode)) {
        copy_file(c, from, c->beside, name, fresh, st);
    } else if (S_ISLNK(st->st_mode)) {
        ssize_t n = readlinkat(from, name, target, sizeof target - 1);
        if (n >= 0)
            target[n] = 0;
        if (n < 0 || symlinkat(target, c->beside, fresh))
            give_up(c);
    } else if (S_ISSOCK(st->st_mode)) {
        return; /* nobody listens there any more */
    } else if (mknodat(c->beside, fresh, st->st_mode & S_IFMT, st->st_rdev)) {
        give_up(c);
    }
    if (!c->error && !twin && !S_ISREG(st->st_mode))
        dress(c, c->beside, fresh, st);
    if (!c->error && renameat(c->beside, fresh, to, name))
        give_up(c);
    unlinkat(c->beside, fresh, 0); /* a rename of one name of a file onto another of the same leaves both */
    c->copied++;
}

static void copy_folder(struct copy *c, int from, int to, int depth);

static void copy_one(struct copy *c, int from, int to, const char *name, int depth) {
    struct stat st, there;
    size_t before = c->length, more = strlen(name);
    if (before + more + 2 > sizeof c->path || depth > DEPTH_LIMIT) {
        errno = ENAMETOOLONG;
        give_up(c);
        return;
    }
    if (before)
        c->path[c->length++] = '/';
    memcpy(c->path + c->length, name, more + 1);
    c->length += more;
    bool exists = !fstatat(to, name, &there, AT_SYMLINK_NOFOLLOW);
    if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW)) {
        give_up(c);
    } else if (S_ISDIR(st.st_mode)) {
        if (!exists && mkdirat(to, name, 0700))
            give_up(c);
        if (!c->error && (!exists || S_ISDIR(there.st_mode))) {
            int inner = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            int outer = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (inner < 0 || outer < 0)
                give_up(c);
            else
                copy_folder(c, inner, outer, depth + 1);
            if (!c->error && !exists) {
                copy_xattrs(c, inner, outer);
                dress(c, to, name, &st);
                c->copied++;
            }
            if (inner >= 0)
                close(inner);
            if (outer >= 0)
                close(outer);
        }
    } else if (!exists || (!S_ISDIR(there.st_mode) && newer(&st, &there))) {
        copy_leaf(c, from, to, name, &st);
        if (!c->error && S_ISREG(st.st_mode) && st.st_nlink > 1 && !linked_to(c, st.st_ino))
            remember_link(c, st.st_ino);
    } else if (S_ISREG(st.st_mode) && st.st_nlink > 1 && S_ISREG(there.st_mode) && there.st_size == st.st_size &&
               !newer(&there, &st) && !linked_to(c, st.st_ino)) {
        remember_link(c, st.st_ino); /* the same file is there already: its other names are to be names of it */
    }
    c->length = before;
    c->path[before] = 0;
}

static void copy_folder(struct copy *c, int from, int to, int depth) {
    int again = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = again < 0 ? NULL : fdopendir(again);
    struct dirent *entry;
    if (!entries) {
        give_up(c);
        if (again >= 0)
            close(again);
        return;
    }
    while (!c->error && (entry = readdir(entries)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            copy_one(c, from, to, entry->d_name, depth);
    closedir(entries);
}

int op_copy_tree(struct args *args) {
    static struct copy c;
    const char *source = arg_text(args, NULL), *target = arg_text(args, NULL);
    if (args->bad)
        return EPROTO;
    memset(&c, 0, sizeof c);
    c.data = grow(NULL, BUFFER);
    int from = open(source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    c.target_root = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    c.beside = c.target_root < 0 ? -1 : openat(c.target_root, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (from < 0 || c.beside < 0)
        c.error = failed(from < 0 ? source : target);
    else
        copy_folder(&c, from, c.target_root, 0);
    for (size_t i = 0; i < c.link_room; i++)
        free(c.links[i].path);
    free(c.links);
    free(c.data);
    if (from >= 0)
        close(from);
    if (c.target_root >= 0)
        close(c.target_root);
    if (c.beside >= 0)
        close(c.beside);
    send_number(c.copied);
    return c.error;
}
