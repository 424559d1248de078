/* Where on the scratch disk a file's content lies. */
#define _GNU_SOURCE
#include "agent.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#define LARGE (256u << 10) /* from here on, to find a file's place costs less than to copy it */
#define ZEROS UINT64_MAX

struct extents extents;

static bool add_extent(uint64_t offset, uint64_t length) {
    if (length && extents.count < EXTENT_LIMIT)
        extents.at[extents.count++] = (struct extent){offset, length};
    else if (length)
        return false;
    return true;
}

static union {
    struct fiemap map;
    char room[sizeof(struct fiemap) + 256 * sizeof(struct fiemap_extent)];
} found;

static bool ask_extents(int fd, uint64_t at, uint64_t size, uint32_t flags) {
    memset(&found.map, 0, sizeof found.map);
    found.map.fm_start = at;
    found.map.fm_length = size - at;
    found.map.fm_flags = flags;
    found.map.fm_extent_count = 256;
    return !ioctl(fd, FS_IOC_FIEMAP, &found.map);
}

/* Whether the kernel has given most of a file its place by now. To wait for what is only in memory costs twice as
 * much as to copy it. */
static bool mostly_placed(int fd, uint64_t size) {
    uint64_t waiting = 0;
    if (!ask_extents(fd, 0, size, 0))
        return false;
    for (uint32_t i = 0; i < found.map.fm_mapped_extents; i++)
        if (found.map.fm_extents[i].fe_flags & FIEMAP_EXTENT_DELALLOC)
            waiting += found.map.fm_extents[i].fe_length;
    return waiting < size / 2;
}

bool find_extents(int fd, uint64_t size) {
    const uint32_t unusable = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED |
                              FIEMAP_EXTENT_DATA_ENCRYPTED | FIEMAP_EXTENT_NOT_ALIGNED | FIEMAP_EXTENT_DATA_INLINE |
                              FIEMAP_EXTENT_DATA_TAIL;
    uint64_t at = 0;
    extents.count = 0;
    if (size < LARGE || !mostly_placed(fd, size))
        return false;
    for (bool last = false; !last && at < size;) {
        if (!ask_extents(fd, at, size, at ? 0 : FIEMAP_FLAG_SYNC))
            return false;
        last = !found.map.fm_mapped_extents;
        for (uint32_t i = 0; i < found.map.fm_mapped_extents && at < size; i++) {
            const struct fiemap_extent *one = &found.map.fm_extents[i];
            uint64_t start = one->fe_logical, end = start + one->fe_length;
            if (one->fe_flags & unusable || start < at || end < start)
                return false;
            end = end < size ? end : size;
            last = last || one->fe_flags & FIEMAP_EXTENT_LAST;
            if (start >= end)
                break;
            bool zeros = one->fe_flags & FIEMAP_EXTENT_UNWRITTEN;
            if (!add_extent(ZEROS, start - at) || !add_extent(zeros ? ZEROS : one->fe_physical, end - start))
                return false;
            at = end;
        }
    }
    return add_extent(ZEROS, size - at);
}
