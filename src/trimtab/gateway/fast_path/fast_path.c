/* The fast path: plain chat completions between clients and engines without a line of Python.
 *
 * Python accepts a connection and answers its first requests. When they are plain, it lends the connection to this
 * loop (`fast_adopt`), with the head that its requests have. A request whose head is that one byte for byte, and whose
 * body is a plain chat completion, or rows for an MLflow model, is answered here: limits reserved, row opened in the journal, engine asked, row
 * closed, limits settled, everything counted. Anything else is handed back (`fast_next`), with every byte and all that
 * was done so far: another head, another body, a version that is not routed any more, an engine that fails, a client
 * that hangs up. So no decision is made twice, and no request is understood in two ways.
 *
 * One thread, one epoll, which Python's event loop watches: `fast_poll` does what there is to do and returns. What a
 * poll brings is written to the journal at once, and only then does any of it leave: to engines, or to clients.
 */
#include "batches.h"

static void look(struct fast_path *f, struct client *c);

static size_t unread(const struct client *c) { return c->out.size - c->out_at; }

static void want_client(struct fast_path *f, struct client *c) {
    size_t ahead = c->request ? c->more.size : unread(c) ? c->in.size : 0;
    uint32_t events = ahead < MOST_AHEAD && !c->closing ? EPOLLIN | EPOLLRDHUP : EPOLLRDHUP;
    want(f, &c->side, unread(c) ? events | EPOLLOUT : events);
}

/* Send to a client, or keep what it does not take. To one that is gone it is lost: epoll tells of that. */
static void write_client(struct fast_path *f, struct client *c, const struct iovec *parts, int count) {
    size_t size = 0, sent = 0;
    for (int i = 0; i < count; i++) size += parts[i].iov_len;
    if (!unread(c)) {
        struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
        ssize_t more = transmit(c->side.fd, &message);
        if (more >= 0) sent = (size_t)more;
        else if (errno != EAGAIN && errno != EINTR) return;
        if (sent == size) return;
        c->out.size = c->out_at = 0;
    }
    for (int i = 0; i < count; i++) {
        size_t skipped = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        put(&c->out, (char *)parts[i].iov_base + skipped, parts[i].iov_len - skipped);
        sent -= skipped;
    }
    want_client(f, c);
}

static void end_client(struct fast_path *f, struct client *c) { hand(f, ENDED, c); }

/* The client hung up. */
static void client_gone(struct fast_path *f, struct client *c) {
    struct request *q = c->request;
    if (!q) {
        end_client(f, c);
    } else if (q->is_closing || !q->began) {    /* the journal comes first: see `flush` */
        c->gone = true;
        want(f, &c->side, EPOLLPRI);
    } else {
        release(f, q);
        hand(f, CANCELLED, c);
    }
}

/* Make room for what the client sent behind the request that was answered. */
static void next_request(struct fast_path *f, struct client *c) {
    struct buffer empty = c->in;
    empty.size = 0;
    if (empty.room > 4096) let_go(&empty);
    c->in = c->more, c->more = empty;
    if (c->closing || f->shared->draining) {
        c->closing = true;
        if (!unread(c)) end_client(f, c);
        return;
    }
    want_client(f, c);
    if (c->in.size && !unread(c)) look(f, c);
}

/* The row is closed: settle, count, and send the answer's end. */
static void answer(struct fast_path *f, struct request *q) {
    struct client *c = q->client;
    char chunk[32], type[] = "application/json";
    struct buffer head = {0};
    count_closed(f, q);
    f->shared->open_rows[q->segment % SEGMENTS]--;
    f->shared->in_flight--;
    c->answered++;
    if (c->gone) {
        c->request = NULL;
        free_request(q);
        end_client(f, c);
        return;
    }
    if (q->asked.stream) {
        struct iovec parts[] = {{chunk, (size_t)sprintf(chunk, "%zx\r\n%s\r\n0\r\n\r\n", sizeof DONE - 1, DONE)}};
        write_client(f, c, parts, 1);
    } else {
        put_answer_head(f, &head, q, type);
        put_text(&head, "content-length: ");
        put_number(&head, (int64_t)q->data.size);
        put_text(&head, "\r\n\r\n");
        struct iovec parts[] = {{head.at, head.size}, {q->data.at, q->data.size}};
        write_client(f, c, parts, 2);
        let_go(&head);
    }
    c->request = NULL;
    free_request(q);
    c->expires = now_seconds() + (unread(c) > (size_t)f->shared->behind ? f->shared->read_seconds : f->shared->idle_seconds);
    next_request(f, c);
}

/* Nothing was asked: nothing is used. */
static void give_back(struct fast_path *f, struct request *q) {
    if (!q->is_reserved) return;
    settle(&f->shared->book, &q->client->caller.limits, &q->reserved, epoch_ns(), 0, 0);
    q->is_reserved = false;
}

/* Write the rows of what was done to the journal, and do what had to wait for that. */
static void flush(struct fast_path *f) {
    f->streams = 0;
    while (f->acting) {
        size_t count = f->acting;
        struct request **acts = f->acts;
        f->acts = NULL, f->acting = f->acts_room = 0;
        double begun = now_seconds();
        bool written = write_journal(f);
        double took = now_seconds() - begun;
        for (size_t i = 0; i < count; i++) {
            struct request *q = acts[i];
            q->journal_seconds += took;
            if (q->is_closing) {
                q->is_closing = false;
                if (written) {
                    answer(f, q);
                } else {                /* Python says so, and keeps the row until the journal takes it */
                    struct handed *told = hand(f, HEARD, q->client);
                    told->complete = 1;
                }
            } else if (!written) {
                give_back(f, q);
                release(f, q);
                hand(f, DEMOTED, q->client);
            } else {
                q->opened = true, q->segment = f->shared->segment;
                f->shared->open_rows[q->segment % SEGMENTS]++;
                if (q->client->gone) {
                    release(f, q);
                    hand(f, CANCELLED, q->client);
                } else if (q->route->spec.asks == CHAT) {
                    ask(f, q);
                } else {
                    queue_up(f, q);
                }
            }
        }
        free(acts);
    }
}

static bool reserve_for(struct fast_path *f, struct request *q) {
    const struct limits *limits = &q->client->caller.limits;
    const struct route_spec *route = &q->route->spec;
    int64_t size = (int64_t)(q->client->in.size - q->client->body_at), prompt = 0, tokens = 0, nano_usd = 0;
    q->prompt = size / 4;
    if (!limits->limited) return true;
    for (int64_t i = 0; route->asks == CHAT && i < route->demanded; i++) {  /* rows have no tokens */
        const struct demand *demand = &route->demands[i];
        int64_t text = (size + demand->prompt_bytes) * demand->questions;
        int64_t longest = q->asked.max_tokens >= 0 ? q->asked.max_tokens : demand->longest;
        int64_t said = longest * demand->questions;
        if (demand->input_price >= 0) {
            int64_t cost = text * demand->input_price + said * demand->output_price;
            if (cost > nano_usd) nano_usd = cost;
        } else if (limits->budgets[0].per >= 0) {
            return false;
        }
        if (text / 4 > prompt) prompt = text / 4;
        if (text / 4 + said > tokens) tokens = text / 4 + said;
    }
    q->prompt = prompt;
    q->reserved.tokens = tokens, q->reserved.nano_usd = nano_usd;
    q->admitted_ns = epoch_ns();
    q->is_reserved = reserve(&f->shared->book, limits, q->admitted_ns, &q->reserved);
    f->shared->touched = 1;
    return q->is_reserved;
}

static bool names_us(const struct route_spec *route, const struct word *model) {
    if (!model->at) return true;
    for (int64_t i = 0; i < route->named_as; i++)
        if ((size_t)route->names[i].size == model->size && !memcmp(route->names[i].at, model->at, model->size))
            return true;
    return false;
}

/* Read what is asked. False: it is not plain, or not for us. */
static bool read_question(struct request *q) {
    const struct client *c = q->client;
    const char *body = c->in.at + c->body_at;
    size_t size = c->in.size - c->body_at;
    const struct route_spec *route = &q->route->spec;
    if (route->asks == CHAT) return read_asked(body, size, &q->asked) && names_us(route, &q->asked.model);
    return route->asks == ROWS ? read_rows(body, size) : read_row(body, size, &q->asked.row);
}

/* Take a place at the engine. False: there is no connection. */
static bool take_place(struct fast_path *f, struct request *q, struct place *place) {
    if (q->route->spec.asks != CHAT) {
        q->placed = true;
        place->in_flight++;
        return true;
    }
    q->upstream = connection_to(f, place);
    if (q->upstream) q->upstream->request = q;
    return q->upstream != NULL;
}

/* Begin a request that is whole. False: it is Python's, and nothing was done for it. */
static bool begin(struct fast_path *f, struct client *c) {
    struct place *place = f->places[c->route->spec.place];
    if (f->shared->blocked || c->generation != f->generation || place->in_flight >= place->allowed) return false;
    if (c->caller.until_ms >= 0 && epoch_ns() / 1000000 >= c->caller.until_ms) return false;
    struct request *q = fresh(sizeof *q);
    q->client = c, q->route = c->route, q->usage = NOT_COUNTED;
    q->route->users++;
    q->at = now_seconds(), q->at_ms = epoch_ns() / 1000000;
    q->until = q->at + c->caller.patience;
    if (!read_question(q) || !reserve_for(f, q) || !take_place(f, q, place)) {
        give_back(f, q);
        free_request(q);
        return false;
    }
    new_id(f, q->id);
    c->request = q;
    f->shared->in_flight++;
    f->streams += q->asked.stream;
    write_opened(f, q);
    act_later(f, q);
    return true;
}

/* What a client has sent: a whole request with the head that is known, the beginning of one, or something else. */
static void look(struct fast_path *f, struct client *c) {
    const struct span *before = &c->caller.before, *after = &c->caller.after;
    size_t at = (size_t)before->size, size = 0, digits = 0;
    bool same = c->in.size > at && !memcmp(c->in.at, before->at, at);
    while (same && at < c->in.size && digits < 8 && c->in.at[at] >= '0' && c->in.at[at] <= '9') {
        size = 10 * size + (size_t)(c->in.at[at++] - '0');
        digits++;
    }
    same = same && digits && size <= (size_t)f->shared->most_body && c->in.size - at >= (size_t)after->size;
    if (same && !memcmp(c->in.at + at, after->at, (size_t)after->size)) {
        c->body_at = at + (size_t)after->size;
        size_t end = c->body_at + size;
        if (c->in.size < end) {
            if (!c->reading) c->expires = now_seconds() + f->shared->read_seconds;
            c->reading = true;
            return;
        }
        if (c->in.size > end) {
            put(&c->more, c->in.at + end, c->in.size - end);
            c->in.size = end;
        }
        c->reading = false;
        if (begin(f, c)) return;
    }
    hand(f, DEMOTED, c);
}

static void client_event(struct fast_path *f, struct client *c, uint32_t events) {
    if (c->dead || c->gone) return;
    if (events & EPOLLOUT) {
        while (unread(c)) {
            ssize_t sent = send(c->side.fd, c->out.at + c->out_at, unread(c), MSG_NOSIGNAL);
            if (sent < 0 && errno == EINTR) continue;
            if (sent < 0) break;
            c->out_at += (size_t)sent;
        }
        struct upstream *u = c->request ? c->request->upstream : NULL;
        if (u && u->paused && unread(c) < (size_t)f->shared->behind / 4) {
            u->paused = false;
            want(f, &u->side, EPOLLIN | EPOLLRDHUP);
        }
        if (!unread(c)) {
            let_go(&c->out);
            c->out_at = 0;
            want_client(f, c);
            if (!c->request) {
                if (c->closing) {
                    end_client(f, c);
                    return;
                }
                if (c->in.size) look(f, c);
                if (c->dead) return;
            }
        }
    }
    if (events & EPOLLIN) {
        ssize_t got = receive(c->side.fd, f->scratch, SCRATCH);
        if (got > 0 && !c->request && !unread(c)) {
            put(&c->in, f->scratch, (size_t)got);
            look(f, c);
        } else if (got > 0) {
            put(&c->more, f->scratch, (size_t)got);
            if (!c->request) put(&c->in, c->more.at, c->more.size), c->more.size = 0;
            want_client(f, c);
        } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            client_gone(f, c);
        }
    }
    if (!c->dead && events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) client_gone(f, c);
}

/* What Python calls. Everything is called from one thread. */

struct fast_path *fast_new(struct shared *shared) {
    struct fast_path *f = fresh(sizeof *f);
    make_crc_table();
    f->shared = shared;
    f->poll = epoll_create1(EPOLL_CLOEXEC);
    return f;
}

int fast_fd(const struct fast_path *f) { return f->poll; }

int64_t fast_size(int which) {
    const size_t sizes[] = {sizeof(struct shared), sizeof(struct route_spec), sizeof(struct caller_spec),
                            sizeof(struct handed)};
    return (int64_t)sizes[which];
}

/* A place for an engine, by its socket address. Returns its number. */
int64_t fast_place(struct fast_path *f, const void *address, int64_t size) {
    struct place *place = fresh(sizeof *place);
    memcpy(&place->address, address, (size_t)size);
    place->address_size = (socklen_t)size;
    f->places = realloc(f->places, (size_t)(f->placed + 1) * sizeof *f->places);
    if (!f->places) abort();
    f->places[f->placed] = place;
    return f->placed++;
}

/* How many requests a place may have now; returns how many it has, and whether any succeeded since the last call. */
int64_t fast_allow(struct fast_path *f, int64_t place, int64_t allowed, int64_t *succeeded) {
    struct place *one = f->places[place];
    one->allowed = allowed;
    *succeeded = one->succeeded;
    one->succeeded = 0;
    return one->in_flight;
}

struct route *fast_route(struct fast_path *f, const struct route_spec *spec) {
    struct route *route = fresh(sizeof *route);
    route->spec = *spec;
    route->users = 1, route->generation = f->generation;
    keep_copy(&route->spec.head, spec->head);
    keep_copy(&route->spec.messages, spec->messages);
    keep_copy(&route->spec.row, spec->row);
    keep_copy(&route->spec.shown, spec->shown);
    keep_copy(&route->spec.version, spec->version);
    for (int i = 0; i < 3; i++) keep_copy(&route->spec.names[i], spec->names[i]);
    route->spec.params = fresh((size_t)(2 * spec->params_given + 1) * sizeof(struct span));
    for (int64_t i = 0; i < 2 * spec->params_given; i++) keep_copy(&route->spec.params[i], spec->params[i]);
    return route;
}

/* Routes or keys have changed: what is in progress goes on, every other request is Python's first. */
void fast_change(struct fast_path *f, struct route **routes, int64_t count) {
    f->generation++;
    for (int64_t i = 0; i < count; i++) drop_route(routes[i]);
    for (int64_t i = 0; i < f->placed; i++) {
        struct place *place = f->places[i];
        while (place->idle) {
            struct upstream *u = place->idle;
            place->idle = u->next;
            close_upstream(f, u);
        }
        if (place->link && !place->link->batched) close_upstream(f, place->link);
    }
}

/* Lend a client's connection, which has nothing unsent; `data` was read from it. Returns its number. */
int64_t fast_adopt(struct fast_path *f, int fd, struct route *route, const struct caller_spec *caller,
                   const char *data, int64_t size) {
    struct client *c = fresh(sizeof *c);
    int on = 1;
    c->side.fd = fd, c->side.is_client = 1;
    c->id = ++f->ids, c->generation = f->generation;
    c->route = route, c->caller = *caller;
    route->users++;
    keep_copy(&c->caller.before, caller->before);
    keep_copy(&c->caller.after, caller->after);
    keep_copy(&c->caller.row, caller->row);
    keep_copy(&c->caller.path, caller->path);
    c->expires = now_seconds() + f->shared->idle_seconds;
    c->next = f->clients;
    if (c->next) c->next->previous = c;
    f->clients = c;
    f->shared->connections++;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    want_client(f, c);
    if (size) {
        put(&c->in, data, (size_t)size);
        look(f, c);
    }
    return c->id;
}

static void bury(struct fast_path *f) {
    while (f->dead_upstreams) {
        struct upstream *u = f->dead_upstreams;
        f->dead_upstreams = u->next;
        let_go(&u->in);
        let_go(&u->out);
        free(u->batch);
        free(u);
    }
}

/* Take what happens within so many milliseconds. Returns how much that was. */
static int turn(struct fast_path *f, int milliseconds) {
    struct epoll_event events[256];
    int count = epoll_wait(f->poll, events, 256, f->queued ? 0 : milliseconds);
    for (int i = 0; i < count; i++) {
        struct side *side = events[i].data.ptr;
        if (!side) f->others = true;
        else if (side->is_client) client_event(f, (struct client *)side, events[i].events);
        else upstream_event(f, (struct upstream *)side, events[i].events);
        if (f->streams >= TOGETHER) flush(f);
    }
    flush(f);
    if (f->queued && (count <= 0 || f->queued + HOLD_SECONDS < now_seconds())) send_batches(f);
    bury(f);
    return count;
}

/* Do what there is to do, and return. True: Python has something to hear. */
int fast_poll(struct fast_path *f) {
    int turns = 0;
    flush(f);                           /* of a connection that was just lent */
    while (turn(f, 0) > 0 && ++turns < TURNS && !f->first) continue;
    send_batches(f);
    return f->first != NULL;
}

/* Look for what is late. */
void fast_tick(struct fast_path *f) {
    double now = f->ticked = now_seconds();
    for (struct client *c = f->clients, *next; c; c = next) {
        struct request *q = c->request;
        next = c->next;
        if (q && q->until < now) {
            release(f, q);
            hand(f, LATE, c);
        } else if (q && q->upstream && q->upstream->connecting && q->began + q->route->spec.connect_seconds < now) {
            hand_heard(f, q, true, false, ETIMEDOUT);
        } else if (q && q->upstream && !q->upstream->status && q->silent_until < now) {
            hand_heard(f, q, true, true, 0);
        } else if (!q && c->expires < now) {
            if (c->in.size && !unread(c)) hand(f, DEMOTED, c);
            else end_client(f, c);
        }
    }
    bury(f);
}

/* Go on while there are connections here, until `others`, the descriptor of Python's event loop, has something for
 * it, until a moment at most: returning to Python and back costs as much as passing on a piece of a stream. Python's
 * event loop does not watch this one meanwhile, for none of two epolls may watch the other that watches it.
 * HANDED: Python has something to hear. WRITTEN: the journal was written to a while ago, and nobody syncs it yet. */
int fast_linger(struct fast_path *f, int others, double until) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    double announce = 0;
    int found = 0;
    if (epoll_ctl(f->poll, EPOLL_CTL_ADD, others, &event)) return 0;
    f->others = false;
    while (!f->first && !f->others) {
        double now = now_seconds(), left = (announce && announce < until ? announce : until) - now;
        if (f->ticked + TICK_SECONDS <= now) {
            fast_tick(f);
            continue;
        }
        if (f->ticked + TICK_SECONDS - now < left) left = f->ticked + TICK_SECONDS - now;
        if (announce && now >= announce) {
            found = WRITTEN;
            break;
        }
        if (until <= now || turn(f, (int)(left * 1000) + 1) < 0) break;
        if (!announce && f->shared->written) announce = now_seconds() + ANNOUNCE_SECONDS;
    }
    epoll_ctl(f->poll, EPOLL_CTL_DEL, others, NULL);
    return f->first ? HANDED : found;
}

/* Stop: connections without a request are closed, the others when they are answered. */
void fast_drain(struct fast_path *f) {
    f->shared->draining = 1;
    for (struct client *c = f->clients, *next; c; c = next) {
        next = c->next;
        if (c->request) continue;
        c->closing = true;
        if (!unread(c)) end_client(f, c);
    }
}

/* Give every request in progress to Python, which ends it. */
void fast_cut(struct fast_path *f) {
    while (f->clients) {
        struct client *c = f->clients;
        if (c->request) {
            release(f, c->request);
            hand(f, CUT, c);
        } else {
            end_client(f, c);
        }
    }
    bury(f);
}

/* The next thing that Python has to hear, good until the next call; NULL: there is none. */
const struct handed *fast_next(struct fast_path *f) {
    if (f->current) {
        if (f->current->request) free_request(f->current->request);
        free_client(f->current->client);
        free(f->current);
    }
    f->current = f->first;
    if (!f->current) return NULL;
    f->first = f->current->next;
    if (!f->first) f->last = NULL;
    return &f->current->told;
}

void fast_free(struct fast_path *f) {
    fast_cut(f);
    while (fast_next(f)) continue;
    fast_change(f, NULL, 0);
    bury(f);
    for (int64_t i = 0; i < f->placed; i++) free(f->places[i]);
    free(f->places);
    free(f->acts);
    let_go(&f->journal);
    let_go(&f->body);
    close(f->poll);
    free(f);
}
