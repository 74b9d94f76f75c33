/* The fast path's readers and sums, for tests that call them without a socket. */
#include "fast_path.c"

/* Read a request; `facts`: most tokens, streamed, usage asked for, somebody said something, the model is ours. */
int64_t probe_asked(const char *body, int64_t size, const struct route_spec *spec, struct buffer *engine,
                    struct buffer *said, int64_t *facts) {
    struct route route = {.spec = *spec};
    struct request q = {.route = &route};
    bool plain = read_asked(body, (size_t)size, &q.asked);
    if (plain) {
        put_engine_body(engine, &q);
        if (q.asked.last_said.at)
            said->size = unescape(&q.asked.last_said, room_for(said, q.asked.last_said.size));
        facts[0] = q.asked.max_tokens, facts[1] = q.asked.stream, facts[2] = q.asked.include_usage;
        facts[3] = q.asked.last_said.at != NULL, facts[4] = names_us(spec, &q.asked.model);
    }
    let_go(&q.asked.messages);
    return plain;
}

int64_t probe_answer(const char *body, int64_t size, struct buffer *said, struct usage *usage) {
    struct word text;
    if (!read_answer(body, (size_t)size, &text, usage)) return 0;
    said->size = unescape(&text, room_for(said, text.size));
    return 1;
}

/* Read rows, or one; `engine`: what the engine gets. */
int64_t probe_rows(const char *body, int64_t size, int64_t asks, struct buffer *engine) {
    struct route route = {.spec = {.asks = asks}};
    struct client c = {.in = {(char *)body, (size_t)size, 0}};
    struct request q = {.route = &route, .client = &c};
    bool plain = read_question(&q);
    if (plain) put_rows(engine, &q);
    return plain;
}

/* Put an engine's answer into the shape of `/predict`. */
int64_t probe_reply(const char *said, int64_t size, const char *id, const struct route_spec *spec, struct buffer *reply) {
    struct route route = {.spec = *spec};
    struct request q = {.route = &route};
    memcpy(q.id, id, sizeof q.id);
    put(&q.data, said, (size_t)size);
    bool plain = reply_with(&q);
    if (plain) *reply = q.data;
    else let_go(&q.data);
    return plain;
}

int64_t probe_event(const char *payload, int64_t size, struct buffer *said, struct usage *usage, int64_t *facts) {
    struct told told;
    if (!read_event(payload, (size_t)size, &told)) return 0;
    facts[0] = told.has_usage, facts[1] = told.has_choices;
    *usage = told.usage;
    facts[2] = add_text(payload, (size_t)size, said);
    return 1;
}

int64_t probe_reserve(const struct book *book, const struct limits *limits, int64_t now, struct reserved *reserved) {
    return reserve(book, limits, now, reserved);
}

void probe_settle(const struct book *book, const struct limits *limits, const struct reserved *reserved, int64_t now,
                  int64_t tokens, int64_t nano_usd) {
    settle(book, limits, reserved, now, tokens, nano_usd);
}

int64_t probe_frame(const char *body, int64_t size, struct buffer *frame) {
    make_crc_table();
    size_t start = begin_frame(frame, 4);
    pack_array(frame, 1);
    pack_bytes(frame, body, (size_t)size);
    end_frame(frame, start);
    return (int64_t)frame->size;
}

void probe_free(struct buffer *buffer) { let_go(buffer); }
