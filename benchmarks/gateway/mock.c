/* The upstream of the benchmark: an OpenAI-compatible server that costs next to nothing and answers always the same.
 *
 * One thread, one epoll. A plain request gets one JSON completion of about 800 bytes. A request with "stream":true gets
 * server-sent events: as many as its text asks for with `chunks=N` (100), all at once or, with `pace=MICROSECONDS`, one
 * at a time. It takes bodies with Content-Length and chunked ones. GET gets a list of models.
 *
 * mock [PORT]   prints {"address": "127.0.0.1:PORT"} when it listens; 0 or nothing takes any free port.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IN = 1 << 18, CONNECTIONS = 4096, EVENT = 512 };

struct connection {
    char in[IN];
    int have;                                   /* bytes in `in` */
    int left;                                   /* events of a paced stream that are still to be sent */
    int usage;                                  /* whether the stream ends with a usage event */
    long pace, due;                             /* microseconds */
};

static struct connection *connections[CONNECTIONS];
static int paced;                               /* connections with a paced stream in progress */
static char answer[2048], *burst_cache[2];
static int answer_size, burst_size[2], burst_events = -1;

static long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000L + at.tv_nsec / 1000;
}

static void say(int fd, const char *data, int size) {
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return;
            usleep(50);
            continue;
        }
        data += sent, size -= sent;
    }
}

static const char *HEAD =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

/* One event as one HTTP chunk; kinds: 0 a piece of text, 1 the finish, 2 the usage, 3 [DONE] and the end. */
static int event(char *to, int kind) {
    static const char *front =
        "{\"id\":\"chatcmpl-9f0c2a7be1d44f6d8a55\",\"object\":\"chat.completion.chunk\",\"created\":1763800000,"
        "\"model\":\"mock\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0f1e2d3c4b\",";
    char body[EVENT];
    int size;
    if (kind == 0)
        size = sprintf(body, "data: %s\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"logprobs\":null,"
                             "\"finish_reason\":null}]}\n\n", front);
    else if (kind == 1)
        size = sprintf(body, "data: %s\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", front);
    else if (kind == 2)
        size = sprintf(body, "data: %s\"choices\":[],\"usage\":{\"prompt_tokens\":90,\"completion_tokens\":100,"
                             "\"total_tokens\":190}}\n\n", front);
    else
        size = sprintf(body, "data: [DONE]\n\n");
    return sprintf(to, "%x\r\n%.*s\r\n%s", size, size, body, kind == 3 ? "0\r\n\r\n" : "");
}

static int ending(char *to, int usage) {
    int size = event(to, 1);
    if (usage) size += event(to + size, 2);
    return size + event(to + size, 3);
}

static void burst(int fd, int events, int usage) {
    if (events != burst_events) {
        for (int with = 0; with < 2; with++) {
            burst_cache[with] = realloc(burst_cache[with], (events + 8) * EVENT);
            int size = sprintf(burst_cache[with], "%s", HEAD);
            for (int i = 0; i < events; i++) size += event(burst_cache[with] + size, 0);
            burst_size[with] = size + ending(burst_cache[with] + size, with);
        }
        burst_events = events;
    }
    say(fd, burst_cache[usage], burst_size[usage]);
}

static long asked(const char *body, int size, const char *word, long otherwise) {
    char *found = memmem(body, size, word, strlen(word));
    return found ? strtol(found + strlen(word), NULL, 10) : otherwise;
}

static int has(const char *body, int size, const char *word) { return memmem(body, size, word, strlen(word)) != NULL; }

static void reply(int fd, struct connection *one, const char *body, int size, int get) {
    if (get) {
        static const char *models =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 69\r\n\r\n"
            "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"created\":0}]}";
        say(fd, models, strlen(models));
    } else if (!has(body, size, "\"stream\":true") && !has(body, size, "\"stream\": true")) {
        say(fd, answer, answer_size);
    } else {
        int events = asked(body, size, "chunks=", 100);
        int usage = has(body, size, "\"include_usage\":true") || has(body, size, "\"include_usage\": true");
        one->pace = asked(body, size, "pace=", 0);
        if (!one->pace) {
            burst(fd, events, usage);
            return;
        }
        char first[1024 + EVENT];
        int length = sprintf(first, "%s", HEAD);
        length += event(first + length, 0);
        say(fd, first, length);
        one->left = events - 1, one->usage = usage, one->due = now() + one->pace;
        paced++;
    }
}

/* Where the first whole request ends, or 0. */
static int request(struct connection *one, int *body, int *size, int *get) {
    char *end = memmem(one->in, one->have, "\r\n\r\n", 4);
    if (!end) return 0;
    *body = end + 4 - one->in;
    *get = !strncmp(one->in, "GET ", 4);
    long length = 0;
    int chunked = 0;
    for (char *line = one->in; line < end; line = (char *)memmem(line, end + 2 - line, "\r\n", 2) + 2) {
        if (!strncasecmp(line, "content-length:", 15)) length = strtol(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) chunked = 1;
    }
    if (!chunked) {
        *size = length;
        return *body + length <= one->have ? *body + length : 0;
    }
    char *last = memmem(one->in + *body - 2, one->have - *body + 2, "\r\n0\r\n\r\n", 7);
    if (!last) return 0;
    *size = last - one->in - *body;
    return last + 7 - one->in;
}

static void gone(int fd) {
    if (connections[fd]->left) paced--;
    free(connections[fd]);
    connections[fd] = NULL;
    close(fd);
}

static void heard(int fd) {
    struct connection *one = connections[fd];
    ssize_t got = recv(fd, one->in + one->have, IN - one->have, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) gone(fd);
        return;
    }
    one->have += got;
    int body, size, get, end;
    while ((end = request(one, &body, &size, &get))) {
        reply(fd, one, one->in + body, size, get);
        memmove(one->in, one->in + end, one->have - end);
        one->have -= end;
    }
    if (one->have == IN) gone(fd);
}

/* Send what is due; returns milliseconds until the next event, or -1. */
static int pace(void) {
    if (!paced) return -1;
    long at = now(), next = at + 1000000;
    char data[4 * EVENT];
    for (int fd = 0; fd < CONNECTIONS; fd++) {
        struct connection *one = connections[fd];
        if (!one || !one->left) continue;
        if (one->due <= at) {
            say(fd, data, event(data, 0));
            one->due += one->pace;
            if (!--one->left) {
                say(fd, data, ending(data, one->usage));
                paced--;
                continue;
            }
        }
        if (one->due < next) next = one->due;
    }
    return paced ? (next <= at ? 0 : (next - at + 999) / 1000) : -1;
}

int main(int argc, char **argv) {
    static const char *text =
        "The order left the warehouse on Tuesday evening and should reach you within two working days. If it has not "
        "arrived by Friday noon, answer this message and we will send another one at our own cost, or refund it, "
        "whichever you prefer. We are sorry for the delay and thank you for your patience.";
    char body[1536];
    int size = sprintf(body,
        "{\"id\":\"chatcmpl-9f0c2a7be1d44f6d8a55\",\"object\":\"chat.completion\",\"created\":1763800000,\"model\":\"mock\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\",\"refusal\":null},\"logprobs\":null,"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":90,\"completion_tokens\":62,\"total_tokens\":152,"
        "\"prompt_tokens_details\":{\"cached_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0}},"
        "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0f1e2d3c4b\"}", text);
    answer_size = sprintf(answer, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", size, body);
    signal(SIGPIPE, SIG_IGN);

    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024)) return perror("mock"), 1;
    getsockname(listener, (void *)&address, &length);
    struct epoll_event want = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &want);
    printf("{\"address\": \"127.0.0.1:%d\"}\n", ntohs(address.sin_port));
    fflush(stdout);

    for (int wait = -1;; wait = pace()) {
        int count = epoll_wait(poll, events, 256, wait);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (connections[fd]) heard(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                if (fd >= CONNECTIONS) {
                    close(fd);
                    continue;
                }
                connections[fd] = malloc(sizeof *connections[fd]);
                connections[fd]->have = connections[fd]->left = 0;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                want.data.fd = fd;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &want);
            }
        }
    }
}
