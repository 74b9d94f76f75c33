/* Rows for an MLflow model go to its engine together: what came while the model was at work, and what can be read at
 * once, is one request to it, and one call of the model. Where nothing else is to be read, nothing waits. The protocol
 * is that of `providers.scoring`. */
#include "engines.h"

enum { PART_HEAD = 4, ANSWER_HEAD = 6 };

static uint32_t little_endian(const char *at, int bytes) {
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint32_t)(unsigned char)at[i] << 8 * i;
    return value;
}

static void put_little_endian(struct buffer *b, uint32_t value) {
    for (int i = 0; i < PART_HEAD; i++) put_byte(b, (int)(value >> 8 * i & 255));
}

/* The body of one question for the engine (`shapes.scoring`). */
static void put_rows(struct buffer *b, const struct request *q) {
    const struct client *c = q->client;
    size_t at = b->size;
    put_little_endian(b, 0);
    if (q->route->spec.asks == ROWS) {
        put(b, c->in.at + c->body_at, c->in.size - c->body_at);
    } else {
        put_text(b, *q->asked.row.at == '{' ? "{\"dataframe_records\":[" : "{\"inputs\":[");
        put(b, q->asked.row.at, q->asked.row.size);
        put_text(b, "]}");
    }
    uint32_t size = (uint32_t)(b->size - at - PART_HEAD);
    for (int i = 0; i < PART_HEAD; i++) b->at[at + (size_t)i] = (char)(size >> 8 * i & 255);
}

/* The request's row is in the journal: it is asked with the next batch. */
static void queue_up(struct fast_path *f, struct request *q) {
    struct place *place = f->places[q->route->spec.place];
    q->began = now_seconds();
    q->silent_until = q->began + q->route->spec.first_byte_seconds;
    q->queued = true, q->behind = NULL;
    if (place->first) place->last->behind = q;
    else place->first = q;
    place->last = q;
    if (!f->queued && (!place->link || !place->link->batched)) f->queued = q->began;
}

static struct request *next_queued(struct place *place) {
    struct request *q = place->first;
    place->first = q->behind;
    if (!place->first) place->last = NULL;
    q->queued = false;
    return q;
}

/* Ask what waits for an engine that is not at work for us. */
static void send_batch(struct fast_path *f, struct place *place) {
    struct upstream *u = place->link;
    if (!place->first || (u && u->batched)) return;
    if (!u && !(u = connect_to(f, place))) {
        int error = errno;
        while (place->first) hand_heard(f, next_queued(place), true, false, error);
        return;
    }
    if (!u->batch) {
        u->batch = fresh(BATCH * sizeof *u->batch);
        u->generation = f->generation;
        place->link = u;
    }
    u->status = 0, u->complete = u->keep = false;
    u->in.size = u->out.size = u->sent = 0;
    f->body.size = 0;
    put_span(&u->out, place->first->route->spec.head);
    while (place->first && u->batched < BATCH && f->body.size < BATCH_BYTES) {
        struct request *q = next_queued(place);
        put_rows(&f->body, q);
        q->upstream = u, q->batch_at = u->batched;
        u->batch[u->batched++] = q;
        u->waited_for++;
    }
    put_text(&u->out, "content-length: ");
    put_number(&u->out, (int64_t)f->body.size);
    put_text(&u->out, "\r\n\r\n");
    put(&u->out, f->body.at, f->body.size);
    if (!u->connecting) send_on(f, u);
}

static void send_batches(struct fast_path *f) {
    if (!f->queued) return;
    f->queued = 0;
    for (int64_t i = 0; i < f->placed; i++) send_batch(f, f->places[i]);
}

/* No answer comes any more: Python asks for each one again, if that may help. */
static void break_link(struct fast_path *f, struct upstream *u, int error) {
    for (int64_t i = 0; i < u->batched && !u->closed; i++)
        if (u->batch[i]) hand_heard(f, u->batch[i], true, false, error);
    close_upstream(f, u);
    if (!f->queued) f->queued = now_seconds();
}

/* Put what the model said of the only row into the shape of `/predict`. False: it is none that is known here. */
static bool reply_with(struct request *q) {
    struct buffer reply = {0};
    struct word one;
    if (!read_prediction(q->data.at, q->data.size, &one)) return false;
    put_text(&reply, "{\"output\":");
    put(&reply, one.at, one.size);
    put_text(&reply, ",\"request_id\":\"");
    put(&reply, q->id, sizeof q->id);
    put_text(&reply, "\",\"version\":");
    put_span(&reply, q->route->spec.version);
    put_byte(&reply, '}');
    let_go(&q->data);
    q->data = reply;
    return true;
}

static void finish_rows(struct fast_path *f, struct request *q, int status, const char *said, size_t size) {
    q->status = status;
    put(&q->data, said, size);
    if (status != 200 || (q->route->spec.asks == ONE_ROW && !reply_with(q))) {
        hand_heard(f, q, false, false, 0);
        return;
    }
    conclude(f, q);
}

/* Whether a batch's answer is one part for each of its questions, and nothing more. */
static bool is_answer(const struct upstream *u, const char *at, const char *end) {
    for (int64_t i = 0; i < u->batched; i++) {
        if (end - at < ANSWER_HEAD) return false;
        uint32_t size = little_endian(at + 2, 4);
        if ((size_t)(end - at - ANSWER_HEAD) < size) return false;
        at += ANSWER_HEAD + size;
    }
    return at == end;
}

static void hear_batch(struct fast_path *f, struct upstream *u, const char *data, size_t size) {
    put(&u->in, data, size);
    if (!u->status) {
        ssize_t length = read_head(u, u->in.at, u->in.size);
        if (!length) u->status = 0;
        if (!length) return;
        if (length < 0 || u->status != 200 || u->chunked || u->left > MOST_ANSWER) {
            break_link(f, u, 0);
            return;
        }
        u->head_size = (size_t)length;
    }
    const char *at = u->in.at + u->head_size, *end = at + u->left;
    if (u->in.size < u->head_size + (size_t)u->left) return;
    if (u->in.size > u->head_size + (size_t)u->left || !is_answer(u, at, end)) {
        break_link(f, u, 0);
        return;
    }
    u->complete = true;
    for (int64_t i = 0; i < u->batched; i++) {
        size_t said = little_endian(at + 2, 4);
        if (u->batch[i]) finish_rows(f, u->batch[i], (int)little_endian(at, 2), at + ANSWER_HEAD, said);
        at += ANSWER_HEAD + said;
    }
    u->batched = 0, u->kept = true;
    if (u->in.room > 2 * BATCH_BYTES) let_go(&u->in);
    if (!u->keep || u->generation != f->generation) close_upstream(f, u);
    if (!f->queued && u->place->first) f->queued = now_seconds();
}

/* Something was heard on a link. */
static void link_event(struct fast_path *f, struct upstream *u, const char *data, ssize_t got) {
    if (u->batched && got > 0) hear_batch(f, u, data, (size_t)got);
    else break_link(f, u, 0);           /* it is gone, or speaks unasked */
}
