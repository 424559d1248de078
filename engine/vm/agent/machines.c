/* What a machine is frozen and restored with: it stands still meanwhile, and differs from its siblings after. */
#define _GNU_SOURCE
#include "agent.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define GROUPS "/cg"
#define GROUP GROUPS "/m"

static int write_to(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int error = write(fd, text, strlen(text)) < 0 ? errno : 0;
    close(fd);
    return error;
}

int op_set_mac(struct args *args) {
    uint32_t length;
    const char *name = arg_text(args, NULL), *address = arg_text(args, &length);
    struct ifreq request = {0};
    if (args->bad || length != 6)
        return EPROTO;
    fault = name;
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(request.ifr_hwaddr.sa_data, address, 6);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int error = fd < 0 || ioctl(fd, SIOCSIFHWADDR, &request) ? errno : 0;
    if (fd >= 0)
        close(fd);
    return error;
}

static bool reads(const char *path, const char *wanted) {
    char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    return strstr(text, wanted) != NULL;
}

/* Puts every process that is not there yet into the group; gives how many, or -1. A kernel thread has no program,
 * and neither has what is only waiting to be reaped. */
static int gather(void) {
    int moved = 0;
    DIR *processes = opendir("/proc");
    struct dirent *entry;
    if (!processes)
        return -1;
    while ((entry = readdir(processes))) {
        char path[300], program[8];
        int pid = atoi(entry->d_name);
        snprintf(path, sizeof path, "/proc/%d/exe", pid);
        if (pid <= 1 || readlink(path, program, sizeof program) < 0)
            continue;
        snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
        if (reads(path, "0::/m"))
            continue;
        snprintf(path, sizeof path, "%d", pid);
        int error = write_to(GROUP "/cgroup.procs", path);
        if (!error)
            moved++;
        else if (error != ESRCH) {
            errno = error;
            moved = -1;
            break;
        }
    }
    closedir(processes);
    return moved;
}

/* The freezer of control groups: unlike a stop signal, no process can see it. */
int op_hold(void) {
    fault = GROUP;
    mkdir(GROUPS, 0755);
    if (mount("none", GROUPS, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) && errno != EBUSY)
        return errno;
    if (mkdir(GROUP, 0755) && errno != EEXIST)
        return errno;
    /* Children are born into their parent's group: it is over when a round finds nobody outside. */
    int moved = -1;
    for (int round = 0; round < 1000 && moved; round++)
        if ((moved = gather()) < 0)
            return errno;
    if (moved)
        return EAGAIN;
    /* A new MAC is announced by ARP: by then QEMU's network knows the old one, from what the guest says when it comes
     * back, and would send the first packets there. */
    int error = write_to("/proc/sys/net/ipv4/conf/all/arp_notify", "1");
    if (!error)
        error = write_to(GROUP "/cgroup.freeze", "1");
    for (int tries = 0; !error && !reads(GROUP "/cgroup.events", "frozen 1"); tries++) {
        if (tries == 10000)
            return ETIMEDOUT;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return error;
}

int op_resume(void) {
    fault = GROUP;
    return write_to(GROUP "/cgroup.freeze", "0");
}

int op_connect(struct args *args) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)arg_number(args))};
    if (args->bad)
        return EPROTO;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){.tv_sec = 1}, sizeof(struct timeval));
    send_number(connect(fd, (struct sockaddr *)&address, sizeof address) ? (uint64_t)errno : 0);
    close(fd);
    return 0;
}
