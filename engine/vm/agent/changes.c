/* The change stream: an overlay's upper folder written to a raw disk; its reader is engine/layers/changes.py.
 *
 * Little endian: the magic, then records, depth first, a folder before what is in it, the root (path "") first.
 * A record is a header of 64 bytes, the path, the link (a symlink's target; for a hard link the path of the file
 * record with the same inode), the extended attributes (u16 length of the name, u32 length of the value, name,
 * value), zeros up to a multiple of 512 bytes from the stream's start, the content, and zeros again. The end
 * record's size is the number of records before it.
 *
 * A large file is not copied: its record says where on the scratch disk its content lies. Behind the attributes
 * come u32 count and so many extents (u64 offset on that disk, or all ones for zeros; u64 length), and no content.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#define BUFFER (1u << 20)
#define BLOCK 512u
#define RECORD_MAGIC 0x4543424Du
#define XATTR_LIMIT 65536
#define DEPTH_LIMIT 2000 /* folders in one another: each takes a descriptor and about 1 KB of the stack */
static const char stream_magic[8] = {'M', 'B', 'C', 'H', 'G', 0, 0, 1};

enum {
    TYPE_FILE = 1,
    TYPE_FOLDER,
    TYPE_SYMLINK,
    TYPE_CHAR,
    TYPE_BLOCK,
    TYPE_FIFO,
    TYPE_SOCKET,
    TYPE_HARDLINK,
    TYPE_EXTENTS,
    TYPE_END = 255
};

struct header {
    uint32_t magic;
    uint8_t type, zero;
    uint16_t xattr_count;
    uint32_t mode, uid, gid, major_number, minor_number;
    uint64_t size;
    int64_t mtime;
    uint32_t mtime_ns, path_length, link_length, zero2[2];
} __attribute__((packed));
_Static_assert(sizeof(struct header) == 64, "the record's header has 64 bytes");

/* A folder on the way down; its record is written when it is known to be a change. */
struct folder {
    struct folder *parent;
    int fd;
    size_t path_length;
    unsigned depth;
    struct stat st;
    bool written;
    bool merged; /* the layers below may show through */
};

static struct {
    int device, below;
    uint8_t *data;
    size_t used;
    uint64_t position, records;
    char *path; /* of what is being looked at; prefixes of it are the folders above */
    size_t path_size;
    int error;
} s;

/* Inodes with more than one name, and the first name met. */
static struct {
    struct seen {
        uint64_t inode;
        char *path;
    } *slots;
    size_t size, used;
} links;

static void fail(const char *what) {
    if (!s.error) {
        s.error = errno ? errno : EIO;
        fault = what;
    }
}

static void flush(void) {
    size_t done = 0;
    while (done < s.used && !s.error) {
        ssize_t n = write(s.device, s.data + done, s.used - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            fail("the disk for the changed files");
    }
    s.used = 0;
}

static void put(const void *data, size_t length) {
    const uint8_t *from = data;
    while (length) {
        size_t room = BUFFER - s.used, part = length < room ? length : room;
        memcpy(s.data + s.used, from, part);
        s.used += part;
        s.position += part;
        from += part;
        length -= part;
        if (s.used == BUFFER)
            flush();
    }
}

static void pad(void) {
    static const uint8_t zeros[BLOCK];
    put(zeros, (BLOCK - s.position % BLOCK) % BLOCK);
}

/* Steps over zeros: the disk is empty. Only whole blocks, so that the buffer stays aligned. */
static void skip(uint64_t length) {
    flush();
    if (lseek(s.device, (off_t)length, SEEK_CUR) < 0)
        fail("the disk for the changed files");
    s.position += length;
}

static bool hidden(const char *name) {
    return !strncmp(name, "trusted.overlay.", 16) && strcmp(name, "trusted.overlay.opaque") != 0;
}

/* What has extended attributes: by its descriptor, which costs less, or by its path when that is negative. */
struct holder {
    int fd;
    const char *path;
};

static ssize_t get_xattr(struct holder of, const char *name, char value[XATTR_LIMIT]) {
    return of.fd >= 0 ? fgetxattr(of.fd, name, value, XATTR_LIMIT) : lgetxattr(of.path, name, value, XATTR_LIMIT);
}

/* The names of an entry's extended attributes, NUL-separated, without overlayfs's own notes. */
static ssize_t xattr_names(struct holder of, char names[XATTR_LIMIT]) {
    ssize_t total = of.fd >= 0 ? flistxattr(of.fd, names, XATTR_LIMIT) : llistxattr(of.path, names, XATTR_LIMIT);
    ssize_t kept = 0;
    if (total < 0)
        return errno == ENOTSUP ? 0 : -1;
    for (ssize_t at = 0; at < total;) {
        size_t length = strlen(names + at) + 1;
        if (!hidden(names + at)) {
            memmove(names + kept, names + at, length);
            kept += (ssize_t)length;
        }
        at += (ssize_t)length;
    }
    return kept;
}

static void put_record(uint8_t type, const struct stat *st, size_t path_length, const char *link, struct holder entry) {
    static char names[XATTR_LIMIT], value[XATTR_LIMIT];
    ssize_t total = type == TYPE_HARDLINK ? 0 : xattr_names(entry, names);
    if (total < 0) {
        fail(s.path);
        return;
    }
    struct header header = {
        .magic = RECORD_MAGIC,
        .type = type,
        .mode = st->st_mode & 07777,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .size = type == TYPE_FILE || type == TYPE_EXTENTS ? (uint64_t)st->st_size : 0,
        .mtime = st->st_mtim.tv_sec,
        .mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
        .path_length = (uint32_t)path_length,
        .link_length = (uint32_t)strlen(link),
    };
    if (type == TYPE_CHAR || type == TYPE_BLOCK) {
        header.major_number = major(st->st_rdev);
        header.minor_number = minor(st->st_rdev);
    }
    for (ssize_t at = 0; at < total; at += (ssize_t)strlen(names + at) + 1)
        header.xattr_count++;
    put(&header, sizeof header);
    put(s.path, path_length);
    put(link, header.link_length);
    for (ssize_t at = 0; at < total; at += (ssize_t)strlen(names + at) + 1) {
        ssize_t n = get_xattr(entry, names + at, value);
        if (n < 0) {
            fail(s.path);
            return;
        }
        uint16_t name_length = (uint16_t)strlen(names + at);
        uint32_t value_length = (uint32_t)n;
        put(&name_length, 2);
        put(&value_length, 4);
        put(names + at, name_length);
        put(value, value_length);
    }
    if (type == TYPE_EXTENTS) {
        put(&extents.count, sizeof extents.count);
        put(extents.at, extents.count * sizeof *extents.at);
    }
    pad();
    s.records++;
}

static void put_folder(struct folder *folder) {
    if (folder->written)
        return;
    if (folder->parent)
        put_folder(folder->parent);
    folder->written = true;
    put_record(TYPE_FOLDER, &folder->st, folder->path_length, "", (struct holder){.fd = folder->fd});
}

static void put_range(int fd, uint64_t length) {
    while (length && !s.error) {
        size_t room = BUFFER - s.used, part = length < room ? (size_t)length : room;
        ssize_t n = read(fd, s.data + s.used, part);
        if (n <= 0) {
            fail(s.path);
            return;
        }
        s.used += (size_t)n;
        s.position += (uint64_t)n;
        length -= (uint64_t)n;
        if (s.used == BUFFER)
            flush();
    }
}

static void put_content(int fd, const struct stat *st) {
    uint64_t size = (uint64_t)st->st_size, at = 0;
    bool sparse = (uint64_t)st->st_blocks * 512 < size;
    while (at < size && !s.error) {
        uint64_t end = size;
        if (sparse) {
            off_t data = lseek(fd, (off_t)at, SEEK_DATA);
            uint64_t next = data < 0 ? size : (uint64_t)data;
            uint64_t whole = (next - at) / BLOCK * BLOCK;
            if (whole)
                skip(whole);
            at += whole;
            if (data < 0 && at < size) { /* less than a block of hole is left */
                static const uint8_t zeros[BLOCK];
                put(zeros, size - at);
                at = size;
            }
            if (at >= size)
                break;
            off_t hole = lseek(fd, (off_t)at, SEEK_HOLE);
            end = hole < 0 ? size : (uint64_t)hole;
            lseek(fd, (off_t)at, SEEK_SET);
        }
        put_range(fd, end - at);
        at = end;
    }
    pad();
}

/* The path under which an inode was met before, or NULL, and then it is remembered. */
static const char *met_before(uint64_t inode, size_t path_length) {
    if (links.used * 2 >= links.size) {
        struct seen *old = links.slots;
        size_t size = links.size;
        links.size = size ? size * 2 : 1024;
        links.slots = calloc(links.size, sizeof *links.slots);
        if (!links.slots)
            die("out of memory");
        for (size_t i = 0; i < size; i++)
            if (old[i].path) {
                size_t to = old[i].inode * 0x9E3779B97F4A7C15u % links.size;
                while (links.slots[to].path)
                    to = (to + 1) % links.size;
                links.slots[to] = old[i];
            }
        free(old);
    }
    size_t slot = inode * 0x9E3779B97F4A7C15u % links.size;
    for (; links.slots[slot].path; slot = (slot + 1) % links.size)
        if (links.slots[slot].inode == inode)
            return links.slots[slot].path;
    links.slots[slot] = (struct seen){inode, strndup(s.path, path_length)};
    links.used++;
    return NULL;
}

static bool same_xattrs(struct holder one, struct holder other) {
    static char names[XATTR_LIMIT], others[XATTR_LIMIT], value[XATTR_LIMIT], other_value[XATTR_LIMIT];
    ssize_t total = xattr_names(one, names);
    if (total < 0 || total != xattr_names(other, others))
        return false;
    for (ssize_t at = 0; at < total; at += (ssize_t)strlen(names + at) + 1) {
        ssize_t n = get_xattr(one, names + at, value);
        if (n < 0 || n != get_xattr(other, names + at, other_value) ||
            memcmp(value, other_value, (size_t)n) != 0)
            return false;
    }
    return true;
}

/* Whether a folder was only copied up, because of what is in it. As BuildKit does, its time is not looked at. */
static bool unchanged(struct folder *folder) {
    if (!folder->merged || s.below < 0)
        return false;
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH};
    s.path[folder->path_length] = 0;
    int fd = (int)syscall(SYS_openat2, s.below, s.path, &how, sizeof how);
    if (fd < 0) {
        folder->merged = false;
        return false;
    }
    struct stat st;
    bool same = !fstat(fd, &st) && st.st_mode == folder->st.st_mode && st.st_uid == folder->st.st_uid &&
                st.st_gid == folder->st.st_gid &&
                same_xattrs((struct holder){.fd = folder->fd}, (struct holder){.fd = fd});
    close(fd);
    return same;
}

static size_t extend_path(size_t length, const char *name) {
    size_t more = strlen(name), start = length ? length + 1 : 0;
    if (start + more + 1 > s.path_size) {
        s.path_size = (start + more + 1) * 2;
        s.path = grow(s.path, s.path_size);
    }
    if (length)
        s.path[length] = '/';
    memcpy(s.path + start, name, more + 1);
    return start + more;
}

static void visit_folder(struct folder *folder);

/* A plain file, which is open. */
static void visit_file(struct folder *parent, size_t length, int fd, const struct stat *st) {
    put_folder(parent);
    const char *first = st->st_nlink > 1 ? met_before(st->st_ino, length) : NULL;
    struct holder entry = {.fd = fd};
    if (first) {
        put_record(TYPE_HARDLINK, st, length, first, entry);
    } else if (find_extents(fd, (uint64_t)st->st_size)) {
        put_record(TYPE_EXTENTS, st, length, "", entry);
    } else {
        put_record(TYPE_FILE, st, length, "", entry);
        put_content(fd, st);
    }
}

static void visit(struct folder *parent, const char *name, bool is_file) {
    struct stat st;
    size_t length = extend_path(parent->path_length, name);
    if (is_file) { /* its name is looked up once */
        int fd = openat(parent->fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);
        if (fd < 0 || fstat(fd, &st))
            fail(s.path);
        else
            visit_file(parent, length, fd, &st);
        if (fd >= 0)
            close(fd);
        return;
    }
    if (fstatat(parent->fd, name, &st, AT_SYMLINK_NOFOLLOW)) {
        fail(s.path);
        return;
    }
    if (S_ISREG(st.st_mode)) { /* the folder did not say */
        visit(parent, name, true);
        return;
    }
    if (S_ISDIR(st.st_mode)) {
        if (parent->depth >= DEPTH_LIMIT) {
            errno = ENAMETOOLONG;
            fail("folders in one another");
            return;
        }
        struct folder folder = {
            .parent = parent, .path_length = length, .depth = parent->depth + 1, .st = st, .merged = parent->merged};
        folder.fd = openat(parent->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (folder.fd < 0)
            fail(s.path);
        else
            visit_folder(&folder);
        return;
    }
    put_folder(parent);
    static char entry[NAME_MAX + 64], target[PATH_MAX + 1]; /* folders are visited before or after their use */
    *target = 0;
    snprintf(entry, sizeof entry, "/proc/self/fd/%d/%s", parent->fd, name);
    struct holder holder = {.fd = -1, .path = entry};
    switch (st.st_mode & S_IFMT) {
    case S_IFLNK: {
        ssize_t n = readlinkat(parent->fd, name, target, PATH_MAX);
        if (n < 0)
            fail(s.path);
        else
            target[n] = 0;
        put_record(TYPE_SYMLINK, &st, length, target, holder);
        return;
    }
    case S_IFCHR: put_record(TYPE_CHAR, &st, length, "", holder); return;
    case S_IFBLK: put_record(TYPE_BLOCK, &st, length, "", holder); return;
    case S_IFIFO: put_record(TYPE_FIFO, &st, length, "", holder); return;
    case S_IFSOCK: put_record(TYPE_SOCKET, &st, length, "", holder); return;
    }
}

/* Takes the folder's descriptor and closes it. */
static void visit_folder(struct folder *folder) {
    char opaque[4];
    if (fgetxattr(folder->fd, "trusted.overlay.opaque", opaque, sizeof opaque) == 1 && *opaque == 'y')
        folder->merged = false;
    if (!folder->parent || !unchanged(folder))
        put_folder(folder);
    DIR *entries = fdopendir(folder->fd);
    if (!entries) {
        fail(s.path);
        close(folder->fd);
        return;
    }
    struct dirent *entry;
    while (!s.error && (entry = readdir(entries)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            visit(folder, entry->d_name, entry->d_type == DT_REG);
    closedir(entries);
}

static void put_end(void) {
    struct header end = {.magic = RECORD_MAGIC, .type = TYPE_END, .size = s.records};
    put(&end, sizeof end);
    pad();
    flush();
    if (!s.error && fsync(s.device))
        fail("the disk for the changed files");
}

int write_changes(const char *upper, const char *below, const char *device, uint64_t *length, uint64_t *records) {
    struct folder root = {.merged = true};
    memset(&s, 0, sizeof s);
    memset(&links, 0, sizeof links);
    s.below = *below ? open(below, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    s.device = open(device, O_WRONLY | O_DIRECT | O_CLOEXEC);
    root.fd = open(upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s.device < 0 || root.fd < 0 || fstat(root.fd, &root.st) ||
        posix_memalign((void **)&s.data, 4096, BUFFER)) {
        fault = s.device < 0 ? device : upper;
        return errno ? errno : ENOMEM;
    }
    s.path_size = 8192;
    s.path = grow(NULL, s.path_size);
    s.path[0] = 0;
    put(stream_magic, sizeof stream_magic);
    visit_folder(&root);
    put_end();
    *length = s.position;
    *records = s.records;
    close(s.device);
    if (s.below >= 0)
        close(s.below);
    return s.error; /* what was allocated goes with the VM: changes are written once in its life */
}
