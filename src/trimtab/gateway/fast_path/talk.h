/* What clients ask and engines answer, as far as it is plain: see `gateway.shapes.chat` and `gateway.stream`. */
#include "buffer.h"
#include "../../native/json.h"

/* A chat completion that is nothing but messages of text and decoding parameters. Places are in the request's body. */
struct asked {
    struct word model;                  /* at NULL: none was named */
    bool stream, include_usage;
    struct word last_said;              /* the content of the last message of the user; at NULL: there is none */
    struct buffer messages;             /* the messages as they came, joined by commas */
    struct parameter {
        const char *name;
        struct word value;
    } sampling[5];                      /* in the client's order */
    int sampled;
    int64_t max_tokens;                 /* -1: not said */
    struct word row;                    /* of a model that scores rows: the only one */
};

struct usage {                          /* tokens as the engine counted them; -1: it did not say */
    int64_t prompt, completion, cached, written, reasoning;
};

static const struct usage NOT_COUNTED = {-1, -1, -1, -1, -1};

static bool message(struct scan *s, struct asked *asked) {
    struct word name, role = {0}, content = {0};
    bool first = true;
    peek(s);
    const char *start = s->at;
    if (!expect(s, '{')) return false;
    while (member(s, &first, &name)) {
        struct word *to = is_word(&name, "role") ? &role : is_word(&name, "content") ? &content : NULL;
        if (!to || to->at || peek(s) != '"' || !string(s, to)) return fail(s);
    }
    if (s->bad || !role.at || !content.at) return fail(s);
    if (is_word(&role, "user"))
        asked->last_said = content;
    else if (!is_word(&role, "system") && !is_word(&role, "assistant") && !is_word(&role, "developer"))
        return fail(s);
    if (asked->messages.size) put_byte(&asked->messages, ',');
    put(&asked->messages, start, (size_t)(s->at - start));
    return true;
}

static bool messages(struct scan *s, struct asked *asked) {
    bool first = true;
    if (asked->messages.size || !expect(s, '[')) return fail(s);
    while (element(s, &first)) message(s, asked);
    return !s->bad && asked->messages.size ? true : fail(s);
}

static bool boolean(struct scan *s, bool *value) {
    *value = literal(s, "true");
    return *value || literal(s, "false") || fail(s);
}

static bool stream_options(struct scan *s, struct asked *asked) {
    struct word name;
    bool first = true;
    if (!expect(s, '{')) return false;
    while (member(s, &first, &name))
        if (!is_word(&name, "include_usage") || !boolean(s, &asked->include_usage)) return fail(s);
    return !s->bad;
}

/* A number between 0 and `most` without an exponent, short enough that its digits are its value. */
static bool fraction(struct scan *s, struct word *text, double most) {
    bool whole;
    char copy[16];
    if (!number(s, text, &whole) || text->size > 8 || memchr(text->at, 'e', text->size) ||
        memchr(text->at, 'E', text->size) || text->at[0] == '-')
        return fail(s);
    memcpy(copy, text->at, text->size);
    copy[text->size] = 0;
    return strtod(copy, NULL) <= most ? true : fail(s);
}

static bool parameter(struct scan *s, struct asked *asked, const struct word *name) {
    static const char *names[] = {"temperature", "top_p", "max_tokens", "max_completion_tokens", "seed"};
    for (int i = 0; i < 5; i++) {
        if (!is_word(name, names[i])) continue;
        const char *as = i == 3 ? names[2] : names[i];
        for (int k = 0; k < asked->sampled; k++)
            if (asked->sampling[k].name == as) return fail(s);
        struct parameter *one = &asked->sampling[asked->sampled++];
        one->name = as;
        if (i < 2) return fraction(s, &one->value, i ? 1 : 2);
        int64_t value;
        peek(s);
        one->value.at = s->at;
        if (!integer(s, &value)) return false;
        one->value.size = (size_t)(s->at - one->value.at);
        if (i == 4) return one->value.at[0] != '-' || value ? true : fail(s);
        asked->max_tokens = value;
        return value >= 1 && value <= INT32_MAX ? true : fail(s);
    }
    return fail(s);
}

/* Read a request's body. False: it is not JSON, or not plain, and Python has to look. */
static bool read_asked(const char *body, size_t size, struct asked *asked) {
    struct scan s = {body, body + size, false};
    struct word name;
    bool first = true, streamed = false, options = false;
    memset(asked, 0, sizeof *asked);
    asked->max_tokens = -1;
    expect(&s, '{');
    while (member(&s, &first, &name)) {
        if (is_word(&name, "messages")) {
            messages(&s, asked);
        } else if (is_word(&name, "model") && !asked->model.at) {
            string(&s, &asked->model);
        } else if (is_word(&name, "stream") && !streamed) {
            streamed = boolean(&s, &asked->stream);
        } else if (is_word(&name, "stream_options") && !options) {
            options = stream_options(&s, asked);
        } else {
            parameter(&s, asked, &name);
        }
    }
    return at_end(&s) && asked->messages.size && !asked->model.escaped && (!options || asked->stream);
}

/* Read rows of any number for an MLflow model: an object that says nothing of what the gateway itself reads
 * (`shapes.scoring`). The rest is the engine's, as long as it is JSON. */
static bool read_rows(const char *body, size_t size) {
    static const char *ours[] = {"model", "client_request_id", "user", "safety_identifier", "stream"};
    struct scan s = {body, body + size, false};
    struct word name;
    bool first = true;
    expect(&s, '{');
    while (member(&s, &first, &name)) {
        for (int i = 0; i < 5; i++)
            if (name.escaped || is_word(&name, ours[i])) return false;
        skip_value(&s, 0);
    }
    return at_end(&s);
}

/* Read one row, and nothing else: `{"input": …}`. */
static bool read_row(const char *body, size_t size, struct word *row) {
    struct scan s = {body, body + size, false};
    struct word name;
    bool first = true;
    row->at = NULL;
    expect(&s, '{');
    while (member(&s, &first, &name)) {
        if (row->at || !is_word(&name, "input")) return false;
        peek(&s);
        row->at = s.at;
        skip_value(&s, 0);
        row->size = (size_t)(s.at - row->at);
    }
    return at_end(&s) && row->at;
}

/* What a model said of one row, in `{"predictions": […]}`: all of it, where that is no list of one. False: Python has
 * to look. */
static bool read_prediction(const char *body, size_t size, struct word *one) {
    struct scan s = {body, body + size, false};
    struct word name, element_of = {0};
    bool first = true, inner = true;
    int64_t elements = 0;
    one->at = NULL;
    expect(&s, '{');
    while (member(&s, &first, &name)) {
        if (name.escaped || (one->at && is_word(&name, "predictions"))) return false;
        if (!is_word(&name, "predictions")) {
            skip_value(&s, 0);
            continue;
        }
        peek(&s);
        one->at = s.at;
        if (next_is(&s, '[')) {
            while (element(&s, &inner)) {
                peek(&s);
                element_of.at = s.at;
                skip_value(&s, 0);
                element_of.size = (size_t)(s.at - element_of.at);
                elements++;
            }
        } else {
            skip_value(&s, 0);
        }
        one->size = (size_t)(s.at - one->at);
    }
    if (elements == 1) *one = element_of;
    return at_end(&s) && one->at;
}

/* A count of tokens, or null. */
static bool count(struct scan *s, int64_t *value) {
    return literal(s, "null") || (integer(s, value) && *value >= 0) || fail(s);
}

static bool counts(struct scan *s, const char *const *names, int64_t *const *values, int known);

static bool usage_details(struct scan *s, struct usage *usage, bool prompt) {
    static const char *of_prompt[] = {"cached_tokens", "cache_write_tokens"}, *of_answer[] = {"reasoning_tokens"};
    int64_t cached = -1, written = -1, reasoning = -1;
    if (literal(s, "null")) return true;
    if (prompt) {
        int64_t *values[] = {&cached, &written};
        if (!counts(s, of_prompt, values, 2)) return false;
        usage->cached = cached, usage->written = written;
        return true;
    }
    int64_t *values[] = {&reasoning};
    if (!counts(s, of_answer, values, 1)) return false;
    if (reasoning >= 0) usage->reasoning = reasoning;
    return true;
}

static bool counts(struct scan *s, const char *const *names, int64_t *const *values, int known) {
    struct word name;
    bool first = true;
    if (!expect(s, '{')) return false;
    while (member(s, &first, &name)) {
        int i = 0;
        while (i < known && !is_word(&name, names[i])) i++;
        if (i < known ? !count(s, values[i]) : !skip_value(s, 0)) return fail(s);
    }
    return !s->bad;
}

/* What `gateway.stream.Usage` reads, OpenAI's names only: others are Python's. */
static bool read_usage(struct scan *s, struct usage *usage) {
    struct word name;
    bool first = true, prompt = false, answer = false, cache = false;
    if (!expect(s, '{')) return false;
    *usage = NOT_COUNTED;
    while (member(s, &first, &name)) {
        if (is_word(&name, "prompt_tokens")) {
            count(s, &usage->prompt);
        } else if (is_word(&name, "completion_tokens")) {
            count(s, &usage->completion);
        } else if (is_word(&name, "prompt_tokens_details") && !prompt) {
            prompt = usage_details(s, usage, true);
        } else if (is_word(&name, "completion_tokens_details") && !answer) {
            answer = usage_details(s, usage, false);
        } else {
            cache = cache || (name.size > 5 && (!memcmp(name.at, "cache", 5) || !memcmp(name.at, "reaso", 5)));
            skip_value(s, 0);
        }
    }
    return cache ? fail(s) : !s->bad;
}

/* The first choice's text in `"choices": [{"message": {"content": …}}]`, of exactly one choice. */
static bool read_choices(struct scan *s, struct word *text) {
    struct word name;
    bool first = true, none = true, inner = true;
    bool message = false;
    if (!expect(s, '[') || !element(s, &first) || !expect(s, '{')) return fail(s);
    while (member(s, &none, &name)) {
        if (!is_word(&name, "message") || message) {
            if (is_word(&name, "message")) return fail(s);
            skip_value(s, 0);
            continue;
        }
        message = true;
        if (!expect(s, '{')) return false;
        while (member(s, &inner, &name)) {
            if (!is_word(&name, "content"))
                skip_value(s, 0);
            else if (text->at || peek(s) != '"' || !string(s, text))
                return fail(s);
        }
    }
    return message && text->at && !element(s, &first) && !s->bad ? true : fail(s);
}

/* Read a plain answer. False: Python has to look. */
static bool read_answer(const char *body, size_t size, struct word *text, struct usage *usage) {
    struct scan s = {body, body + size, false};
    struct word name;
    bool first = true, counted = false, chosen = false;
    *usage = NOT_COUNTED;
    text->at = NULL;
    expect(&s, '{');
    while (member(&s, &first, &name)) {
        if (is_word(&name, "choices"))
            chosen = !chosen && read_choices(&s, text) ? true : fail(&s);
        else if (is_word(&name, "usage"))
            counted = !counted && read_usage(&s, usage) ? true : fail(&s);
        else if (is_word(&name, "raw"))
            fail(&s);
        else
            skip_value(&s, 0);
    }
    return at_end(&s) && chosen;
}

/* An event of a stream that speaks of usage, or of an error. */
struct told {
    bool has_choices, has_usage;
    struct usage usage;
};

/* Read such an event's payload. False: it is an error, or nothing that is known here. */
static bool read_event(const char *payload, size_t size, struct told *told) {
    struct scan s = {payload, payload + size, false};
    struct word name;
    bool first = true, inner = true;
    memset(told, 0, sizeof *told);
    expect(&s, '{');
    while (member(&s, &first, &name)) {
        if (is_word(&name, "usage")) {
            if (literal(&s, "null")) continue;
            told->has_usage = !told->has_usage && read_usage(&s, &told->usage) ? true : fail(&s);
        } else if (is_word(&name, "choices")) {
            inner = true;
            expect(&s, '[');
            while (element(&s, &inner)) told->has_choices = skip_value(&s, 0);
        } else if (is_word(&name, "error")) {
            if (!literal(&s, "null")) return false;
        } else {
            skip_value(&s, 0);
        }
    }
    return at_end(&s);
}

/* Add the text of choice 0 in one event's payload. False: Python has to look. */
static bool add_text(const char *payload, size_t size, struct buffer *text) {
    struct scan s = {payload, payload + size, false};
    struct word name, said;
    bool first = true, inner = true, listed = false;
    expect(&s, '{');
    while (member(&s, &first, &name)) {
        if (!is_word(&name, "choices")) {
            skip_value(&s, 0);
            continue;
        }
        if (listed || !expect(&s, '[')) return false;
        listed = true;
        while (element(&s, &inner)) {
            bool none = true, any = true;
            int64_t index = 0;
            said.at = NULL;
            expect(&s, '{');
            while (member(&s, &none, &name)) {
                if (is_word(&name, "index")) {
                    integer(&s, &index);
                } else if (is_word(&name, "delta")) {
                    expect(&s, '{');
                    while (member(&s, &any, &name)) {
                        if (!is_word(&name, "content"))
                            skip_value(&s, 0);
                        else if (!literal(&s, "null") && (said.at || peek(&s) != '"' || !string(&s, &said)))
                            fail(&s);
                    }
                } else {
                    skip_value(&s, 0);
                }
            }
            if (s.bad) return false;
            if (said.at && !index) text->size += unescape(&said, room_for(text, said.size));
        }
    }
    return at_end(&s);
}
