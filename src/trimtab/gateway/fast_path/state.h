/* What the fast path keeps: connections of clients, connections to engines, requests in progress. Structures that
 * Python reads or writes are mirrored in `gateway.fast_path`, which compares their sizes when it loads this. */

#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "talk.h"
#include "ledger.h"

enum {
    MOST_HEAD = 32 << 10,               /* of an engine's status line and headers */
    MOST_ANSWER = 64 << 20,             /* of an engine's plain answer */
    MOST_EVENT = 4 << 20,               /* of an event that has not come whole */
    MOST_AHEAD = 64 << 10,              /* a client may send before it is not read from */
    SEGMENTS = 4096,                    /* of the journal that may have open rows at once */
    SCRATCH = 256 << 10,
    DEMANDS = 8,
    BOUNDS = 24,                        /* of a histogram's buckets */
    TOGETHER = 3,                       /* streams that begin with one write to the journal: their first piece is waited for */
    TURNS = 4,                          /* that this loop may have before others have theirs */
    BATCH = 64,                         /* requests for rows that go to an engine together, */
    BATCH_BYTES = 1 << 20,              /* of so many bytes, unless one alone has more */
};
static const double ANNOUNCE_SECONDS = 0.002;
static const double TICK_SECONDS = 0.05;    /* between looks for what is late */
static const double HOLD_SECONDS = 0.0005;  /* that rows wait at most while there is more to read: it may go with them */
enum { HANDED = 1, WRITTEN = 2 };       /* what Python is told */

struct demand {
    int64_t prompt_bytes, longest, input_price, output_price, questions;    /* -1: none */
};

struct cells {                          /* where `gateway.meter` counts */
    int64_t requests, http, duration, first_token, overhead, input, output, attempts;
};

/* What is asked on a route: a chat completion, or rows of an MLflow model: many as they come, or one in `/predict`. */
enum { CHAT, ROWS, ONE_ROW };

/* A version as callers of one route get it; what its requests have in common. */
struct route_spec {
    int64_t asks, place, named, priced, price[4], demanded;
    struct demand demands[DEMANDS];
    struct cells cells;
    double first_byte_seconds, connect_seconds;
    struct span head, messages, row, shown, version, names[3], *params;
    int64_t named_as, params_given;
};

/* A client's head, and who that is. */
struct caller_spec {
    struct span before, after, row, path;
    double patience;
    int64_t until_ms;                   /* of the key; -1: no end */
    struct limits limits;
};

struct bounds {                         /* of a histogram's buckets, rising */
    int64_t known;
    double upper[BOUNDS];
};

struct shared {
    int64_t most_body, behind;          /* Python says once: the limits of `gateway.server` */
    double read_seconds, idle_seconds;
    struct bounds seconds, overhead_seconds;                                /* and those of `gateway.meter` */
    int64_t journal_fd, journal_size, segment, blocked, draining;           /* Python says */
    struct book book;
    double *cells;
    int64_t counted;                    /* the cell of requests answered here */
    int64_t written, touched, connections, in_flight;                       /* Python hears */
    int32_t open_rows[SEGMENTS];
    char date[48];
};

struct side {                           /* what epoll tells of */
    int fd, is_client;
    uint32_t wanted;
};

struct place {
    struct sockaddr_storage address;
    socklen_t address_size;
    int64_t allowed, in_flight, succeeded;
    struct upstream *idle;
    struct upstream *link;              /* the connection that batches of rows go on, one at a time */
    struct request *first, *last;       /* who waits for the next one */
};

struct route {
    struct route_spec spec;
    int64_t users;
    int64_t generation;
};

struct upstream {
    struct side side;
    struct place *place;
    struct upstream *next;              /* idle, or to be freed */
    struct request *request;
    struct buffer in, out;
    size_t sent;
    bool connecting, kept, paused, closed;
    struct request **batch;             /* of a link: whom it is asked for; NULL: nobody waits any more */
    int64_t batched, waited_for, generation;
    size_t head_size;
    /* The answer in progress. */
    int status;
    bool chunked, keep, complete;
    int64_t left;                       /* of the body, or of a chunk */
    enum { SIZE, SKIP, DATA, DATA_END, TRAILER, TRAILER_LINE } chunk;
    int digits;
};

struct request {
    struct client *client;
    struct route *route;
    struct upstream *upstream;
    struct request *behind;             /* in the queue for a batch */
    int64_t batch_at;
    struct asked asked;
    char id[32];
    double at, began, first_byte, engine_seconds, journal_seconds, until, silent_until, closed_at;
    int64_t at_ms, prompt, admitted_ns, segment;
    bool is_reserved, opened, is_closing, done, placed, queued;
    struct reserved reserved;
    struct usage usage;
    struct word text;                   /* of a plain answer, in `data` */
    struct buffer head, data, rest, sent, said;
    bool unread;                        /* there is text in a stream that Python has to read */
    int64_t nano_usd;
    int status;
};

struct client {
    struct side side;
    struct client *previous, *next;
    int64_t id, generation, answered;
    struct caller_spec caller;
    struct route *route;
    struct request *request;
    struct buffer in, more, out;
    size_t body_at, out_at;
    double expires;
    bool reading, gone, closing, dead;
};

struct handed {
    int64_t kind, id, fd, requested, status, complete, lost, kept, silent, error, done, started,
        answered;
    struct span unread, unsent, request_id, body, head, data, sent, rest;
    double at, began, first_byte, engine_seconds, journal_seconds, until;
    int64_t at_ms, prompt, admitted_ns, segment, is_reserved;
    struct reserved reserved;
    struct usage usage;
};

enum { DEMOTED, ENDED, HEARD, LATE, CANCELLED, CUT };

struct handing {
    struct handed told;
    struct client *client;
    struct request *request;
    struct handing *next;
};

struct fast_path {
    struct shared *shared;
    int poll;
    bool others;                        /* Python's event loop has something to do */
    int64_t generation, ids;
    struct client *clients;
    struct upstream *dead_upstreams;
    struct place **places;
    int64_t placed;
    struct handing *first, *last, *current;
    struct request **acts;
    size_t acting, acts_room;
    int streams;                        /* that are about to begin */
    double ticked;                      /* when it was looked last */
    double queued;                      /* since when there are rows that could be sent; 0: there are none */
    struct buffer journal, body;
    char random[4096], scratch[SCRATCH];
    size_t random_left;
};

static double now_seconds(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static int64_t epoch_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

/* `recv` and `sendmsg` without glibc's points of cancellation, which cost atomic operations once a process has threads;
 * nobody cancels one here. */
static ssize_t receive(int fd, void *to, size_t size) { return syscall(SYS_recvfrom, fd, to, size, 0, NULL, NULL); }

static ssize_t transmit(int fd, const struct msghdr *message) {
    return syscall(SYS_sendmsg, fd, message, MSG_NOSIGNAL);
}

static void *fresh(size_t size) {
    void *made = calloc(1, size);
    if (!made) abort();
    return made;
}

static void want(struct fast_path *f, struct side *side, uint32_t events) {
    if (side->wanted == events) return;
    struct epoll_event event = {.events = events, .data.ptr = side};
    epoll_ctl(f->poll, side->wanted ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, side->fd, &event);
    side->wanted = events;
}

/* What is to be done once the journal has its row. */
static void act_later(struct fast_path *f, struct request *q) {
    if (f->acting == f->acts_room) {
        f->acts_room = f->acts_room ? 2 * f->acts_room : 64;
        f->acts = realloc(f->acts, f->acts_room * sizeof *f->acts);
        if (!f->acts) abort();
    }
    f->acts[f->acting++] = q;
}

static void new_id(struct fast_path *f, char *id) {
    static const char hex[] = "0123456789abcdef";
    if (!f->random_left) {
        size_t got = 0;
        while (got < sizeof f->random) {
            ssize_t more = getrandom(f->random + got, sizeof f->random - got, 0);
            if (more > 0) got += (size_t)more;
            else if (errno != EINTR) abort();
        }
        f->random_left = sizeof f->random / 16;
    }
    const unsigned char *from = (unsigned char *)f->random + 16 * --f->random_left;
    for (int i = 0; i < 16; i++) id[2 * i] = hex[from[i] >> 4], id[2 * i + 1] = hex[from[i] & 15];
}

static void drop_route(struct route *route) {
    if (--route->users) return;
    free((char *)route->spec.head.at);
    free((char *)route->spec.messages.at);
    free((char *)route->spec.row.at);
    free((char *)route->spec.shown.at);
    free((char *)route->spec.version.at);
    for (int i = 0; i < 3; i++) free((char *)route->spec.names[i].at);
    for (int64_t i = 0; i < 2 * route->spec.params_given; i++) free((char *)route->spec.params[i].at);
    free(route->spec.params);
    free(route);
}

static void free_request(struct request *q) {
    drop_route(q->route);
    let_go(&q->asked.messages);
    let_go(&q->head);
    let_go(&q->data);
    let_go(&q->rest);
    let_go(&q->sent);
    let_go(&q->said);
    free(q);
}

static void free_client(struct client *c) {
    drop_route(c->route);
    free((char *)c->caller.before.at);
    free((char *)c->caller.after.at);
    free((char *)c->caller.row.at);
    free((char *)c->caller.path.at);
    let_go(&c->in);
    let_go(&c->more);
    let_go(&c->out);
    free(c);
}

/* Take a client off the lists, so that nothing more is heard of it here. Its memory stays until the poll is over. */
static void unlink_client(struct fast_path *f, struct client *c) {
    if (c->previous) c->previous->next = c->next;
    else f->clients = c->next;
    if (c->next) c->next->previous = c->previous;
    c->dead = true;
    f->shared->connections--;
}

/* Give a client to Python: with its connection, if it has one still, and with the request in progress, if there is. */
static struct handed *hand(struct fast_path *f, int kind, struct client *c) {
    struct handing *one = fresh(sizeof *one);
    struct request *q = c->request;
    struct handed *told = &one->told;
    one->client = c, one->request = q;
    if (c->side.wanted) epoll_ctl(f->poll, EPOLL_CTL_DEL, c->side.fd, NULL);
    if (kind == ENDED || kind == CANCELLED) {
        close(c->side.fd);
        c->side.fd = -1;
    }
    unlink_client(f, c);
    told->kind = kind, told->id = c->id, told->fd = c->side.fd, told->answered = c->answered;
    if (!q || !q->opened) {             /* Python reads the request again, from its first byte */
        put(&c->in, c->more.at, c->more.size);
        told->unread = span_of(&c->in);
    } else {
        told->unread = span_of(&c->more);
        told->requested = 1;
        told->request_id = (struct span){q->id, 32};
        told->body = (struct span){c->in.at + c->body_at, (int64_t)(c->in.size - c->body_at)};
        told->head = span_of(&q->head), told->data = span_of(&q->data);
        told->sent = span_of(&q->sent), told->rest = span_of(&q->rest);
        told->done = q->done, told->started = q->sent.size > 0, told->status = q->status;
        told->at = q->at, told->began = q->began, told->first_byte = q->first_byte;
        told->engine_seconds = q->engine_seconds, told->journal_seconds = q->journal_seconds, told->until = q->until;
        told->at_ms = q->at_ms, told->prompt = q->prompt, told->admitted_ns = q->admitted_ns;
        told->segment = q->segment, told->is_reserved = q->is_reserved, told->reserved = q->reserved;
        told->usage = q->usage;
        f->shared->open_rows[q->segment % SEGMENTS]--;
    }
    if (q) f->shared->in_flight--;
    told->unsent = (struct span){c->out.at + c->out_at, (int64_t)(c->out.size - c->out_at)};
    if (f->last) f->last->next = one;
    else f->first = one;
    f->last = one;
    return told;
}
