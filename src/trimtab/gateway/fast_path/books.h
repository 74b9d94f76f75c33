/* The row of a request in the journal, what it cost, and what is counted of it: see `gateway.rows` and `.observing`. */
#include "state.h"

static const char DONE[] = "data: [DONE]\n\n";

static void pack_row(struct buffer *b, const struct request *q, int fields) {
    const struct client *c = q->client;
    pack_array(b, fields);
    pack_text(b, q->id, 32);
    put_span(b, c->caller.row);         /* client_request_id, caller, requester */
    put_span(b, q->route->spec.row);    /* model, version, route */
    put_span(b, c->caller.path);
    pack_int(b, q->at_ms);
    pack_bytes(b, c->in.at + c->body_at, c->in.size - c->body_at);
}

static void write_opened(struct fast_path *f, struct request *q) {
    size_t start = begin_frame(&f->journal, 1);
    pack_row(&f->journal, q, 11);
    pack_nil(&f->journal);
    end_frame(&f->journal, start);
}

static void pack_count(struct buffer *b, int64_t value) {
    if (value < 0) pack_nil(b);
    else pack_int(b, value);
}

static void pack_word(struct fast_path *f, struct buffer *b, const struct word *one) {
    if (!one->at) {
        pack_nil(b);
        return;
    }
    f->body.size = 0;
    size_t size = unescape(one, room_for(&f->body, one->size));
    pack_text(b, f->body.at, size);
}

/* What the answer cost, in nano-USD (`providers.prices.cost`). An engine that did not count the prompt of a stream
 * is charged with the estimate. */
static int64_t cost_of(const struct request *q) {
    const int64_t *price = q->route->spec.price;
    int64_t prompt = q->usage.prompt >= 0 ? q->usage.prompt : q->asked.stream ? q->prompt : 0;
    int64_t said = q->usage.completion >= 0 ? q->usage.completion : 0, nano_usd = prompt * price[0] + said * price[3];
    int64_t cached = q->usage.cached > 0 ? q->usage.cached : 0, written = q->usage.written > 0 ? q->usage.written : 0;
    if (q->usage.prompt < 0) cached = written = 0;
    if (cached > prompt) cached = prompt;
    if (written > prompt - cached) written = prompt - cached;
    return nano_usd + cached * (price[1] - price[0]) + written * (price[2] - price[0]);
}

/* The row of a good answer. */
static void write_closed(struct fast_path *f, struct request *q) {
    struct buffer *b = &f->journal;
    double now = q->closed_at = now_seconds(), first = q->asked.stream ? q->first_byte : now;
    size_t start = begin_frame(b, 2);
    pack_row(b, q, 28);
    pack_int(b, 200);
    pack_int(b, (int64_t)rint((now - q->at) * 1000));
    pack_int(b, (int64_t)rint((first - q->at) * 1000));
    pack_count(b, q->usage.prompt);
    pack_count(b, q->usage.completion);
    pack_text(b, "ok", 2);
    pack_word(f, b, &q->asked.last_said);
    if (q->asked.stream) {
        pack_text(b, q->said.at, q->said.size);
        pack_head(b, q->sent.size + sizeof DONE - 1, 0, 0xC4);
        put(b, q->sent.at, q->sent.size);
        put(b, DONE, sizeof DONE - 1);
    } else {
        pack_word(f, b, &q->text);
        pack_bytes(b, q->data.at, q->data.size);
    }
    q->nano_usd = q->route->spec.priced ? cost_of(q) : -1;
    pack_count(b, q->nano_usd);
    pack_count(b, q->usage.cached);
    pack_count(b, q->usage.written);
    pack_count(b, q->usage.reasoning);
    pack_array(b, 0);
    pack_nil(b);
    pack_nil(b);
    pack_array(b, 0);
    pack_nil(b);
    end_frame(b, start);
}

static void put_histogram(double *cells, int64_t at, const struct bounds *bounds, double value) {
    int64_t bucket = 0;
    while (bucket < bounds->known && bounds->upper[bucket] < value) bucket++;
    cells[at] += value;
    cells[at + 1 + bucket] += 1;
}

/* Settle and count a request whose row is closed. */
static void count_closed(struct fast_path *f, struct request *q) {
    const struct cells *at = &q->route->spec.cells;
    double *cells = f->shared->cells, first = q->asked.stream ? q->first_byte : q->closed_at;
    if (q->is_reserved) {
        int64_t prompt = q->usage.prompt >= 0 ? q->usage.prompt : q->asked.stream ? q->prompt : 0;
        int64_t said = q->usage.completion >= 0 ? q->usage.completion : 0;
        settle(&f->shared->book, &q->client->caller.limits, &q->reserved, epoch_ns(), prompt + said,
               q->nano_usd > 0 ? q->nano_usd : 0);
        f->shared->touched = 1;
    }
    cells[at->requests] += 1;
    put_histogram(cells, at->duration, &f->shared->seconds, q->closed_at - q->at);
    put_histogram(cells, at->overhead, &f->shared->overhead_seconds, first - q->at - q->engine_seconds);
    if (q->asked.stream) put_histogram(cells, at->first_token, &f->shared->seconds, first - q->at);
    if (q->usage.prompt > 0) cells[at->input] += (double)q->usage.prompt;
    if (q->usage.completion > 0) cells[at->output] += (double)q->usage.completion;
    cells[at->attempts] += 1;
    cells[at->http] += 1;
    cells[f->shared->counted] += 1;
}

/* The head of the answer, up to what says how long it is. */
static void put_answer_head(struct fast_path *f, struct buffer *b, struct request *q, const char *type) {
    const struct limits *limits = &q->client->caller.limits;
    double added = now_seconds() - q->at - q->engine_seconds;
    put_text(b, "HTTP/1.1 200 OK\r\ncontent-type: ");
    put_text(b, type);
    put_text(b, "\r\n");
    put_text(b, f->shared->date);
    if (f->shared->draining) {
        put_text(b, "connection: close\r\n");
        q->client->closing = true;
    }
    put_text(b, "x-request-id: ");
    put(b, q->id, 32);
    put_text(b, "\r\n");
    put_span(b, q->route->spec.shown);
    put_text(b, "x-trimtab-overhead-ms: ");
    put_ms(b, added > 0 ? added : 0);
    put_text(b, "\r\nserver-timing: gateway;dur=");
    put_ms(b, added > q->journal_seconds ? added - q->journal_seconds : 0);
    put_text(b, ", engine;dur=");
    put_ms(b, q->engine_seconds);
    put_text(b, ", journal;dur=");
    put_ms(b, q->journal_seconds);
    put_text(b, "\r\n");
    if (q->is_reserved) {
        put_limit(b, "requests", &limits->requests, q->reserved.requests_full, q->admitted_ns);
        put_limit(b, "tokens", &limits->tokens, q->reserved.tokens_full, q->admitted_ns);
    }
}

/* Write what the journal is to have. False: it has nothing of it. */
static bool write_journal(struct fast_path *f) {
    struct shared *shared = f->shared;
    size_t written = 0;
    while (written < f->journal.size) {
        ssize_t more = write((int)shared->journal_fd, f->journal.at + written, f->journal.size - written);
        if (more > 0) {
            written += (size_t)more;
        } else if (more == 0 || errno != EINTR) {
            if (ftruncate((int)shared->journal_fd, shared->journal_size)) shared->blocked = 2;
            f->journal.size = 0;
            return false;
        }
    }
    shared->journal_size += (int64_t)written;
    shared->written += (int64_t)written;
    f->journal.size = 0;
    return true;
}
