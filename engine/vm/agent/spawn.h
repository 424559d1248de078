/* How a process comes to run its program: spawn.c starts it, become.c is in it. */
#ifndef MBUILD_SPAWN_H
#define MBUILD_SPAWN_H

#include "agent.h"

#include <sys/types.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#define MOUNT_LIMIT 40
#define NAMESPACES_WAIT (1ull << 40)

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
int read_order(struct order *order, struct args *args);

/* What the agent tells a process that waits; then the payload of the SPAWN follows. */
struct call {
    uint64_t length;
    int tree; /* the agent's descriptor of the root with its mounts */
};
bool transfer(int fd, void *data, size_t length, bool out);

/* In the child. `become` and the like give what they failed on, with errno, or NULL. */
void settle(const struct order *order, const int standard[3]);
const char *become(const struct order *order, int joined);
/* The program, or, if `what` is not NULL, a report of that. */
_Noreturn void run(const struct order *order, const char *what, int report);
/* Makes all that differs between no steps, writes a '+' and waits for a call; `agent` is the agent's pidfd. */
_Noreturn void await_call(struct order *order, int agent, int calls, int report);

#endif
