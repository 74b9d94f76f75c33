/* JSON, read strictly and only as far as it is plain. Whatever is not is left to Python, which decides what it means. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { DEEPEST = 64 };

/* A place in a text; `bad` once something was found that is not JSON, or not of the expected kind. */
struct scan {
    const char *at, *end;
    bool bad;
};

/* The inside of a string as it stands in the text; `escaped` when there is a backslash in it. */
struct word {
    const char *at;
    size_t size;
    bool escaped;
};

static bool is_word(const struct word *one, const char *text) {
    return !one->escaped && one->size == strlen(text) && !memcmp(one->at, text, one->size);
}

static bool fail(struct scan *s) {
    s->bad = true;
    return false;
}

static inline char peek(struct scan *s) {
    if (s->at < s->end && *s->at > ' ') return *s->at;
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t')) s->at++;
    return s->at < s->end ? *s->at : 0;
}

static bool next_is(struct scan *s, char wanted) {
    if (s->bad || peek(s) != wanted) return false;
    s->at++;
    return true;
}

static bool expect(struct scan *s, char wanted) { return next_is(s, wanted) || fail(s); }

static bool literal(struct scan *s, const char *text) {
    size_t size = strlen(text);
    peek(s);
    if (s->bad || (size_t)(s->end - s->at) < size || memcmp(s->at, text, size)) return false;
    s->at += size;
    return true;
}

static int hex4(const char *at) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Bytes of the UTF-8 sequence that begins here; 0 when it is none (RFC 3629). */
static int utf8(const unsigned char *at, size_t left) {
    unsigned char first = at[0];
    int size = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    if (!size || (size_t)size > left) return 0;
    for (int i = 1; i < size; i++)
        if ((at[i] & 0xC0) != 0x80) return 0;
    if (first == 0xE0 && at[1] < 0xA0) return 0;
    if (first == 0xED && at[1] > 0x9F) return 0;
    if (first == 0xF0 && at[1] < 0x90) return 0;
    if (first == 0xF4 && at[1] > 0x8F) return 0;
    return size;
}

/* Where an escape ends that begins here, behind the backslash; NULL when it is none. Half a surrogate pair is none. */
static const char *escape(const char *at, const char *end) {
    if (at >= end) return NULL;
    if (*at != 'u') return memchr("\"\\/bfnrt", *at, 8) ? at + 1 : NULL;
    if (end - at < 5) return NULL;
    int value = hex4(at + 1);
    if (value < 0 || (value >= 0xDC00 && value < 0xE000)) return NULL;
    if (value < 0xD800 || value >= 0xE000) return at + 5;
    if (end - at < 11 || at[5] != '\\' || at[6] != 'u') return NULL;
    value = hex4(at + 7);
    return value >= 0xDC00 && value < 0xE000 ? at + 11 : NULL;
}

static bool string(struct scan *s, struct word *found) {
    if (!expect(s, '"')) return false;
    const char *at = s->at, *end = s->end;
    found->at = at;
    found->escaped = false;
    while (at < end && *at != '"') {
        unsigned char c = (unsigned char)*at;
        if (c < 0x20) return fail(s);
        if (c == '\\') {
            found->escaped = true;
            at = escape(at + 1, end);
            if (!at) return fail(s);
        } else if (c < 0x80) {
            at++;
        } else {
            int size = utf8((const unsigned char *)at, (size_t)(end - at));
            if (!size) return fail(s);
            at += size;
        }
    }
    if (at >= end) return fail(s);
    found->size = (size_t)(at - found->at);
    s->at = at + 1;
    return true;
}

static char *put_utf8(char *to, int value) {
    if (value < 0x80) {
        *to++ = (char)value;
    } else if (value < 0x800) {
        *to++ = (char)(0xC0 | value >> 6);
        *to++ = (char)(0x80 | (value & 63));
    } else if (value < 0x10000) {
        *to++ = (char)(0xE0 | value >> 12);
        *to++ = (char)(0x80 | (value >> 6 & 63));
        *to++ = (char)(0x80 | (value & 63));
    } else {
        *to++ = (char)(0xF0 | value >> 18);
        *to++ = (char)(0x80 | (value >> 12 & 63));
        *to++ = (char)(0x80 | (value >> 6 & 63));
        *to++ = (char)(0x80 | (value & 63));
    }
    return to;
}

/* The text that a string stands for, into `to`, which has room for its size; returns how many bytes it is. */
static size_t unescape(const struct word *one, char *to) {
    if (!one->escaped) {
        if (one->size) memcpy(to, one->at, one->size);
        return one->size;
    }
    const char *at = one->at, *end = at + one->size;
    char *start = to;
    while (at < end) {
        if (*at != '\\') {
            *to++ = *at++;
            continue;
        }
        at++;
        if (*at != 'u') {
            static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
            *to++ = into[strchr(from, *at) - from];
            at++;
            continue;
        }
        int value = hex4(at + 1);
        at += 5;
        if (value >= 0xD800 && value < 0xDC00) {
            value = 0x10000 + ((value - 0xD800) << 10) + (hex4(at + 2) - 0xDC00);
            at += 6;
        }
        to = put_utf8(to, value);
    }
    return (size_t)(to - start);
}

static bool is_digit(const struct scan *s) { return s->at < s->end && *s->at >= '0' && *s->at <= '9'; }

/* A number by JSON's grammar; `whole` when it has neither fraction nor exponent. */
static bool number(struct scan *s, struct word *found, bool *whole) {
    peek(s);
    if (s->bad) return false;
    found->at = s->at;
    found->escaped = false;
    *whole = true;
    if (s->at < s->end && *s->at == '-') s->at++;
    if (!is_digit(s)) return fail(s);
    if (*s->at == '0')
        s->at++;
    else
        while (is_digit(s)) s->at++;
    if (s->at < s->end && *s->at == '.') {
        *whole = false;
        s->at++;
        if (!is_digit(s)) return fail(s);
        while (is_digit(s)) s->at++;
    }
    if (s->at < s->end && (*s->at | 32) == 'e') {
        *whole = false;
        s->at++;
        if (s->at < s->end && (*s->at == '+' || *s->at == '-')) s->at++;
        if (!is_digit(s)) return fail(s);
        while (is_digit(s)) s->at++;
    }
    found->size = (size_t)(s->at - found->at);
    return true;
}

/* A whole number of at most 18 digits. */
static bool integer(struct scan *s, int64_t *value) {
    struct word text;
    bool whole;
    if (!number(s, &text, &whole) || !whole || text.size > 18) return fail(s);
    bool minus = text.at[0] == '-';
    *value = 0;
    for (size_t i = minus; i < text.size; i++) *value = *value * 10 + (text.at[i] - '0');
    if (minus) *value = -*value;
    return true;
}

/* Whether another member of an object follows; then its name was read. `first` is true before the first one. */
static bool member(struct scan *s, bool *first, struct word *name) {
    if (s->bad || next_is(s, '}')) return false;
    if (!*first && !expect(s, ',')) return false;
    *first = false;
    return string(s, name) && expect(s, ':');
}

/* Whether another element of an array follows. */
static bool element(struct scan *s, bool *first) {
    if (s->bad || next_is(s, ']')) return false;
    if (!*first && !expect(s, ',')) return false;
    *first = false;
    return true;
}

static bool skip_value(struct scan *s, int depth) {
    struct word word;
    bool whole, first = true;
    char c = peek(s);
    if (s->bad || depth > DEEPEST) return fail(s);
    if (c == '"') return string(s, &word);
    if (c == '{') {
        s->at++;
        while (member(s, &first, &word)) skip_value(s, depth + 1);
    } else if (c == '[') {
        s->at++;
        while (element(s, &first)) skip_value(s, depth + 1);
    } else if (c == 'n' || c == 't' || c == 'f') {
        return literal(s, c == 'n' ? "null" : c == 't' ? "true" : "false") || fail(s);
    } else {
        return number(s, &word, &whole);
    }
    return !s->bad;
}

static bool at_end(struct scan *s) { return !s->bad && peek(s) == 0 && s->at == s->end; }
