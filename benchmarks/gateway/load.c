/* The load of the benchmark: a fixed number of requests over some kept-alive connections, each as soon as the last one
 * on its connection is answered; it sees the time to the first byte of a body and to the last.
 *
 * load ADDRESS CONNECTIONS REQUESTS FILE   FILE holds one whole request, head and body, sent as it is.
 * Prints one JSON object: requests, errors (answers that are not 200, broken ones), seconds, and microseconds at the
 * 50th, 90th and 99th percentile to the first byte of the body (`first`) and to its end (`whole`).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 1 << 14 };
enum state { IN_HEAD, SIZED, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, UNTIL_CLOSE };

struct connection {
    int fd, status, close, have, line;
    long left;                                  /* bytes of the body, or of the chunk, that are still to come */
    double sent, first;
    enum state state;
    char head[HEAD];
};

static struct sockaddr_in address;
static char *request;
static long request_size, asked, wanted, done, errors;
static double *firsts, *wholes;
static int poll, counted;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

static void give_up(const char *why) {
    fprintf(stderr, "load: %s: %s\n", why, strerror(errno));
    exit(1);
}

static void dial(struct connection *one) {
    int on = 1;
    one->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(one->fd, (void *)&address, sizeof address)) give_up("cannot connect");
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event want = {.events = EPOLLIN, .data.ptr = one};
    epoll_ctl(poll, EPOLL_CTL_ADD, one->fd, &want);
}

static void ask(struct connection *one) {
    if (asked == wanted) return;
    asked++;
    one->state = IN_HEAD, one->have = one->status = one->close = 0, one->first = 0, one->sent = now();
    for (long at = 0; at < request_size;) {
        ssize_t sent = send(one->fd, request + at, request_size - at, MSG_NOSIGNAL);
        if (sent < 0) break;                    /* the read that follows sees why */
        at += sent;
    }
}

static void answered(struct connection *one, int good) {
    double at = now();
    done++;
    if (good && one->status == 200) {
        firsts[counted] = one->first - one->sent, wholes[counted++] = at - one->sent;
    } else {
        errors++;
    }
    if (!good || one->close) {
        close(one->fd);
        dial(one);
    }
    ask(one);
}

/* Read the head, once it is whole; returns how many of the new bytes belong to it, or -1 when it is not whole. */
static long head(struct connection *one, const char *data, long size) {
    long take = size < HEAD - 1 - one->have ? size : HEAD - 1 - one->have, before = one->have;
    memcpy(one->head + one->have, data, take);
    one->have += take;
    one->head[one->have] = 0;
    char *end = strstr(one->head, "\r\n\r\n");
    if (!end) return -1;
    one->status = atoi(one->head + 9);
    one->state = UNTIL_CLOSE;
    for (char *line = one->head; line < end; line = strstr(line, "\r\n") + 2) {
        if (!strncasecmp(line, "content-length:", 15)) one->state = SIZED, one->left = atol(line + 15);
        if (!strncasecmp(line, "transfer-encoding:", 18)) one->state = CHUNK_SIZE, one->left = one->line = 0;
        if (!strncasecmp(line, "connection: close", 17)) one->close = 1;
    }
    return end + 4 - one->head - before;
}

/* Take bytes; returns 1 when the answer is whole. */
static int take(struct connection *one, const char *data, long size) {
    if (one->state == IN_HEAD) {
        long used = head(one, data, size);
        if (used < 0) return 0;
        data += used, size -= used;
        if (one->state == SIZED && !one->left) return one->first = now(), 1;
    }
    if (size && !one->first) one->first = now();
    while (size) {
        if (one->state == UNTIL_CLOSE) return 0;
        if (one->state == SIZED || one->state == CHUNK) {
            long part = size < one->left ? size : one->left;
            data += part, size -= part, one->left -= part;
            if (one->left) return 0;
            if (one->state == SIZED) return 1;
            one->state = CHUNK_END;
            continue;
        }
        char byte = *data++;
        size--;
        if (one->state == CHUNK_SIZE) {
            int digit = byte >= '0' && byte <= '9' ? byte - '0' : (byte | 32) >= 'a' && (byte | 32) <= 'f' ? (byte | 32) - 'a' + 10 : -1;
            if (digit >= 0) one->left = one->left * 16 + digit;
            if (byte == '\n') one->state = one->left ? CHUNK : TRAILER, one->line = 0;
        } else if (one->state == CHUNK_END) {
            if (byte == '\n') one->state = CHUNK_SIZE, one->left = 0;
        } else if (byte == '\n') {              /* TRAILER */
            if (!one->line) return 1;
            one->line = 0;
        } else if (byte != '\r') {
            one->line++;
        }
    }
    return 0;
}

static void heard(struct connection *one) {
    static char data[1 << 16];
    ssize_t size = recv(one->fd, data, sizeof data, 0);
    if (size > 0) {
        if (take(one, data, size)) answered(one, 1);
        return;
    }
    int whole = size == 0 && one->state == UNTIL_CLOSE;
    one->close = 1;
    answered(one, whole);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void percentiles(const char *name, double *times) {
    qsort(times, counted, sizeof *times, ascending);
    if (!counted) return;
    printf(", \"%s\": {\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f}", name, times[counted / 2],
           times[(long)(counted * 0.9)], times[(long)(counted * 0.99)]);
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "load ADDRESS CONNECTIONS REQUESTS FILE\n"), 2;
    char *colon = strrchr(argv[1], ':');
    *colon = 0;
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    int count = atoi(argv[2]);
    wanted = atol(argv[3]);
    FILE *file = fopen(argv[4], "rb");
    if (!file) give_up(argv[4]);
    request = malloc(1 << 22);
    request_size = fread(request, 1, 1 << 22, file);
    firsts = malloc(wanted * sizeof *firsts), wholes = malloc(wanted * sizeof *wholes);
    signal(SIGPIPE, SIG_IGN);
    poll = epoll_create1(0);
    struct connection *all = calloc(count, sizeof *all);
    double begun = now();
    for (int i = 0; i < count && i < wanted; i++) dial(all + i), ask(all + i);
    struct epoll_event events[256];
    while (done < wanted) {
        int ready = epoll_wait(poll, events, 256, 60000);
        if (ready == 0) give_up("nothing came for a minute");
        for (int i = 0; i < ready; i++) heard(events[i].data.ptr);
    }
    double seconds = (now() - begun) / 1e6;
    printf("{\"requests\": %ld, \"errors\": %ld, \"seconds\": %.6f", done, errors, seconds);
    percentiles("first", firsts);
    percentiles("whole", wholes);
    printf("}\n");
}
