/* Progress with an estimate of the time left: what is done so far took so long, the rest will take
 * as long in proportion. One process runs one command, so the state is one. */
#include "cli/progress.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HIDDEN, LINES, TERMINAL };

static const double least_seconds[] = {[HIDDEN] = 0, [LINES] = 10, [TERMINAL] = 0.1};

static volatile sig_atomic_t cancelled;

static struct {
    int form, drawn;
    char label[64];
    const char *followed; /* NULL: all */
    int32_t rounds, round;
    int64_t done;
    double began, shown;
} now = {.rounds = 1};

static void ask_to_stop(int number) {
    (void)number;
    cancelled = 1;
}

void progress_catch_signals(void) {
    struct sigaction action = {.sa_handler = ask_to_stop, .sa_flags = SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int progress_is_cancelled(void) { return cancelled != 0; }

double progress_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

void progress_show(void) { now.form = isatty(STDERR_FILENO) ? TERMINAL : LINES; }

void progress_hide(void) {
    progress_clear();
    now.form = HIDDEN;
}

void progress_stage(const char *label, int32_t rounds) {
    progress_clear();
    snprintf(now.label, sizeof now.label, "%s", label ? label : "");
    now.followed = NULL;
    now.rounds = rounds > 0 ? rounds : 1;
    now.round = 0;
    now.done = 0;
    now.began = now.shown = progress_seconds();
}

void progress_follow(const char *stage) { now.followed = stage; }

void progress_clear(void) {
    if (now.drawn) fputs("\r\033[K", stderr);
    now.drawn = 0;
}

/* "58 s", "4:07", "1:02:03". */
static void format_time(char *text, size_t room, double seconds) {
    long s = (long)(seconds + 0.5);
    if (s < 60)
        snprintf(text, room, "%ld s", s);
    else if (s < 3600)
        snprintf(text, room, "%ld:%02ld", s / 60, s % 60);
    else
        snprintf(text, room, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

static void draw(const char *stage, double share, double elapsed) {
    char spent[32], left[32];
    format_time(spent, sizeof spent, elapsed);
    format_time(left, sizeof left, share > 0 ? elapsed / share - elapsed : 0);
    const char *begin = now.form == TERMINAL ? "\r\033[K" : "lowrank: ";
    if (share > 0)
        fprintf(stderr, "%s%s %3d %%, %s, %s left", begin, stage, (int)(share * 100), spent, left);
    else
        fprintf(stderr, "%s%s, %s", begin, stage, spent);
    if (now.form == LINES) fputc('\n', stderr);
    fflush(stderr);
    now.drawn = now.form == TERMINAL;
}

int32_t progress_report(const char *stage, int64_t done, int64_t total, void *user) {
    (void)user;
    double time = progress_seconds();
    if (now.followed && strcmp(stage, now.followed)) return progress_is_cancelled();
    if (done < now.done && now.round < now.rounds - 1) now.round++;
    now.done = done;
    if (now.form != HIDDEN && time - now.shown >= least_seconds[now.form]) {
        double share = total > 0 ? (now.round + (double)done / (double)total) / now.rounds : 0;
        draw(now.label[0] ? now.label : stage, share < 1 ? share : 1, time - now.began);
        now.shown = time;
    }
    return progress_is_cancelled();
}
