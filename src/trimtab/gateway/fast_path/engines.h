/* Engines: a request goes out, an answer comes in. Whatever is no good, plain answer is handed to Python. */
#include "books.h"

static void write_client(struct fast_path *f, struct client *c, const struct iovec *parts, int count);

static void close_upstream(struct fast_path *f, struct upstream *u) {
    if (u->closed) return;
    u->closed = true;
    if (u->place->link == u) u->place->link = NULL;
    close(u->side.fd);                  /* epoll forgets it */
    u->next = f->dead_upstreams;
    f->dead_upstreams = u;
}

/* Nobody waits for a request's part of a batch any more. */
static void leave_batch(struct fast_path *f, struct request *q) {
    struct place *place = f->places[q->route->spec.place];
    struct upstream *u = q->upstream;
    q->placed = false;
    place->in_flight--;
    if (q->began) q->engine_seconds += now_seconds() - q->began;
    if (q->queued) {
        struct request *before = NULL, *at = place->first;
        for (; at != q; at = at->behind) before = at;
        if (before) before->behind = q->behind;
        else place->first = q->behind;
        if (place->last == q) place->last = before;
        q->queued = false;
    }
    q->upstream = NULL;
    if (!u) return;
    u->batch[q->batch_at] = NULL;
    if (!--u->waited_for && !u->complete) {
        close_upstream(f, u);
        if (!f->queued) f->queued = now_seconds();
    }
}

/* The engine's part in a request is over: its connection is kept when its answer came whole. */
static void release(struct fast_path *f, struct request *q) {
    struct upstream *u = q->upstream;
    if (q->route->spec.asks != CHAT) {
        if (q->placed) leave_batch(f, q);
        return;
    }
    if (!u) return;
    q->upstream = NULL;
    u->request = NULL;
    u->place->in_flight--;
    if (!q->first_byte) q->engine_seconds += now_seconds() - q->began;
    if (!u->complete || !u->keep || u->closed || q->route->generation != f->generation) {
        close_upstream(f, u);
        return;
    }
    u->kept = true;
    if (u->paused) u->paused = false, want(f, &u->side, EPOLLIN | EPOLLRDHUP);
    u->next = u->place->idle;
    u->place->idle = u;
}

/* Let Python go on with what was heard of the engine so far. */
static void hand_heard(struct fast_path *f, struct request *q, bool lost, bool silent, int error) {
    struct upstream *u = q->upstream;
    bool complete = u && u->complete && !lost, kept = u && u->kept;
    release(f, q);
    struct handed *told = hand(f, HEARD, q->client);
    told->complete = complete, told->lost = lost, told->kept = kept, told->silent = silent, told->error = error;
}

static void send_on(struct fast_path *f, struct upstream *u) {
    while (u->sent < u->out.size) {
        ssize_t more = send(u->side.fd, u->out.at + u->sent, u->out.size - u->sent, MSG_NOSIGNAL);
        if (more < 0 && errno == EINTR) continue;
        if (more < 0 && errno != EAGAIN) return;    /* what is wrong is heard when reading */
        if (more < 0) {
            want(f, &u->side, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
            return;
        }
        u->sent += (size_t)more;
    }
    u->out.size = u->sent = 0;
    want(f, &u->side, EPOLLIN | EPOLLRDHUP);
}

/* The body for the engine: the version's template with the client's messages and parameters (`shapes`). */
static void put_engine_body(struct buffer *b, const struct request *q) {
    const struct route_spec *route = &q->route->spec;
    const struct asked *asked = &q->asked;
    bool used[5] = {false};
    b->size = 0;
    put_byte(b, '{');
    for (int64_t i = 0; i < route->params_given; i++) {
        struct span name = route->params[2 * i], value = route->params[2 * i + 1];
        for (int k = 0; k < asked->sampled; k++) {
            const struct parameter *one = &asked->sampling[k];
            if ((int64_t)strlen(one->name) != name.size || memcmp(one->name, name.at, (size_t)name.size)) continue;
            value = (struct span){one->value.at, (int64_t)one->value.size};
            used[k] = true;
        }
        put_byte(b, '"');
        put_span(b, name);
        put_text(b, "\":");
        put_span(b, value);
        put_byte(b, ',');
    }
    for (int k = 0; k < asked->sampled; k++) {
        if (used[k]) continue;
        put_byte(b, '"');
        put_text(b, asked->sampling[k].name);
        put_text(b, "\":");
        put(b, asked->sampling[k].value.at, asked->sampling[k].value.size);
        put_byte(b, ',');
    }
    put_text(b, "\"messages\":[");
    put_span(b, route->messages);
    if (route->messages.size) put_byte(b, ',');
    put(b, asked->messages.at, asked->messages.size);
    put_text(b, asked->stream ? "],\"stream\":true,\"stream_options\":{\"include_usage\":true}}" : "]}");
}

/* Send the request, or as much as goes; its row is in the journal. */
static void ask(struct fast_path *f, struct request *q) {
    struct upstream *u = q->upstream;
    q->began = now_seconds();
    q->silent_until = q->began + q->route->spec.first_byte_seconds;
    put_engine_body(&f->body, q);
    u->out.size = u->sent = 0;
    put_span(&u->out, q->route->spec.head);
    if (q->route->spec.named) {
        double left = (q->until - q->began) * 1000;
        put_text(&u->out, "x-trimtab-deadline-ms: ");
        put_number(&u->out, left > 1 ? (int64_t)left : 1);
        put_text(&u->out, "\r\n");
    }
    put_text(&u->out, "content-length: ");
    put_number(&u->out, (int64_t)f->body.size);
    put_text(&u->out, "\r\n\r\n");
    put(&u->out, f->body.at, f->body.size);
    if (!u->connecting) send_on(f, u);
}

/* A new connection to an engine. NULL: there is none to be had. */
static struct upstream *connect_to(struct fast_path *f, struct place *place) {
    int on = 1, fd = socket(place->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return NULL;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&place->address, place->address_size) && errno != EINPROGRESS) {
        close(fd);
        return NULL;
    }
    struct upstream *u = fresh(sizeof *u);
    u->side.fd = fd, u->place = place, u->connecting = true;
    want(f, &u->side, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
    return u;
}

/* A connection to the engine, kept or begun. NULL: Python is to say what is wrong. */
static struct upstream *connection_to(struct fast_path *f, struct place *place) {
    struct upstream *u = place->idle;
    if (u) {
        place->idle = u->next;
        u->next = NULL;
    } else if (!(u = connect_to(f, place))) {
        return NULL;
    }
    u->status = 0, u->complete = u->keep = false;
    u->in.size = 0;
    place->in_flight++;
    return u;
}

/* The answer is whole and good: its row is closed, and then it leaves. */
static void conclude(struct fast_path *f, struct request *q) {
    q->upstream->place->succeeded++;
    release(f, q);
    write_closed(f, q);
    q->is_closing = true;
    act_later(f, q);
}

/* Plain answers */

static void finish_plain(struct fast_path *f, struct request *q) {
    bool good = q->status == 200 && read_answer(q->data.at, q->data.size, &q->text, &q->usage);
    if (!good) {
        q->usage = NOT_COUNTED;
        hand_heard(f, q, false, false, 0);
        return;
    }
    conclude(f, q);
}

/* Streams */

static struct word payload_of(const char *event, size_t size) {
    struct word found = {event, size, false};
    if (size >= 5 && !memcmp(event, "data:", 5)) found.at += 5, found.size -= 5;
    while (found.size && memchr(" \t\n\r\v\f", *found.at, 6)) found.at++, found.size--;
    while (found.size && memchr(" \t\n\r\v\f", found.at[found.size - 1], 6)) found.size--;
    return found;
}

/* The payload of the event that begins here, and where the next one does; NULL: it has not come whole. */
static const char *next_event(const char *at, const char *end, struct word *payload) {
    const char *stop = memmem(at, (size_t)(end - at), "\n\n", 2);
    if (!stop) return NULL;
    *payload = payload_of(at, (size_t)(stop - at));
    return stop + 2;
}

/* Remember the text of events that were passed on; at the end it would be late for whoever waits then. */
static void remember_text(struct request *q, const char *at, size_t size) {
    struct word payload;
    for (const char *end = at + size; at < end && (at = next_event(at, end, &payload));)
        if (payload.size && *payload.at == '{' && !add_text(payload.at, payload.size, &q->said)) q->unread = true;
}

/* Pass on events to the client. */
static void tell(struct fast_path *f, struct request *q, const char *events, size_t size) {
    static const char hex[] = "0123456789abcdef";
    char length[20], end[] = "\r\n", *digits = length + sizeof length;
    struct buffer head = {0};
    if (!size) return;
    *--digits = '\n';
    *--digits = '\r';
    for (size_t rest = size; rest; rest >>= 4) *--digits = hex[rest & 15];
    if (!q->sent.size) {
        q->first_byte = now_seconds();
        q->engine_seconds += q->first_byte - q->began;
        put_answer_head(f, &head, q, "text/event-stream; charset=utf-8");
        put_text(&head, "transfer-encoding: chunked\r\n\r\n");
    }
    put(&q->sent, events, size);
    struct iovec parts[] = {{head.at, head.size},
                            {digits, (size_t)(length + sizeof length - digits)},
                            {(void *)events, size},
                            {end, 2}};
    write_client(f, q->client, head.size ? parts : parts + 1, head.size ? 4 : 3);
    remember_text(q, events, size);
    let_go(&head);
    if (q->upstream && q->client->out.size - q->client->out_at > (size_t)f->shared->behind && !q->upstream->paused) {
        q->upstream->paused = true;
        want(f, &q->upstream->side, EPOLLPRI);  /* the engine waits while the client does not read */
    }
}

/* Events among which some are not only to be passed on. False: Python has to look. */
static bool sift(struct fast_path *f, struct request *q, const char *at, size_t size) {
    struct buffer told = {0};
    const char *end = at + size, *next;
    struct word payload;
    bool good = true;
    for (; good && at < end && (next = next_event(at, end, &payload)); at = next) {
        struct told event = {.has_choices = true};
        bool passes = true;
        if (is_word(&payload, "[DONE]")) {
            q->done = true;
            passes = false;
        } else if (payload.size && *payload.at == '{') {
            good = read_event(payload.at, payload.size, &event);
            if (good && event.has_usage) {
                q->usage = event.usage;
                passes = q->asked.include_usage || event.has_choices;
            }
        }
        if (good && passes) put(&told, at, (size_t)(next - at));
    }
    if (good) tell(f, q, told.at, told.size);
    let_go(&told);
    return good;
}

/* Whether there may be usage, an error or the end in some events: where `"us`, `"er` or `[D` stands. */
static bool is_odd(const char *at, size_t size) {
    for (const char *end = at + size - 2; at < end; at++) {
        if (*at == '"' ? (at[1] == 'u' && at[2] == 's') || (at[1] == 'e' && at[2] == 'r') : *at == '[' && at[1] == 'D')
            return true;
    }
    return false;
}

/* Pass on the events of a stream that have come whole. False: Python has to look, at `data`. */
static bool pass_on(struct fast_path *f, struct request *q) {
    size_t cut = q->rest.size;
    while (cut >= 2 && memcmp(q->rest.at + cut - 2, "\n\n", 2)) cut--;
    if (cut < 2) return q->rest.size <= MOST_EVENT;
    const char *at = q->rest.at;
    if (!is_odd(at, cut)) {
        tell(f, q, at, cut);
    } else if (!sift(f, q, at, cut)) {
        put(&q->data, q->rest.at, q->rest.size);
        q->rest.size = 0;
        return false;
    }
    memmove(q->rest.at, q->rest.at + cut, q->rest.size - cut);
    q->rest.size -= cut;
    return true;
}

/* A stream came whole, or what the engine takes for whole. */
static void finish_stream(struct fast_path *f, struct request *q) {
    if (!q->done || !q->sent.size || q->rest.size || q->unread) {
        hand_heard(f, q, false, false, 0);
        return;
    }
    conclude(f, q);
}

/* Reading answers */

static bool is_header(const char *line, size_t size, const char *name, struct word *value) {
    size_t length = strlen(name);
    if (size <= length || line[length] != ':' || strncasecmp(line, name, length)) return false;
    *value = payload_of(line + length + 1, size - length - 1);
    return true;
}

/* Read status line and headers; returns how long they are, 0 when not all has come, -1 when this is no HTTP/1.1 that
 * could be understood in only one way (RFC 9112 section 6.3). */
static ssize_t read_head(struct upstream *u, const char *data, size_t size) {
    const char *end = memmem(data, size, "\r\n\r\n", 4), *line;
    bool sized = false;
    if (!end) return size > MOST_HEAD ? -1 : 0;
    ssize_t length = end + 4 - data;
    if (length < 16 || memcmp(data, "HTTP/1.1 ", 9) || memchr(data, 0, (size_t)length)) return -1;
    struct word value, status = {data + 9, 3, false};
    u->status = 0, u->left = 0, u->chunked = false, u->keep = true;
    for (int i = 0; i < 3; i++) {
        if (status.at[i] < '0' || status.at[i] > '9') return -1;
        u->status = 10 * u->status + (status.at[i] - '0');
    }
    if (status.at[3] != ' ' && status.at[3] != '\r') return -1;
    for (line = memmem(data, (size_t)length, "\r\n", 2) + 2; line < end + 2;) {
        const char *stop = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
        size_t width = (size_t)(stop - line);
        if (memchr(line, '\n', width) || memchr(line, '\r', width) || *line == ' ' || *line == '\t') return -1;
        if (is_header(line, width, "content-length", &value)) {
            int64_t said = 0;
            if (!value.size || value.size > 12) return -1;
            for (size_t i = 0; i < value.size; i++) {
                if (value.at[i] < '0' || value.at[i] > '9') return -1;
                said = 10 * said + (value.at[i] - '0');
            }
            if (sized && said != u->left) return -1;
            sized = true, u->left = said;
        } else if (is_header(line, width, "transfer-encoding", &value)) {
            if (value.size != 7 || strncasecmp(value.at, "chunked", 7) || u->chunked) return -1;
            u->chunked = true;
        } else if (is_header(line, width, "connection", &value)) {
            u->keep = value.size == 10 && !strncasecmp(value.at, "keep-alive", 10);
        }
        line = stop + 2;
    }
    if (sized == u->chunked || u->status < 200 || u->status == 204 || u->status == 304) return -1;
    if (u->chunked) u->chunk = SIZE, u->digits = 0, u->left = 0;
    return length;
}

/* A piece of the body. False: it is too long. */
static bool take_body(struct request *q, const char *data, size_t size) {
    bool streamed = q->asked.stream && q->status == 200;
    struct buffer *to = streamed ? &q->rest : &q->data;
    if (to->size + size > MOST_ANSWER) return false;
    if (!streamed || !memchr(data, '\r', size)) {
        put(to, data, size);
    } else {                            /* an event's lines may end in CRLF; JSON has no bare CR */
        for (size_t i = 0; i < size; i++)
            if (data[i] != '\r') put_byte(to, data[i]);
    }
    return true;
}

/* A body in chunks (RFC 9112 section 7.1). False: it is none, or too long. */
static bool take_chunks(struct upstream *u, const char *at, const char *end) {
    struct request *q = u->request;
    while (at < end && !u->complete) {
        char c = *at;
        switch (u->chunk) {
        case SIZE: {
            int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
            if (digit < 0 && (!u->digits || (c != '\r' && c != ';'))) return false;
            if (digit >= 0) {
                if (++u->digits > 8) return false;
                u->left = 16 * u->left + digit;
            } else {
                u->chunk = SKIP;
                continue;
            }
            at++;
            break;
        }
        case SKIP:
            at++;
            if (c == '\n') u->chunk = u->left ? DATA : TRAILER, u->digits = 0;
            break;
        case DATA: {
            size_t size = (size_t)(end - at) < (size_t)u->left ? (size_t)(end - at) : (size_t)u->left;
            if (!take_body(q, at, size)) return false;
            at += size;
            u->left -= (int64_t)size;
            if (!u->left) u->chunk = DATA_END;
            break;
        }
        case DATA_END:
            if (c != "\r\n"[u->digits]) return false;
            at++;
            if (u->digits++) u->chunk = SIZE, u->digits = 0;
            break;
        case TRAILER:
            at++;
            if (c == '\n') u->complete = true;
            else if (c != '\r') u->chunk = TRAILER_LINE;
            break;
        case TRAILER_LINE:
            at++;
            if (c == '\n') u->chunk = TRAILER;
            break;
        }
    }
    if (u->complete && at < end) u->keep = false;   /* it says more than it was asked */
    return true;
}

static void hear(struct fast_path *f, struct upstream *u, const char *data, size_t size) {
    struct request *q = u->request;
    if (!u->status) {
        put(&u->in, data, size);
        ssize_t length = read_head(u, u->in.at, u->in.size);
        if (length <= 0) {
            u->status = 0;
            if (length < 0) hand_heard(f, q, true, false, 0);
            return;
        }
        q->status = u->status;
        put(&q->head, u->in.at, (size_t)length);
        data = u->in.at + length, size = u->in.size - (size_t)length;
    }
    bool good;
    if (u->chunked) {
        good = take_chunks(u, data, data + size);
    } else {
        size_t taken = (int64_t)size < u->left ? size : (size_t)u->left;
        if (taken < size) u->keep = false;
        u->left -= (int64_t)taken;
        u->complete = !u->left;
        good = take_body(q, data, taken);
    }
    if ((q->asked.stream && q->status == 200 && !pass_on(f, q)) || !good) {
        hand_heard(f, q, true, false, 0);
        return;
    }
    if (!u->complete) return;
    if (q->asked.stream && q->status == 200) finish_stream(f, q);
    else finish_plain(f, q);
}

static void break_link(struct fast_path *f, struct upstream *u, int error);
static void link_event(struct fast_path *f, struct upstream *u, const char *data, ssize_t got);

static void upstream_event(struct fast_path *f, struct upstream *u, uint32_t events) {
    if (u->closed) return;
    if (u->connecting && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(u->side.fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            if (u->batch) break_link(f, u, error);
            else hand_heard(f, u->request, true, false, error);
            return;
        }
        u->connecting = false;
    }
    if (events & EPOLLOUT) send_on(f, u);
    if (!(events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))) return;
    ssize_t got = receive(u->side.fd, f->scratch, SCRATCH);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (u->batch) {
        link_event(f, u, f->scratch, got);
        return;
    }
    if (!u->request || !u->request->began) {        /* it speaks unasked, or says no more, before it was asked */
        struct request *waiting = u->request;
        if (waiting) {                  /* whatever it says is no answer: the request will find it gone */
            shutdown(u->side.fd, SHUT_RDWR);
            return;
        }
        struct upstream **at = &u->place->idle;
        while (*at && *at != u) at = &(*at)->next;
        if (*at) *at = u->next;
        close_upstream(f, u);
        return;
    }
    if (got <= 0) hand_heard(f, u->request, true, false, 0);
    else hear(f, u, f->scratch, (size_t)got);
}
