/* Bytes per second at which THREADS threads read a mapped file that is in memory: the limit of
 * decoding, which touches every weight once a token. The fastest of some passes.
 *     read FILE THREADS */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 6, MOST_THREADS = 64, LANES = 32 };

typedef struct part {
    const uint64_t *data;
    size_t count;
    uint64_t sum;
} part;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *add_up(void *argument) {
    part *p = argument;
    uint64_t sums[LANES] = {0};
    for (size_t i = 0; i + LANES <= p->count; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++) sums[lane] += p->data[i + lane];
    for (size_t lane = 0; lane < LANES; lane++) p->sum += sums[lane];
    return NULL;
}

static double pass(part *parts, int threads) {
    pthread_t handles[MOST_THREADS];
    double start = now();
    for (int i = 1; i < threads; i++)
        if (pthread_create(&handles[i], NULL, add_up, &parts[i])) exit(1);
    add_up(&parts[0]);
    for (int i = 1; i < threads; i++) pthread_join(handles[i], NULL);
    return now() - start;
}

int main(int argc, char **argv) {
    struct stat st;
    part parts[MOST_THREADS] = {{0}};
    double best = 0;
    int threads = argc == 3 ? atoi(argv[2]) : 0, fd = argc == 3 ? open(argv[1], O_RDONLY) : -1;
    if (threads < 1 || threads > MOST_THREADS || fd < 0 || fstat(fd, &st)) return 2;
    const char *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) return 1;
    size_t each = (size_t)st.st_size / (size_t)threads / 64 * 64;
    for (int i = 0; i < threads; i++) {
        parts[i].data = (const uint64_t *)(const void *)(data + (size_t)i * each);
        parts[i].count = each / sizeof(uint64_t);
    }
    for (int round = 0; round < ROUNDS; round++) {
        double seconds = pass(parts, threads);
        if (best == 0 || seconds < best) best = seconds;
    }
    fprintf(stderr, "sum %llx\n", (unsigned long long)parts[0].sum); /* it must be made */
    printf("%.6g\n", (double)(each * (size_t)threads) / best);
    return 0;
}
