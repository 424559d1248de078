/* The clock: set once, or held at one second while the step runs.
 *
 * Linux has no CLOCK_REALTIME that stands still. A process sets it back, again and again, on the monotonic clock, which
 * goes on: sleeps and timeouts take their time. It belongs to the agent's PID namespace, where no step sees it, and
 * has a real-time priority, so that nothing of a step keeps it from running. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_NS 20000000L
#define PRIORITY 50

static pid_t keeper;

static _Noreturn void keep(const struct timespec *now) {
    struct timespec next;
    mlockall(MCL_CURRENT | MCL_FUTURE);
    /* of musl's own function nothing is there but the name */
    if (syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &(struct sched_param){.sched_priority = PRIORITY}))
        die("the priority of the clock's keeper");
    for (;;) {
        if (clock_settime(CLOCK_REALTIME, now))
            die("the clock");
        /* from now, not from when it should have been: one that is late does not catch up */
        clock_gettime(CLOCK_MONOTONIC, &next);
        next.tv_nsec += PERIOD_NS;
        if (next.tv_nsec >= 1000000000L) {
            next.tv_nsec -= 1000000000L;
            next.tv_sec++;
        }
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR)
            ;
    }
}

int op_set_clock(struct args *args) {
    struct timespec now = {.tv_sec = (time_t)arg_number(args)};
    now.tv_nsec = (long)arg_number(args);
    if (args->bad)
        return EPROTO;
    fault = "the clock";
    return clock_settime(CLOCK_REALTIME, &now) ? errno : 0;
}

int op_hold_clock(struct args *args) {
    struct timespec now = {.tv_sec = (time_t)arg_number(args)};
    if (args->bad)
        return EPROTO;
    fault = "the clock";
    if (keeper)
        return EBUSY;
    if (clock_settime(CLOCK_REALTIME, &now))
        return errno;
    pid_t pid = fork();
    if (pid < 0)
        return errno;
    if (!pid)
        keep(&now);
    keeper = pid;
    return 0;
}

void clock_mourn(pid_t pid) {
    if (keeper && pid == keeper) {
        errno = ESRCH;
        die("the clock's keeper is gone");
    }
}
